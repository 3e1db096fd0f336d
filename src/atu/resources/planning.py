"""The moments of every phase's job, by its settings: what its peak is expected to be.

Losses are known by how many tensors of the size of the logits they hold; docs/memory.md has the
measurements. A method that is not listed is taken for the largest of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from atu import methods
from atu.methods.base import wants_reference
from atu.models.predictor import PredictorConfig
from atu.models.trainable import All, BelowHook, Layers, Trainable
from atu.resources.memory import (
    Corpus,
    Graph,
    Head,
    Plan,
    alignment_plans,
    fullest,
    generation_plans,
    head_graph,
    hidden_graph,
    optimizer_bytes,
    per_process,
    plan,
    predictor_graph,
    predictor_size,
    scoring_plans,
    step_plans,
    update_bytes,
)
from atu.resources.saved import FLOAT, Compute, Texts, Trained
from atu.resources.shape import ModelShape

NLL, NPO = Head(3, 1, 3), Head(4, 1, 3)
DISTILLATION = Head(7, 2, 3)
LOSSES = {
    "ga": (NLL,), "simnpo": (NLL,), "rt": (NLL,), "npo": (NPO,), "dpo": (NLL, NLL),
    "flat": (NLL, NLL), "undial": (DISTILLATION,), "whp": (DISTILLATION,),
}  # fmt: skip
"""Passes of the forget loss and what each does with its logits."""
RETAIN = {
    ("nll",): NLL, ("kl",): DISTILLATION, ("states",): Head(2, 0, 0), ("nll", "kl"): Head(8, 3, 4),
    ("nll", "states"): NLL, ("kl", "states"): DISTILLATION, ("nll", "kl", "states"): Head(8, 3, 4),
}  # fmt: skip
"""By the terms that have a weight."""
UNIFORM = Head(2, 1, 3)
ANSWER_ROWS, ANSWER_TOKENS = 128, 16
"""Prompts per batch and new tokens at a point of the trajectory."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest texts, and how many prompts are asked on the way."""

    forget: int
    retain: int
    prompt: int
    probes: int


@dataclass(frozen=True)
class Alignment:
    """The predictors of a method and what they are aligned on."""

    predictors: Mapping[int, PredictorConfig]
    """By hook layer."""
    corpus: Corpus
    batch_tokens: int


def everything(shape: ModelShape) -> Trained:
    """All parameters."""
    return Trained(frozenset(range(shape.layers)), tables=True, head=True)


def trained_by(choice: Trainable, shape: ModelShape, hook: int) -> Trained:
    """What a `train` choice updates; tied heads are tables."""
    if isinstance(choice, All):
        return everything(shape)
    if isinstance(choice, BelowHook):
        return Trained(frozenset(range(hook)), tables=True, head=False)
    if isinstance(choice, Layers):
        return Trained(frozenset(choice.layers), tables=False, head=False)
    return Trained(frozenset(range(shape.layers)), tables=False, head=False, rank=choice.rank)


