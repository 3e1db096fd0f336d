"""Guards: what stands around a model and leaves its weights as they are.

A guard is the submodule `guard` of a loaded model and works through forward hooks. It is saved
beside the model, as `guard.json` and `guard.safetensors`; the model's own files are those of the
model without it. Hooks are bound methods of the guard, so that a copy of the model has a copy of
the guard. Nothing in a guard is trained with the model.

What a guard has read so far travels on the cache of the keys and values: one that follows a cache
must have seen it being filled. Beam search, which reorders caches, is not followed.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atu.errors import ArtifactError
from atu.models.build import build_lm
from atu.models.compute import device_of
from atu.results.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NAME = "guard"
SETTINGS_FILE, WEIGHTS_FILE = "guard.json", "guard.safetensors"
SEEN = "atu_guard"
"""The attribute of a cache that holds what the guard knows of the tokens in it."""

_FOREIGN_CACHE = "this cache was filled without the guard: run the prompt again"


class Guard(nn.Module):
    """Base of all guards: its construction takes `settings`, its tensors are its state dict."""

    kind: ClassVar[str]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = dict(settings)
        self._handles: list[RemovableHandle] = []

    def _hook(self, model: PreTrainedModel) -> list[RemovableHandle]:
        raise NotImplementedError

    def attach(self, model: PreTrainedModel) -> None:
        """Stand around `model` from now on.

        Raises:
            ValueError: it has a guard.
        """
        if guard_of(model) is not None:
            raise ValueError(f"the model has a guard already: {guard_of(model)}")
        self.requires_grad_(False).eval().to(device_of(model))
        model.add_module(NAME, self)
        self._handles = self._hook(model)

    def detach(self, model: PreTrainedModel) -> None:
        """Leave `model` as it was before."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        delattr(model, NAME)

    def train(self, mode: bool = True) -> Guard:
        """A guard is in eval mode, whatever its model is in."""
        return super().train(False)

    def save(self, folder: Path) -> None:
        """Write `guard.json` and `guard.safetensors`."""
        write_json(folder / SETTINGS_FILE, {"kind": self.kind, "settings": self.settings})
        save_model(self, str(folder / WEIGHTS_FILE))


def guard_of(model: nn.Module) -> Guard | None:
    """The model's guard, if it has one."""
    return getattr(model, NAME, None)


@contextlib.contextmanager
def unguarded(model: PreTrainedModel) -> Iterator[Guard | None]:
    """The model without its guard, which is given and put back on leaving."""
    guard = guard_of(model)
    if guard is None:
        yield None
        return
    guard.detach(model)
    try:
        yield guard
    finally:
        guard.attach(model)


def load_guard(folder: Path) -> Guard | None:
    """The guard that was saved in this folder, if there is one.

    Raises:
        ArtifactError: it is of a kind that is not known here, or its files are damaged.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    kinds = {kind.kind: kind for kind in (EmbeddingNoise, LogitDifference)}
    if not isinstance(content, dict) or set(content) != {"kind", "settings"}:
        raise ArtifactError(f"{path}: must hold `kind` and `settings`")
    if content["kind"] not in list(kinds):
        raise ArtifactError(
            f"{path}: unknown kind of guard {content['kind']!r}, not one of {sorted(kinds)}; "
            "load it with the version that wrote it"
        )
    guard = kinds[content["kind"]](content["settings"])
    load_model(guard, str(folder / WEIGHTS_FILE))
    return guard


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments, those by position named as well."""
    return dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs


def _input_ids(values: Mapping[str, Any]) -> Tensor:
    ids = values.get("input_ids")
    if ids is None:
        raise ValueError("a guarded model reads token ids, not embeddings")
    return ids


def _length(cache: Any) -> int:
    return 0 if cache is None else int(cache.get_seq_length())


@dataclass
class _Read:
    """What `EmbeddingNoise` knows of the tokens read so far."""

    length: int
    score: Tensor
    """[batch]; the classifier's logit."""
    flagged: Tensor
    """[batch]; whether it was above the threshold at any token."""


