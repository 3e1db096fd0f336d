"""A fresh predictor: is the concept gone from the hidden states, or only from ATU's own predictor?

ATU optimises against its own predictor E; hiding the concept in E's blind spot is not forgetting.
Here the unlearned model is frozen and new predictors are aligned with it, with another seed, at the
hook layer and at others. Per held-out question about the target: the mean cosine of the predicted
embeddings to the concept, and the rank of the target's name among all names after what is predicted
for everybody has been subtracted. Questions about other people are the control: the score of the
target's name when the question is about somebody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from atu.alignment.loop import cache_hidden_states, evaluate_alignment, train_predictor
from atu.attacks.base import Attack, AttackContext, Column, Result, Row, item
from atu.errors import EvaluationError
from atu.inference.batching import map_in_batches
from atu.inference.finite import require_finite_states
from atu.metrics.internals import mean_concept_cosine, reciprocal_rank
from atu.models.chat import prompt_ids
from atu.models.compute import device_of
from atu.models.llm import decoder_layers, frozen, hidden_states
from atu.models.predictor import EmbeddingPredictor, build_predictor
from atu.seeding import child_seed
from atu.training.batches import right_padded
from atu.training.keeper import Keeper, Trace
from atu.untrusted.bounds import STRICT, Count


@dataclass(frozen=True)
class Settings:
    """Where and how long new predictors are aligned."""

    __pydantic_config__ = STRICT

    attack: Literal["fresh_predictor"]
    layers: list[Count]
    """`hidden_states` indices; the method's own hook layer should be among them."""
    steps: Count


def run(context: AttackContext) -> Result:
    """Cosine and retrieval rank per question, for a predictor at every layer."""
    if context.alignment is None:
        raise EvaluationError("fresh_predictor: needs the embed and align folders")
    result = Result(items=[])
    probes = context.questions("target", "other")
    for layer in context.settings.layers:
        predictor, scores = fresh(context, layer)
        result.metrics |= {f"layer {layer}.{name}": value for name, value in scores.items()}
        predicted = predict(context, predictor, probes, layer)
        usual = usual_prediction(probes, predicted)
        for probe, embeddings in zip(probes, predicted, strict=True):
            result.items += _items(context, probe, embeddings, usual, layer)
    return result


def usual_prediction(probes: Sequence[Row], predicted: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over questions about other people of the mean predicted embedding, [dim].

    A predictor that has learned little predicts nearly the same everywhere, close to the concept
    that it was trained on most. Unless this part is subtracted, the target's name ranks first in
    any model.

    Raises:
        EvaluationError: no question about other people.
    """
    means = [e.mean(axis=0) for p, e in zip(probes, predicted, strict=True) if p["role"] == "other"]
    if not means:
        raise EvaluationError("fresh_predictor: needs questions about other people to compare with")
    return np.mean(means, axis=0)


def fresh(context: AttackContext, layer: int) -> tuple[EmbeddingPredictor, dict[str, float]]:
    """A predictor aligned from scratch at one layer of the given model, and its skill."""
    alignment = context.alignment
    assert alignment is not None
    if not 1 <= layer < len(decoder_layers(context.model)):
        raise EvaluationError(
            f"fresh_predictor: layer {layer} is not in 1..{len(decoder_layers(context.model)) - 1}"
        )
    seed = child_seed(context.seed, "fresh", str(layer)) % 2**31
    config = replace(alignment.config, input_dim=context.model.config.hidden_size)
    predictor = build_predictor(config, seed).to(device_of(context.model))
    states = cache_hidden_states(context.model, alignment.data, layer)
    texts = range(len(alignment.data))
    params = alignment.params | {"steps": context.settings.steps}
    label = f"fresh predictor at layer {layer}"
    keeper = Keeper(None, Trace())
    train_predictor(
        predictor, alignment.data, states, texts, params, seed=seed, label=label, keeper=keeper
    )
    return predictor, evaluate_alignment(predictor, alignment.data, states, texts, texts)


@torch.no_grad()
def predict(
    context: AttackContext, predictor: EmbeddingPredictor, probes: list[Row], layer: int
) -> list[np.ndarray]:
    """Per probe the predicted embeddings at every token of its prompt, [tokens, dim] each."""
    encoded = prompt_ids(context.tokenizer, [probe["prompt"] for probe in probes])
    pad = context.tokenizer.pad_token_id

    def work(chosen: list[int]) -> list[np.ndarray]:
        rows = [encoded[i] for i in chosen]
        ids, mask = right_padded(rows, pad, device_of(context.model))
        with frozen(context.model):
            states = hidden_states(context.model, ids, mask, layer)
            named = [f"fresh predictor at layer {layer}, item {i}" for i in chosen]
            require_finite_states(context.model, states, rows, named)
            embedded = predictor(states)
        return [e[: len(row)].cpu().numpy() for e, row in zip(embedded, rows, strict=True)]

    return map_in_batches(work, [len(row) for row in encoded], context.batch_size, "predict")


def _items(
    context: AttackContext, probe: Row, predicted: np.ndarray, usual: np.ndarray, layer: int
) -> list[Row]:
    alignment = context.alignment
    assert alignment is not None
    names = alignment.embeddings.numpy()
    cosine = mean_concept_cosine(predicted, names[0])
    rows = [item(probe, f"layer {layer}: cosine", mean_concept_cosine.id, cosine)]
    rank = reciprocal_rank(predicted - usual, names - names.mean(axis=0), 0)
    return [*rows, item(probe, f"layer {layer}: name rank", reciprocal_rank.id, rank)]


def columns(settings: Settings) -> list[Column]:
    """Rank of the target's name and cosine to the concept; others' cosine is the control."""
    shown = []
    for layer in settings.layers:
        cosine, rank = f"layer {layer}: cosine", f"layer {layer}: name rank"
        shown += [
            Column(f"fresh predictor, layer {layer}: the name (1/rank)", (rank,)),
            Column(
                f"fresh predictor, layer {layer}: others’ names (1/rank)",
                (rank,),
                "other",
                control=True,
                baseline=True,
            ),
            Column(f"fresh predictor, layer {layer}: cosine", (cosine,)),
            Column(
                f"fresh predictor, layer {layer}: cosine, others",
                (cosine,),
                "other",
                control=True,
                baseline=True,
            ),
        ]
    return shown


ATTACK = Attack(Settings, run, columns, needs_alignment=True, noun="a fresh predictor")