def unlearn_plan(
    shape: ModelShape,
    compute: Compute,
    settings: Any,
    keep_best: bool,
    lengths: Lengths,
    alignment: Alignment | None,
    processes: int = 1,
) -> Plan:
    """The fullest moment of a method's run; of a search's trials too.

    Args:
        processes: that share the model and every batch; the plan is that of one of them.
    """
    if processes > 1:
        settings = replace(settings, batch_size=-(-settings.batch_size // processes))
    method = methods.get(settings.loss)
    weights = shape.total * compute.weights
    held: dict[str, float] = {"weights": weights}
    if wants_reference(method, settings):
        held["reference"] = weights
    state = shape.state * compute.weights
    if keep_best and (method.stages is not None or method.forget_loss is not None):
        held["best state"] = state
    asked = Texts(min(ANSWER_ROWS, lengths.probes), lengths.prompt)
    if alignment is not None:
        sizes = [predictor_size(config) for config in alignment.predictors.values()]
        held["predictors"] = sum(sizes) * FLOAT
    found, after = _training(shape, compute, settings, held, lengths, alignment)
    found += generation_plans(after, shape, compute, asked, ANSWER_TOKENS)
    if held.get("best state"):
        found.append(plan("new best state", after, {"best state": state}))
    if alignment is not None and bool(getattr(settings, "realign_steps", False)):
        for config in alignment.predictors.values():
            found += alignment_plans(
                after, shape, compute, config, alignment.corpus, alignment.batch_tokens
            )
    return fullest(per_process(one, processes, shape, compute) for one in found)


def _training(
    shape: ModelShape,
    compute: Compute,
    settings: Any,
    held: dict[str, float],
    lengths: Lengths,
    alignment: Alignment | None,
) -> tuple[list[Plan], dict[str, float]]:
    """The moments of the steps, and what stays between them."""
    if settings.loss == "uld":
        return _assistant(shape, compute, settings, held, lengths)
    if not hasattr(settings, "train"):
        return _editing(shape, compute, settings, held, lengths)
    hook = max(alignment.predictors, default=0) if alignment else 0
    trained = trained_by(settings.train, shape, hook)
    count, each = trained.count(shape), FLOAT if trained.rank else compute.weights
    if trained.rank:
        held = held | {"adapters": count * each}
    copied: dict[str, float] = {}
    found: list[Plan] = []
    if settings.loss in ("whp", "task_vector"):
        copied = {
            "copy": shape.total * compute.weights,
            "optimizer": optimizer_bytes(settings.optimizer, count),
        }
        forget = Texts(settings.batch_size, lengths.forget)
        graphs = [head_graph(shape, compute, forget, trained, NLL, True)]
        update = update_bytes(settings.optimizer, compute, shape.largest, count)
        found += step_plans(held | copied, graphs, count * each, update)
    if settings.loss == "task_vector":
        edited = {"task vectors": 2.0 * count * each}
        return [*found, plan("negation", held, copied, edited)], held | copied
    graphs = _graphs(shape, compute, settings, trained, lengths, alignment)
    own = optimizer_bytes(settings.optimizer, count) * each // FLOAT
    after = held | copied | {"optimizer": own + copied.get("optimizer", 0)}
    update = update_bytes(settings.optimizer, compute, shape.largest, count)
    found += step_plans(after, graphs, count * each, update)
    if settings.wrapper == "mudman":
        found.append(_masking(after, graphs, count * each))
    return found, after


def _graphs(
    shape: ModelShape,
    compute: Compute,
    settings: Any,
    trained: Trained,
    lengths: Lengths,
    alignment: Alignment | None,
) -> list[Graph]:
    """The passes of one step, in their order: the forget loss's, then the retain terms'."""
    forget, retain = (
        Texts(settings.batch_size, tokens) for tokens in (lengths.forget, lengths.retain)
    )
    if settings.loss == "atu":
        assert alignment is not None
        graphs = [_hinge(shape, compute, forget, trained, alignment)]
    elif settings.loss == "rmu":
        passes = [forget, *([retain] if settings.alpha else [])]
        graphs = [hidden_graph(shape, compute, t, trained, settings.layer, True) for t in passes]
    else:
        heads = LOSSES.get(settings.loss, (DISTILLATION,))
        graphs = [head_graph(shape, compute, forget, trained, head, True) for head in heads]
    terms = tuple(settings.retain.weights())
    if terms:
        graph = head_graph(shape, compute, retain, trained, RETAIN[terms], True)
        if settings.retain.states:
            # The reference's hidden states are all there until the one that is wanted is taken.
            every = shape.layers * retain.count * shape.hidden * compute.weights
            graph = replace(graph, forward=graph.forward + every)
        graphs.append(graph)
    return graphs


def _hinge(
    shape: ModelShape, compute: Compute, texts: Texts, trained: Trained, alignment: Alignment
) -> Graph:
    """To the highest hook layer and through every predictor, which is frozen."""
    layers = alignment.predictors
    below = hidden_graph(shape, compute, texts, trained, max(layers), True)
    through = [predictor_graph(config, texts, trained=False) for config in layers.values()]
    return replace(
        below,
        saved=below.saved + sum(graph.saved for graph in through),
        forward=max(graph.forward for graph in through),
        backward=max(graph.backward + graph.work for graph in through),
    )


def _masking(after: dict[str, float], graphs: list[Graph], gradients: float) -> Plan:
    """MUDMAN keeps every pass while it holds both gradients, the masked and the normalised."""
    kept = {
        "activations": sum(graph.saved for graph in graphs),
        "logits": sum(graph.kept for graph in graphs),
        "gradients": 4 * gradients,
    }
    return plan("masking", after, kept)


def _assistant(
    shape: ModelShape, compute: Compute, settings: Any, held: dict[str, float], lengths: Lengths
) -> tuple[list[Plan], dict[str, float]]:
    """ULD trains a copy of the first layers, with embeddings and head of its own."""
    small = replace(shape, layers=settings.layers)
    count, trained = small.total, everything(small)
    texts = [Texts(settings.batch_size, n) for n in (lengths.forget, lengths.retain)]
    graphs = [
        head_graph(small, compute, batch, trained, head, False)
        for batch, head in zip(texts, (NLL, UNIFORM), strict=True)
    ]
    after = held | {
        "copy": count * compute.weights,
        "optimizer": optimizer_bytes(settings.optimizer, count),
    }
    update = update_bytes(settings.optimizer, compute, small.largest, count)
    return step_plans(after, graphs, count * FLOAT, update), after


def _editing(
    shape: ModelShape, compute: Compute, settings: Any, held: dict[str, float], lengths: Lengths
) -> tuple[list[Plan], dict[str, float]]:
    """What is left: LUNAR trains one projection, ROCR solves for one; the others edit nothing."""
    rows = getattr(settings, "batch_size", 1)
    texts = Texts(rows, max(lengths.forget, lengths.retain))
    matrix = shape.hidden * shape.intermediate * FLOAT
    if settings.loss == "lunar":
        after = held | {
            "copy": matrix,
            "optimizer": optimizer_bytes(settings.optimizer, matrix // 4),
        }
        read = 2 * texts.count * (shape.intermediate + 3 * shape.hidden) * FLOAT
        update = 3 * matrix + read
        return [plan("projection", after, {"gradients": matrix, "activations": update})], after
    if settings.loss == "rocr":
        # C, its running sum and its solution are in float64.
        moments = 3 * shape.intermediate**2 * 2 * FLOAT
        reading = scoring_plans(held, shape, compute, texts)[0]
        return [reading, plan("key moments", held, {"moments": moments})], held
    return [], held
