"""A language model's sizes, read from its configuration; no weight is made."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from atu.models.folders import check_config
from atu.models.llm import decoder_layers, mlp_output, weight_matrix
from atu.models.trainable import All, BelowHook, Layers, MlpOutput, Trainable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModelShape:
    """The widths that decide what a forward pass costs."""

    hidden: int
    layers: int
    queries: int
    """Width of all heads of a layer together."""
    vocab: int
    matrices: int
    """Weights of a decoder layer's linear layers."""
    mlp_output: int
    """Weights of its MLP's output projection, which are among them; 0 if it is in an unknown place.
    """
    inputs: int
    """Sum of these layers' input widths."""
    outputs: int
    """Sum of these layers' output widths."""
    tied: bool
    """Whether the output head is the embedding table."""


@dataclass(frozen=True)
class Trained:
    """Which parameters are updated."""

    layers: frozenset[int]
    """Decoder layers, by number from 0; with `rank`, their adapters."""
    tables: bool
    """The embeddings."""
    head: bool
    """Final norm and output head."""
    rank: int = 0
    """Of LoRA's adapters; 0 without."""
    mlp_output: bool = False
    """Whether only the MLP output projections of these layers are trained."""


def empty_lm(config: Mapping[str, Any]) -> PreTrainedModel:
    """The causal LM with these `transformers` config values, `model_type` among them, on torch's
    `meta` device, where parameters have shapes and no memory.

    Raises:
        ValueError: the configuration names code to load, or an architecture that is not known.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(config)
    check_config(values)
    parsed = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(parsed)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape of the causal LM with these `transformers` config values.

    Raises:
        ValueError: as `empty_lm`.
        TypeError: the architecture's decoder layers are in an unknown place.
    """
    model = empty_lm(config)
    parsed, layers = model.config, decoder_layers(model)
    linear = [m for m in layers[0].modules() if isinstance(m, nn.Linear) or _is_conv(m)]
    sizes = [weight_matrix(module).shape for module in linear]
    heads = int(parsed.num_attention_heads)
    head, tables = model.get_output_embeddings(), model.get_input_embeddings()
    return ModelShape(
        hidden=int(parsed.hidden_size),
        layers=len(layers),
        queries=heads * int(getattr(parsed, "head_dim", None) or parsed.hidden_size // heads),
        vocab=int(parsed.vocab_size),
        matrices=sum(math.prod(size) for size in sizes),
        mlp_output=_mlp_output_size(layers[0]),
        inputs=sum(size[1] for size in sizes),
        outputs=sum(size[0] for size in sizes),
        tied=head is None or head.weight is tables.weight,
    )


def _mlp_output_size(layer: nn.Module) -> int:
    with contextlib.suppress(TypeError):
        return weight_matrix(mlp_output(layer)).numel()
    return 0


def _is_conv(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def trained_by(choice: Trainable, shape: ModelShape, hook: int) -> Trained:
    """The parameters that a `train` choice updates; a tied head counts as a table."""
    every = frozenset(range(shape.layers))
    if isinstance(choice, All):
        return Trained(every, tables=True, head=True)
    if isinstance(choice, BelowHook):
        return Trained(frozenset(range(hook)), tables=True, head=False)
    if isinstance(choice, Layers):
        part = isinstance(choice, MlpOutput)
        return Trained(frozenset(choice.layers), tables=False, head=False, mlp_output=part)
    return Trained(every, tables=False, head=False, rank=choice.rank)
