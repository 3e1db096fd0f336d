"""Expected memory of the phases other than `unlearn`."""

from __future__ import annotations

from atu.models.predictor import PredictorConfig
from atu.resources.memory import (
    Corpus,
    Plan,
    alignment_plans,
    fullest,
    generation_plans,
    head_graph,
    optimizer_bytes,
    plan,
    scoring_plans,
    step_plans,
    update_bytes,
)
from atu.resources.planning import NLL, Lengths, everything
from atu.resources.saved import FLOAT, Compute, Texts, forward_bytes
from atu.resources.shape import ModelShape


def pretrain_plan(shape: ModelShape, compute: Compute, batch_tokens: int, tokens: int) -> Plan:
    """Muon on the matrices and AdamW on the rest; no mask is given."""
    texts = Texts(max(1, batch_tokens // tokens), tokens, padded=False)
    matrices = shape.layers * shape.matrices
    state = optimizer_bytes("muon", matrices) + optimizer_bytes("adamw", shape.total - matrices)
    held: dict[str, float] = {"weights": shape.total * FLOAT, "optimizer": state}
    graph = head_graph(shape, compute, texts, everything(shape), NLL, True)
    update = update_bytes("adamw", compute, shape.largest, shape.total)
    return fullest(step_plans(held, [graph], shape.total * FLOAT, update))


def align_plan(
    shape: ModelShape,
    compute: Compute,
    config: PredictorConfig,
    corpus: Corpus,
    batch_tokens: int,
) -> Plan:
    """One hook layer after another."""
    held: dict[str, float] = {"weights": shape.total * compute.weights}
    return fullest(alignment_plans(held, shape, compute, config, corpus, batch_tokens))


def evaluation_plan(
    shape: ModelShape, compute: Compute, rows: int, lengths: Lengths, new: int
) -> Plan:
    """Answers and teacher-forced scores."""
    held: dict[str, float] = {"weights": shape.total * compute.weights}
    scored = Texts(rows, max(lengths.forget, lengths.retain, lengths.prompt))
    answers = answering_plan(shape, compute, rows, lengths, new)
    return fullest([answers, *scoring_plans(held, shape, compute, scored)])


def answering_plan(
    shape: ModelShape, compute: Compute, rows: int, lengths: Lengths, new: int, copies: int = 1
) -> Plan:
    """Answers with `copies` of the model in memory."""
    held: dict[str, float] = {"weights": copies * shape.total * compute.weights}
    return fullest(generation_plans(held, shape, compute, Texts(rows, lengths.prompt), new))


def lens_plan(shape: ModelShape, compute: Compute, rows: int, lengths: Lengths) -> Plan:
    """All hidden states at once, then every layer's logits at the last token, and their stack."""
    texts = Texts(rows, lengths.prompt)
    held: dict[str, float] = {"weights": shape.total * compute.weights}
    states = (shape.layers + 1) * texts.count * shape.hidden * compute.weights
    reading = states + forward_bytes(shape, compute, texts)
    logits = 2 * shape.layers * rows * shape.vocab * FLOAT
    return fullest(
        [
            plan("lens, layers", held, {"activations": reading}),
            plan("lens, logits", held, {"activations": states, "logits": logits}),
        ]
    )


def fine_tuning_plan(
    shape: ModelShape, compute: Compute, texts: Texts, optimizer: str | None, copies: int
) -> Plan:
    """Gradients of the NLL over all weights: of relearning, which steps a copy, and, without an
    optimizer, of gradient norms.
    """
    count = shape.total
    held: dict[str, float] = {"weights": copies * count * compute.weights}
    graph = head_graph(shape, compute, texts, everything(shape), NLL, optimizer is not None)
    if optimizer is None:
        return fullest(step_plans(held, [graph], count * FLOAT, 0)[:-1])
    held["optimizer"] = optimizer_bytes(optimizer, count)
    update = update_bytes(optimizer, compute, shape.largest, count)
    return fullest(step_plans(held, [graph], count * FLOAT, update))
