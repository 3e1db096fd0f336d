"""A language model's sizes, read from its configuration; no weight is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from atu.models.folders import check_config
from atu.models.llm import decoder_layers, mlp_output, weight_matrix

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModelShape:
    """Numbers of parameters by part, and the widths that decide what a forward pass keeps."""

    kind: str
    """`model_type` of the configuration."""
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    """Tokens of a text at most."""
    embedding: int
    """Parameters of the tables of tokens and positions."""
    layer: int
    """Parameters of one decoder layer."""
    matrices: int
    """Of these, those of its linear layers' weights."""
    linears: int
    """Linear layers of one decoder layer."""
    inputs: int
    """Sum of these layers' input widths."""
    outputs: int
    """Sum of these layers' output widths."""
    head: int
    """Parameters of the output head; 0 where it is the table of tokens."""
    final: int
    """Parameters of the final norm."""
    attention_dropout: float
    residual_dropout: float

    @property
    def total(self) -> int:
        """All parameters, tied ones once."""
        return self.embedding + self.layers * self.layer + self.final + self.head

    @property
    def state(self) -> int:
        """Numbers in `state_dict()`, which names tied weights twice."""
        return self.total + (0 if self.head else self.vocab * self.hidden)

    @property
    def largest(self) -> int:
        """The largest single parameter: the table of tokens, or a matrix of a layer."""
        return self.hidden * max(self.vocab, 2 * self.intermediate)

    @property
    def queries(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all key heads together."""
        return self.kv_heads * self.head_dim


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape of the causal LM with these `transformers` config values, `model_type` among them.

    The model is built on torch's `meta` device, which has shapes and no memory, so that parameters
    are counted as they would be.

    Raises:
        ValueError: the configuration names code to load.
        TypeError: the architecture keeps its decoder layers elsewhere than those known.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(config)
    check_config(values)
    parsed = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(parsed)
    return _measure(model)


def _measure(model: PreTrainedModel) -> ModelShape:
    config, layers = model.config, decoder_layers(model)
    first = layers[0]
    linear = [m for m in first.modules() if isinstance(m, nn.Linear) or _is_conv(m)]
    sizes = [weight_matrix(module).shape for module in linear]
    tables = [m for m in model.base_model.modules() if isinstance(m, nn.Embedding)]
    embedding = sum(map(_count, tables))
    total, inside = _count(model), sum(map(_count, layers))
    head = model.get_output_embeddings()
    tied = head is None or any(head.weight is table.weight for table in tables)
    outside = 0 if tied else _count(head)
    heads = int(config.num_attention_heads)
    return ModelShape(
        kind=config.model_type,
        hidden=int(config.hidden_size),
        intermediate=int(weight_matrix(mlp_output(first)).shape[1]),
        layers=len(layers),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        vocab=int(config.vocab_size),
        context=int(config.max_position_embeddings),
        embedding=embedding,
        layer=_count(first),
        matrices=sum(math.prod(size) for size in sizes),
        linears=len(sizes),
        inputs=sum(size[1] for size in sizes),
        outputs=sum(size[0] for size in sizes),
        head=outside,
        final=total - inside - embedding - outside,
        attention_dropout=_dropout(config, "attn_pdrop", "attention_dropout"),
        residual_dropout=_dropout(config, "resid_pdrop", "hidden_dropout"),
    )


def _is_conv(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _dropout(config: Any, *names: str) -> float:
    """Families name their dropouts differently; what none of the names says is not dropped."""
    return float(next((getattr(config, name) for name in names if hasattr(config, name)), 0.0))
