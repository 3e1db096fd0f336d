"""Unlearning depth: in how many layers is the answer gone, measured by what the original loses?

After UDS (Lee et al., arXiv 2605.24614). The original reads a question with its gold answer, and
at one layer gets the hidden states of another model at the positions that predict the answer.
By how much the answer's log-probability falls says what that layer of the other model lacks. The
oracle's states show which layers hold the answer, and how much of it; the unlearned model is
measured against that, layer by layer (`metrics/internals.py`, `unlearning_depth`). Methods that
block an answer in the last layers only have a depth near 0 although they answer nothing.

Four differences. The paper scores the entity in an answer, by hand-made annotations of TOFU; here
all tokens of the answer are scored, which in the embedded world is the entity, and in TOFU a
sentence. It leaves out questions by hand; here those are left out whose answer the original does
not know. Prompts are the probes' own. And what is patched in the last layer is what that layer
returns; the official code patches what the final norm makes of it, which is normed again.

Without the original or an oracle there is nothing to patch into and nothing to divide by. The paper
has no other reference: a depth against some layer-wise constant would not be its score. The items
are then listed without a score, and the line is INVALID.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from atu.attacks.base import Attack, AttackContext, Column, Result, Row, item
from atu.errors import EvaluationError
from atu.inference.batching import map_in_batches
from atu.inference.finite import failing_layer, require_finite, require_finite_states
from atu.inference.generation import mode, no_gradients
from atu.metrics.internals import unlearning_depth
from atu.models.compute import device_of
from atu.models.llm import decoder_layers, logits_at, require_room
from atu.models.patching import patched, states_at
from atu.probes.prompts import join_answer
from atu.training.batches import IGNORE, Batch, EncodedText, collate, encode_text, following
from atu.untrusted.bounds import STRICT, Fraction, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PATCHED = "patched into the original"


@dataclass(frozen=True)
class Settings:
    """Which layers and which questions count."""

    __pydantic_config__ = STRICT

    attack: Literal["depth"]
    threshold: Positive
    """A layer holds an answer if the oracle's states cost more than this, in nats per token."""
    known: Fraction
    """The original knows an answer if it gives its tokens this probability, as a geometric mean."""


@dataclass(frozen=True)
class Traced:
    """One question: what the original gives the answer, and what it loses at every layer."""

    log_prob: float
    """Mean over the answer's tokens, in nats."""
    reference: list[float]
    """Lost with the oracle's states, per layer."""
    drops: list[float]
    """Lost with the unlearned model's."""


def run(context: AttackContext) -> Result:
    """The depth of every held-out question about the target whose answer the original knows and
    some layer holds; which these are depends on no method.
    """
    probes = context.questions("target")
    if context.original is None or context.oracle is None:
        return Result([item(probe, PATCHED, unlearning_depth.id, None) for probe in probes])
    settings = context.settings
    result = Result([], {"unknown": 0.0, "held_by_no_layer": 0.0}, {"layers": []})
    for probe, found in zip(probes, trace(context, probes), strict=True):
        depth = unlearning_depth(found.reference, found.drops, settings.threshold)
        if settings.known and found.log_prob < math.log(settings.known):
            result.metrics["unknown"] += 1
        elif depth is None:
            result.metrics["held_by_no_layer"] += 1
        else:
            result.items.append(item(probe, PATCHED, unlearning_depth.id, depth))
        result.tables["layers"] += [
            {"id": probe["id"], "layer": number, "reference": reference, "drop": drop}
            for number, (reference, drop) in enumerate(
                zip(found.reference, found.drops, strict=True), 1
            )
        ]
    if not result.items:  # a line that says nothing, not one that is not there
        result.items = [item(probe, PATCHED, unlearning_depth.id, None) for probe in probes]
    return result


def trace(context: AttackContext, probes: Sequence[Row]) -> list[Traced]:
    """Every question with the original's states replaced at one layer after the other.

    Raises:
        EvaluationError: the models have different numbers of layers, or a hidden state or a logit
            is not finite.
        LengthError: a question with its answer does not fit the context.
    """
    original, oracle, model = context.original, context.oracle, context.model
    assert original is not None and oracle is not None
    counts = [len(decoder_layers(one)) for one in (original, oracle, model)]
    if len(set(counts)) > 1:
        raise EvaluationError(
            f"depth: original, oracle and model have {', '.join(map(str, counts))} layers; they "
            "must be of one architecture"
        )
    texts = [
        encode_text(
            context.tokenizer, join_answer(p["prompt"], p["answer"]), p["prompt"], end=False
        )
        for p in probes
    ]
    require_room(original, [text.ids for text in texts], [p["prompt"] for p in probes])

    def work(chosen: list[int]) -> list[Traced]:
        return _traced(context, [texts[i] for i in chosen], [f"depth, item {i}" for i in chosen])

    with ExitStack() as stack:
        stack.enter_context(no_gradients())
        for one in (original, oracle, model):
            stack.enter_context(mode(one, True))
        return map_in_batches(work, [len(t.ids) for t in texts], context.batch_size, "depth")


def _traced(
    context: AttackContext, texts: Sequence[EncodedText], names: Sequence[str]
) -> list[Traced]:
    original, oracle = context.original, context.oracle
    assert original is not None and oracle is not None
    batch = collate(texts, context.tokenizer.pad_token_id, device=device_of(original))
    rows = [text.ids for text in texts]
    clean = answer_log_probs(original, batch)
    require_finite(
        clean[:, None], names, lambda n: failing_layer(original, rows[n]), "a log-probability"
    )
    lost = []
    for source in (oracle, context.model):
        indices = range(1, len(decoder_layers(source)) + 1)
        states = states_at(source, batch.input_ids, batch.attention_mask, indices)
        for layer in states.values():
            require_finite_states(source, layer, rows, names)
        after = [_patched(original, batch, number, layer) for number, layer in states.items()]
        lost.append(clean[:, None] - torch.stack(after, dim=1))
        require_finite(lost[-1], names, what="a log-probability with patched states")
    return [
        Traced(before, reference, drops)
        for before, reference, drops in zip(
            clean.tolist(), *(side.tolist() for side in lost), strict=True
        )
    ]


def _patched(original: PreTrainedModel, batch: Batch, index: int, states: Tensor) -> Tensor:
    with patched(original, index, states, predicting(batch)):
        return answer_log_probs(original, batch)


def predicting(batch: Batch) -> Tensor:
    """[batch, seq]: the positions whose hidden states predict a token of the answer."""
    return following(batch.labels) != IGNORE


def answer_log_probs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Mean log-probability of each answer's tokens in nats, [batch]; logits are made only where one
    is predicted.
    """
    chosen = predicting(batch)
    with logits_at(model, chosen):
        logits = model(**batch.inputs).logits.float()
    nll = F.cross_entropy(logits, batch.labels[:, 1:][chosen[:, :-1]], reduction="none")
    each = nll.new_zeros(chosen.shape).masked_scatter(chosen, -nll)
    return each.sum(dim=1) / chosen.sum(dim=1)


def columns(_settings: Settings) -> list[Column]:
    """What is left, so that the line reads as all others do: 1 minus the depth."""
    return [
        Column(
            "left inside (1 − unlearning depth)",
            (PATCHED,),
            inverted=True,
            without="needs the original and an oracle, and questions whose answers only the first "
            "knows",
        )
    ]


ATTACK = Attack(
    Settings, run, columns, needs_original=True, needs_oracle=True, noun="reading its layers"
)
