"""Models with random weights, from `transformers` config values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from atu.models.folders import check_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_lm(config: Mapping[str, Any], seed: int) -> PreTrainedModel:
    """A randomly initialised causal LM in float32 from `transformers` config values.

    `config` holds `model_type` and that type's own keys.

    Raises:
        ValueError: it names code to load.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(config)
    check_config(values)
    parsed = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(parsed, dtype=torch.float32)
