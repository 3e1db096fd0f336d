"""Expected peak memory of tensors, in bytes: pure functions of a model's shape. docs/memory.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from atu.models.predictor import EmbeddingPredictor, PredictorConfig
from atu.resources.saved import (
    FAMILIES,
    FLOAT,
    Compute,
    Texts,
    Trained,
    forward_bytes,
    layer_bytes,
    predictor_bytes,
    stack_bytes,
    work_bytes,
)
from atu.resources.shape import ModelShape


@dataclass(frozen=True)
class Plan:
    """What is in memory at one moment, by name, in bytes."""

    moment: str
    parts: tuple[tuple[str, int], ...]

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(size for _, size in self.parts)

    def part(self, name: str) -> int:
        """Bytes of one part; 0 where there is none."""
        return dict(self.parts).get(name, 0)


def plan(moment: str, *held: Mapping[str, float]) -> Plan:
    """A plan of these parts, of equal names the sum, without empty ones."""
    found: dict[str, float] = {}
    for parts in held:
        for name, size in parts.items():
            found[name] = found.get(name, 0) + size
    return Plan(moment, tuple((name, round(size)) for name, size in found.items() if size))


def fullest(plans: Iterable[Plan]) -> Plan:
    """The moment that needs most, the first of equals."""
    return max(plans, key=lambda found: found.peak)


SHARDED = ("weights", "reference", "copy", "adapters", "gradients", "optimizer", "update",
           "task vectors")  # fmt: skip
"""Parts that have the size of the parameters."""


def per_process(found: Plan, count: int, shape: ModelShape, compute: Compute) -> Plan:
    """The plan of one of `count` processes that hold the model in shards: its share of what is of
    the parameters' size, and beside it, whole and with their gradients, two layers (the one that
    computes and the next) and what belongs to no layer.
    """
    if count == 1:
        return found
    parts = {name: size / (count if name in SHARDED else 1) for name, size in found.parts}
    whole = shape.total - (shape.layers - 2) * shape.layer
    return plan(found.moment, parts, {"gathered": whole * (compute.weights + FLOAT)})


@dataclass(frozen=True)
class Graph:
    """One forward pass that a loss goes back through, in bytes."""

    saved: float
    """What the model keeps for the backward pass."""
    forward: float
    """Logits and the like at most, while the loss is computed."""
    kept: float
    """Of these, what the backward pass needs."""
    backward: float
    """Logits and the like at most, while it goes back through the loss."""
    work: float
    """One layer's own, while it goes back through the layers."""
    head: float = 0.0
    """Gradients that are there before it reaches the layers."""


@dataclass(frozen=True)
class Head:
    """Tensors of [batch, seq, vocab] in float32 that a loss has at most in the forward pass, keeps,
    and has at most in the backward pass.
    """

    forward: int
    kept: int
    backward: int


def head_graph(
    shape: ModelShape, compute: Compute, texts: Texts, trained: Trained, head: Head, dropping: bool
) -> Graph:
    """A pass through the whole model to logits and a loss on them."""
    logits = texts.count * shape.vocab * FLOAT
    saved = stack_bytes(shape, compute, texts, trained, shape.layers, dropping)
    norm = (3 if FAMILIES[shape.kind].rms else 2) * texts.count * shape.hidden * compute.weights
    return Graph(
        saved=saved + norm,
        forward=head.forward * logits,
        kept=head.kept * logits,
        backward=head.backward * logits,
        work=_going_back(shape, compute, texts),
        head=(shape.vocab * shape.hidden * FLOAT) if trained.head else 0.0,
    )


def hidden_graph(
    shape: ModelShape, compute: Compute, texts: Texts, trained: Trained, layer: int, dropping: bool
) -> Graph:
    """A pass to the hidden states at `layer` alone: no layer above, no logits."""
    saved = stack_bytes(shape, compute, texts, trained, layer, dropping)
    states = texts.count * shape.hidden * FLOAT
    work = _going_back(shape, compute, texts)
    return Graph(saved=saved + states, forward=2 * states, kept=0, backward=2 * states, work=work)


def _going_back(shape: ModelShape, compute: Compute, texts: Texts) -> float:
    """With checkpointing a layer is computed again before it goes back through it."""
    again = layer_bytes(shape, compute, texts, trained=True) if compute.checkpointing else 0.0
    return work_bytes(shape, compute, texts) + again


def optimizer_bytes(kind: str, count: int) -> int:
    """State after the first step: AdamW has two moments, Muon one, SGD without momentum none."""
    return {"adamw": 2, "muon": 1, "sgd": 0}[kind] * count * FLOAT


