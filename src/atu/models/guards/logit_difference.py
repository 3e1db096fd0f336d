"""ULD's guard: the logits of a small assistant, taken from the model's."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atu.models.build import build_lm
from atu.models.compute import device_of
from atu.models.guards.base import FOREIGN_CACHE, SEEN, Guard, by_name, cached_length, ids_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def logit_difference(logits: Tensor, assistant: Tensor, alpha: float, top: float) -> Tensor:
    """The model's logits z minus alpha (a - mean a), where p >= top * max p; p is softmax z.

    z = (2, 1, 0, -5), a = (4, 0, 0, 0), alpha = 1/2: mean a = 1, so without a filter (top = 0)
    (2 - 3/2, 1 + 1/2, 0 + 1/2, -5 + 1/2). p / max p = (1, .368, .135, .0009): with top = .2 the
    last two stay 0 and -5.

    Args:
        logits, assistant: [..., vocab], z and a.
        top: share of the largest probability below which a token keeps its logit; 0: none.
    """
    centred = assistant - assistant.mean(dim=-1, keepdim=True)
    if top > 0:
        below = logits < logits.amax(dim=-1, keepdim=True) + math.log(top)
        centred = centred.masked_fill(below, 0.0)
    return logits - alpha * centred


class LogitDifference(Guard):
    """Subtracts the logits of a small assistant from the model's (`logit_difference`).

    The assistant reads the same tokens. Its KV cache is kept on the model's cache.

    Settings: `config` of the assistant (with its `model_type`), `alpha`, `top`.
    """

    kind = "logit_difference"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.assistant = build_lm(settings["config"], 0).eval()

    @classmethod
    def of(cls, model: PreTrainedModel, layers: int, alpha: float, top: float) -> LogitDifference:
        """A guard whose assistant copies the model's embeddings, first layers, norm and head."""
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
        values = by_name(module, args, kwargs)
        ids = ids_of(values)
        cache = getattr(output, "past_key_values", None)
        past = getattr(cache, SEEN, None)
        before = max(cached_length(cache) - ids.shape[1], 0)
        if before == 0:
            past = None
        elif cached_length(past) != before:
            raise ValueError(FOREIGN_CACHE)
        passed = ("attention_mask", "position_ids", "logits_to_keep")
        with torch.no_grad():
            assistant = self.assistant(
                input_ids=ids,
                past_key_values=past,
                use_cache=cache is not None,
                **{name: values[name] for name in passed if values.get(name) is not None},
            )
        if cache is not None:
            setattr(cache, SEEN, assistant.past_key_values)
        alpha, top = self.settings["alpha"], self.settings["top"]
        output.logits = logit_difference(output.logits, assistant.logits, alpha, top)
        return output


def first_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The configuration with only the first decoder layers."""
    result = copy.deepcopy(config)
    result.num_hidden_layers = layers
    kinds = getattr(config, "layer_types", None)
    if kinds:
        result.layer_types = kinds[:layers]
    return result


GUARD = LogitDifference
