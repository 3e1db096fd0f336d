"""ECO's guard: noise on the embeddings of texts about the target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atu.models.guards.base import FOREIGN_CACHE, SEEN, Guard, by_name, cached_length, ids_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class _Read:
    """The state of `EmbeddingNoise` after the tokens read so far."""

    length: int
    score: Tensor
    """[batch]; the classifier's logit."""
    flagged: Tensor
    """[batch]; whether the score exceeded the threshold at any token."""


class EmbeddingNoise(Guard):
    """Adds noise to the embeddings of a text from the token on at which it is about the target.

    A token's score is the classifier's logit on the tokens up to it, bias + sum of their weights. A
    text is flagged from the first token whose score exceeds the threshold's logit to its end. The
    decision is causal: it is the same whether a text is read at once or token by token, alone or in
    a batch, with padding on either side or none. Other texts are read unchanged. The noise is one
    standard normal vector per token id, times `scale`.

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
        values = by_name(module, args, kwargs)
        ids = ids_of(values)
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
        """Which tokens get noise, [batch, seq]; stores the state in `_read`."""
        limit = math.log(self.settings["threshold"]) - math.log1p(-self.settings["threshold"])
        score = self.score(ids, mask)
        already = torch.zeros_like(score[:, :1], dtype=torch.bool)
        before = cached_length(cache)
        if before:
            read = getattr(cache, SEEN, None)
            if read is None or read.length != before:
                raise ValueError(FOREIGN_CACHE)
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


GUARD = EmbeddingNoise