def step_plans(
    fixed: dict[str, float], graphs: Sequence[Graph], gradients: float, update: float
) -> list[Plan]:
    """The moments of a training step that can be its peak.

    All passes of a step are in memory before the backward pass begins with the last of them.

    Args:
        fixed: what stays through the step.
        gradients: of all that is trained.
        update: the optimizer's own, while it steps.
    """
    found = []
    for number, graph in enumerate(graphs):
        before = graphs[:number]
        held = {"activations": sum(g.saved for g in before), "logits": sum(g.kept for g in before)}
        own, last = {"activations": graph.saved}, number == len(graphs) - 1
        there = 0.0 if last else gradients
        found += [
            plan("forward", fixed, held, own, {"logits": graph.forward}),
            plan(
                "loss, backward", fixed, held, own,
                {"logits": graph.backward, "gradients": there},
            ),
            plan(
                "layers, backward", fixed, held, own,
                {"activations": graph.work, "gradients": max(there, graph.head)},
            ),
            plan(
                "end of backward", fixed, held,
                {"activations": graph.work, "gradients": gradients},
            ),
        ]  # fmt: skip
    found.append(plan("optimizer step", fixed, {"gradients": gradients, "update": update}))
    return found


def update_bytes(kind: str, compute: Compute, largest: int, count: int) -> int:
    """Temporaries of one optimizer step over `count` parameters.

    On a CPU parameters are stepped one by one: AdamW holds a square root, its quotient and the
    quotient before it, Muon as much in its iteration. On a GPU AdamW takes all roots at once.
    """
    if kind == "sgd":
        return 0
    if compute.device == "cuda":
        return count * FLOAT
    return 3 * min(largest, count) * FLOAT


def generation_plans(
    fixed: dict[str, float], shape: ModelShape, compute: Compute, texts: Texts, new: int
) -> list[Plan]:
    """Greedy answers of `new` tokens to a batch of prompts: reading them, and the last token.

    Logits are of one token per prompt; they are copied to float32 and looked through.
    """
    cached = 2 * shape.layers * shape.keys * compute.activations
    logits = 4 * texts.rows * shape.vocab * FLOAT
    whole = texts.rows * (texts.tokens + new)
    grown = whole * shape.keys * compute.activations  # a layer's keys are copied when they grow
    reading = {"activations": forward_bytes(shape, compute, texts)}
    cache = {"KV cache": texts.count * cached}
    return [
        plan("generation, prompt", fixed, cache, reading),
        plan(
            "generation, answer", fixed,
            {"KV cache": whole * cached, "activations": grown, "logits": logits},
        ),
    ]  # fmt: skip


def scoring_plans(
    fixed: dict[str, float], shape: ModelShape, compute: Compute, texts: Texts
) -> list[Plan]:
    """Teacher-forced scores of a batch: float32 logits, their absolute values, and three of their
    number in bytes while they are looked through for what is not finite.
    """
    logits = texts.count * shape.vocab * FLOAT
    lower = texts.count * shape.vocab * compute.activations if compute.activations < FLOAT else 0
    return [
        plan("scoring, layers", fixed, {"activations": forward_bytes(shape, compute, texts)}),
        plan("scoring, logits", fixed, {"logits": 2.75 * logits + lower}),
    ]


def predictor_size(config: PredictorConfig) -> int:
    """Parameters of an embedding predictor."""
    with torch.device("meta"):
        made = EmbeddingPredictor(config)
    return sum(parameter.numel() for parameter in made.parameters())


def predictor_graph(config: PredictorConfig, texts: Texts, trained: bool) -> Graph:
    """A pass through a predictor to a cosine; when it is trained, its input is a padded copy of
    cached hidden states, which it keeps.
    """
    states = texts.count * max(config.width, config.output_dim) * FLOAT
    wide = texts.count * (config.width + 2 * config.feedforward) * FLOAT
    saved = predictor_bytes(config, texts, trained)
    return Graph(saved=saved, forward=3 * states, kept=0, backward=2 * states, work=wide)


@dataclass(frozen=True)
class Corpus:
    """What alignment reads."""

    texts: Texts
    """How many there are, and tokens of the longest."""
    tokens: int
    """Of all, whose hidden states are cached."""
    windows: int
    """Distinct windows, each with an embedding."""


CACHE_ROWS = 64
"""Texts per batch when hidden states are cached."""


def alignment_plans(
    fixed: dict[str, float],
    shape: ModelShape,
    compute: Compute,
    config: PredictorConfig,
    corpus: Corpus,
    batch_tokens: int,
) -> list[Plan]:
    """Caching the frozen model's hidden states, then training a predictor on them with AdamW."""
    count = predictor_size(config)
    states = corpus.tokens * shape.hidden * compute.weights
    windows = corpus.windows * config.output_dim * FLOAT
    fixed = fixed | {"cached states": states, "windows": windows}
    rows = min(CACHE_ROWS, corpus.texts.rows)
    batch = Texts(max(1, batch_tokens // corpus.texts.tokens), corpus.texts.tokens)
    reading = {"activations": forward_bytes(shape, compute, Texts(rows, corpus.texts.tokens))}
    own = fixed | {
        "predictor": count * FLOAT,
        "optimizer": float(optimizer_bytes("adamw", count)),
    }
    largest = config.width * max(3 * config.width, config.feedforward, config.input_dim)
    update = update_bytes("adamw", compute, largest, count)
    graph = predictor_graph(config, batch, trained=True)
    return [plan("caching", fixed, reading), *step_plans(own, [graph], count * FLOAT, update)]
