"""What decoder layers keep for the backward pass, and what they need on the way, in bytes.

It is counted tensor by tensor, as Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1) do for a
GPT layer in half precision: s b h (34 + 5 a s / h) bytes. Here the tensors are those that torch's
autograd saves for the families of this package: no attention matrices with sdpa, no input of a
linear layer whose weight is not trained, no masks without dropout. docs/memory.md has the list, and
a test compares the sum with what autograd saves, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atu.models.predictor import PredictorConfig
from atu.resources.shape import ModelShape

FLOAT = 4
"""Bytes of a float32: of gradients, optimizer states and logits in a loss, whatever the model's."""


@dataclass(frozen=True)
class Compute:
    """How numbers are held: the settings that memory depends on."""

    weights: Literal[2, 4]
    """Bytes of a stored weight."""
    activations: Literal[2, 4]
    """Bytes of what matrix products read and write; 2 with `weights` 4 is autocast."""
    attention: Literal["sdpa", "eager"]
    checkpointing: bool
    """Whether decoder layers are computed again in the backward pass."""
    device: Literal["cpu", "cuda"]

    @property
    def autocast(self) -> bool:
        """Whether weights are cast for every product."""
        return self.activations < self.weights


@dataclass(frozen=True)
class Family:
    """Which tensors a decoder layer's operators keep; docs/memory.md has the list."""

    rms: bool
    """RMSNorm in single operations: keeps its input in float32 and the normalised input."""
    parallel: bool
    """Attention and MLP read one residual, which is then kept once."""
    fused: bool
    """One projection gives queries, keys and values, and what reads a view keeps all three."""
    rotary: bool
    """Queries and keys are rotated, hence copies."""
    copied: bool
    """sdpa's output is copied before the output projection."""
    gated: bool
    """Two projections into the MLP instead of one."""
    activation: int
    """Tensors of the intermediate width that the activation keeps."""


LLAMA = Family(True, False, False, True, False, True, 3)
FAMILIES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "phi3": Family(True, False, True, True, True, True, 3),
    "gpt2": Family(False, False, True, False, False, False, 4),
    "gpt_neox": Family(False, True, True, True, True, False, 1),
}
"""By `model_type`."""


@dataclass(frozen=True)
class Texts:
    """A batch: how many texts, each padded to so many tokens."""

    rows: int
    tokens: int
    padded: bool = True
    """Whether an attention mask is given; sdpa then keeps one of [batch, seq, seq] per layer."""

    @property
    def count(self) -> int:
        """Tokens in all."""
        return self.rows * self.tokens


def layer_bytes(
    shape: ModelShape,
    compute: Compute,
    texts: Texts,
    *,
    trained: bool,
    rank: int = 0,
    dropping: bool = True,
) -> float:
    """What one decoder layer keeps of a batch for the backward pass.

    Args:
        trained: whether its weights are trained, not only passed through.
        rank: of LoRA's adapters; 0 without.
        dropping: whether the model is in training mode, so that its dropout is on.

    A Llama layer without grouped keys keeps per token, in floats, 6 hidden + 4 hidden + 4
    intermediate + heads + 2, and with a mask as many as there are tokens in a row.
    """
    per_token = (
        _norm_bytes(shape, compute, trained, rank)
        + _attention_bytes(shape, compute, texts, trained or rank > 0, dropping)
        + _mlp_bytes(shape, compute, trained or rank > 0, dropping)
        + rank * shape.linears * FLOAT
    )
    if rank and compute.weights < FLOAT:
        per_token += shape.inputs * (FLOAT - compute.activations)  # adapters read float32 copies
    return texts.count * per_token


def _norm_bytes(shape: ModelShape, compute: Compute, trained: bool, rank: int) -> float:
    """Both norms: inputs and statistics always; outputs, which linear layers read, where those are
    trained: once, with autocast a cast for each reader.
    """
    family = FAMILIES[shape.kind]
    residuals = 1 if family.parallel else 2
    if family.rms:
        kept = 2.0 * (shape.hidden + 1) * FLOAT
        # The product with the norm's weight keeps the normalised input, for that weight alone.
        kept += 2 * shape.hidden * compute.weights if trained else 0
    else:
        kept = residuals * shape.hidden * compute.weights + 4 * compute.weights
    if trained or rank:
        readers = (1 if family.fused else 3) + (2 if family.gated and not family.fused else 1)
        kept += (readers if compute.autocast else 2) * shape.hidden * compute.activations
    return kept