class EmbeddingNoise(Guard):
    """Adds noise to the embeddings of the tokens from which on a text is about the target.

    A token's score is the classifier's logit on the tokens up to it, bias + sum of their weights; a
    text is flagged from the first token at which the score exceeds the threshold's logit to its
    end. The decision is causal: it is the same whether a text is read at once or token by token,
    alone or in a batch, with padding on either side or none. Texts that are not flagged are read as
    they are. The noise is one standard normal vector per token id times `scale`.

    Settings: `vocab_size`, `hidden_size`, `seed` of the noise, `scale`, `threshold` (probability).
    """

    kind = "embedding_noise"
    weight: Tensor
    bias: Tensor
    noise: Tensor

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        vocab_size, hidden_size = settings["vocab_size"], settings["hidden_size"]
        rng = torch.Generator().manual_seed(settings["seed"])
        noise = torch.randn(vocab_size, hidden_size, generator=rng)
        self.register_buffer("weight", torch.zeros(vocab_size, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros((), dtype=torch.float64))
        self.register_buffer("noise", noise, persistent=False)
        self._read: _Read | None = None

    def _hook(self, model: PreTrainedModel) -> list[RemovableHandle]:
        base = model.base_model
        return [
            base.register_forward_pre_hook(self._before, with_kwargs=True),
            base.register_forward_hook(self._after),
        ]

    def score(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The classifier's logit on the tokens up to each one, [batch, seq].

        Args:
            ids: [batch, seq].
            mask: [batch, seq], 0 at padding, whose score is that of the token before.
        """
        weights = self.weight[ids]
        if mask is not None:
            weights = weights * mask
        return self.bias + weights.cumsum(dim=1)

    def _before(
        self, module: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        values = _by_name(module, args, kwargs)
        ids = _input_ids(values)
        mask = values.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask[:, -ids.shape[1] :]
        flagged = self._flag(ids, mask, values.get("past_key_values"))
        if not flagged.any():
            return None
        embedded = module.get_input_embeddings()(ids)
        noisy = embedded + self.settings["scale"] * self.noise[ids].to(embedded.dtype)
        values["inputs_embeds"] = torch.where(flagged[..., None], noisy, embedded)
        values["input_ids"] = None
        return (), values

    def _flag(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Which of the tokens get noise, [batch, seq]; remembers what was read."""
        limit = math.log(self.settings["threshold"]) - math.log1p(-self.settings["threshold"])
        score = self.score(ids, mask)
        already = torch.zeros_like(score[:, :1], dtype=torch.bool)
        before = _length(cache)
        if before:
            read = getattr(cache, SEEN, None)
            if read is None or read.length != before:
                raise ValueError(_FOREIGN_CACHE)
            score = score + (read.score - self.bias)[:, None]
            already = read.flagged[:, None]
        above = (score > limit) & mask.bool()
        flagged = (above.cumsum(dim=1) > 0) | already
        self._read = _Read(before + ids.shape[1], score[:, -1], flagged[:, -1])
        return flagged

    def _after(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            setattr(cache, SEEN, self._read)
        self._read = None


def logit_difference(logits: Tensor, assistant: Tensor, alpha: float, top: float) -> Tensor:
    """The model's logits z minus alpha (a - mean a), where p >= top * max p; p is softmax z.

    z = (2, 1, 0, -5), a = (4, 0, 0, 0), alpha = 1/2: mean a = 1, so without a filter (top = 0)
    (2 - 3/2, 1 + 1/2, 0 + 1/2, -5 + 1/2). p / max p = (1, .368, .135, .0009): with top = .2 the
    last two stay 0 and -5.

    Args:
        logits, assistant: [..., vocab], z and a.
        top: share of the largest probability below which a token keeps its logit; 0: none does.
    """
    centred = assistant - assistant.mean(dim=-1, keepdim=True)
    if top > 0:
        below = logits < logits.amax(dim=-1, keepdim=True) + math.log(top)
        centred = centred.masked_fill(below, 0.0)
    return logits - alpha * centred


class LogitDifference(Guard):
    """Subtracts the logits of a small assistant from the model's (`logit_difference`).

    The assistant reads what the model reads. With a cache, it keeps its own on the model's.

    Settings: `config` of the assistant (with its `model_type`), `alpha`, `top`.
    """

    kind = "logit_difference"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.assistant = build_lm(settings["config"], 0).eval()

    @classmethod
    def of(cls, model: PreTrainedModel, layers: int, alpha: float, top: float) -> LogitDifference:
        """Whose assistant is a copy of the model's embeddings, first layers, norm and head."""
        config = first_layers(model.config, layers)
        guard = cls({"config": config.to_dict(), "alpha": alpha, "top": top})
        missing = guard.assistant.load_state_dict(model.state_dict(), strict=False).missing_keys
        if missing:
            raise TypeError(f"{type(model).__name__} has no {', '.join(missing)} to copy")
        return guard.to(device_of(model))

    def _hook(self, model: PreTrainedModel) -> list[RemovableHandle]:
        return [model.register_forward_hook(self._after, with_kwargs=True)]

    def _after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        values = _by_name(module, args, kwargs)
        ids = _input_ids(values)
        cache = getattr(output, "past_key_values", None)
        own = getattr(cache, SEEN, None)
        before = max(_length(cache) - ids.shape[1], 0)
        if before == 0:
            own = None
        elif _length(own) != before:
            raise ValueError(_FOREIGN_CACHE)
        passed = ("attention_mask", "position_ids", "logits_to_keep")
        with torch.no_grad():
            found = self.assistant(
                input_ids=ids,
                past_key_values=own,
                use_cache=cache is not None,
                **{name: values[name] for name in passed if values.get(name) is not None},
            )
        if cache is not None:
            setattr(cache, SEEN, found.past_key_values)
        alpha, top = self.settings["alpha"], self.settings["top"]
        output.logits = logit_difference(output.logits, found.logits, alpha, top)
        return output


def first_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The same configuration with fewer decoder layers."""
    result = copy.deepcopy(config)
    result.num_hidden_layers = layers
    kinds = getattr(config, "layer_types", None)
    if kinds:
        result.layer_types = kinds[:layers]
    return result