def _attention_bytes(
    shape: ModelShape, compute: Compute, texts: Texts, trained: bool, dropping: bool
) -> float:
    family, wide = FAMILIES[shape.kind], shape.queries
    dropout = shape.attention_dropout > 0 and dropping
    noise = shape.hidden if dropping and shape.residual_dropout else 0
    if compute.attention == "eager" or dropout:
        matrices = shape.heads * texts.tokens * FLOAT * (3 if dropout else 1)
        return (3 * wide + (wide if trained else 0) + noise) * compute.activations + matrices
    kept = wide + (wide if family.copied and trained else 0) + noise  # the output
    if shape.kv_heads < shape.heads and texts.padded:
        kept += 3 * wide  # grouped keys are repeated where there is a mask; else the kernel does it
    else:
        kept += wide + 2 * shape.keys
        if family.fused and family.rotary:
            kept += wide + shape.keys
    mask = texts.tokens if texts.padded else 0
    return (kept + mask) * compute.activations + shape.heads * FLOAT


def _mlp_bytes(shape: ModelShape, compute: Compute, trained: bool, dropping: bool) -> float:
    kept = (FAMILIES[shape.kind].activation + (1 if trained else 0)) * shape.intermediate
    noise = shape.hidden if dropping and shape.residual_dropout else 0
    return (kept + noise) * compute.activations


def work_bytes(shape: ModelShape, compute: Compute, texts: Texts) -> float:
    """What a layer holds on the way besides what it keeps, forward or backward: the residual and
    its norm, and the intermediate tensors of the MLP or those of attention.
    """
    residuals = 2 * shape.hidden * compute.weights
    return texts.count * residuals + _inside_bytes(shape, compute, texts)


def _inside_bytes(shape: ModelShape, compute: Compute, texts: Texts) -> float:
    """The tensors of the intermediate width at once, or queries, keys, values and output with the
    scores and their softmax, whichever is more.
    """
    mlp = max(3, FAMILIES[shape.kind].activation) * shape.intermediate
    attention = 4 * shape.queries
    if compute.attention == "eager":
        attention += 2 * shape.heads * texts.tokens
    return texts.count * max(mlp, attention) * compute.activations


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

    def count(self, shape: ModelShape) -> int:
        """Parameters to update."""
        each = self.rank * (shape.inputs + shape.outputs) if self.rank else shape.layer
        found = len(self.layers) * each + (shape.embedding if self.tables else 0)
        return found + (shape.head + shape.final if self.head else 0)


def stack_bytes(
    shape: ModelShape, compute: Compute, texts: Texts, trained: Trained, until: int, dropping: bool
) -> float:
    """What layers 0 .. `until` - 1 keep: those from the lowest trained one on."""
    lowest = 0 if trained.tables else min(trained.layers, default=until)
    passed = range(lowest, until)
    if compute.checkpointing:
        return len(passed) * texts.count * shape.hidden * compute.weights
    kept = 0.0
    for number in passed:
        own = number in trained.layers
        kept += layer_bytes(
            shape,
            compute,
            texts,
            trained=own and not trained.rank,
            rank=trained.rank if own else 0,
            dropping=dropping,
        )
    return kept + casts_bytes(shape, compute, len(passed))


def casts_bytes(shape: ModelShape, compute: Compute, layers: int) -> float:
    """Autocast's copies of the weights of so many layers, which the backward pass reads."""
    return layers * shape.matrices * compute.activations if compute.autocast else 0.0


def forward_bytes(shape: ModelShape, compute: Compute, texts: Texts) -> float:
    """What a forward pass without gradients holds at most before the head: the embedded tokens, the
    residuals and norms of a layer, and the intermediate tensors of its MLP or of attention.
    """
    residuals = texts.count * 5 * shape.hidden * compute.weights
    return residuals + _inside_bytes(shape, compute, texts) + casts_bytes(shape, compute, 1)


def predictor_bytes(config: PredictorConfig, texts: Texts, trained: bool) -> float:
    """What an embedding predictor and the cosine of what it predicts keep of a batch; frozen, it
    keeps no inputs of linear layers and drops nothing.

    In floats per token: of a causal layer 8 width + feedforward (frozen 6 width), of one that sees
    the future 15 width (frozen 11); with dropout also its masks and attention matrices.
    """
    attentions = 2 if config.sees_future else 1
    wide = (15 if trained else 11) if config.sees_future else (8 if trained else 6)
    norms = 6 if config.sees_future else 4
    dropped = config.dropout > 0 and trained
    per_layer = (wide + (6 if config.sees_future else 4) * dropped) * config.width + norms
    per_layer += (3 if dropped else 1) * config.feedforward
    per_layer += attentions * config.heads * (3 * texts.tokens if dropped else 1)
    ends = (config.input_dim + config.width + 2 * config.output_dim) if trained else 0
    return texts.count * FLOAT * (config.layers * per_layer + ends + config.output_dim)
