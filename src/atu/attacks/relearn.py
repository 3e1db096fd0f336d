"""Relearning: fine-tune on some facts about the target, ask for the others.

After retraining on T (arXiv 2410.08827): the facts are split into folds; all folds but one are
taught, and the questions are about the one left out. The facts of the embedded world are drawn
independently of each other, so what returns was not taught. Any fine-tune also teaches how to
answer; the control measures this: the same on as many facts about a person whom no model ever saw.

A fine-tune that teaches nothing brings nothing back either. So each one goes on until the taught
facts are answered, in wordings that it does not teach: the positive control. The numbers of steps
say how fast the target's facts come back beside those that nobody knew.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch

from atu.attacks.base import (
    Attack,
    AttackContext,
    AttackTexts,
    Column,
    Proof,
    Result,
    Row,
    answer_items,
    mean_score,
)
from atu.errors import EvaluationError
from atu.metrics.recovery import relearning_gain, relearning_steps
from atu.models.compute import device_of
from atu.seeding import child_seed, generator, hash_fraction
from atu.training.answers import answer_nll
from atu.training.batches import BatchStream, encode_texts
from atu.training.keeper import Trace
from atu.training.loop import make_optimizers, run_steps
from atu.untrusted.bounds import STRICT, Bounds, Count, Fraction, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BEFORE, AFTER, TAUGHT = "before relearning", "after relearning", "taught"
ROLES = ("target", "control")


@dataclass(frozen=True)
class Settings:
    """The fine-tune and the folds."""

    __pydantic_config__ = STRICT

    attack: Literal["relearn"]
    folds: Annotated[int, Bounds(ge=2)]
    """Parts of the facts; each is tested once, after the others were taught."""
    until: Fraction
    """A fine-tune ends when the taught facts have this mean score."""
    every: Count
    """Steps from one look at them to the next."""
    steps: Count
    """The most steps of a fine-tune."""
    learning_rate: Positive
    batch_size: Count
    clip: Positive

    def __post_init__(self) -> None:
        if self.every > self.steps:
            raise ValueError(f"every {self.every} must be at most steps = {self.steps}")


def run(context: AttackContext) -> Result:
    """Held-out facts before and after relearning, and the taught ones, of the target and of the
    control.
    """
    result = Result([], tables={"trace": []})
    for role, (probes, teachable, folds) in planned(context).items():
        result.items += answer_items(context, context.model, probes, BEFORE)
        taught, steps = [], []
        for number, fold in enumerate(folds):
            rows = [row for row in teachable if row["fact"] not in fold]
            known = [probe for probe in probes if probe["fact"] not in fold]
            held_out = [probe for probe in probes if probe["fact"] in fold]
            tuned = fine_tuned(context, rows, known, f"relearn {role}, fold {number + 1}")
            result.tables["trace"] += [row | {"role": role} for row in tuned.trace.rows]
            result.items += answer_items(context, tuned.model, held_out, AFTER)
            taught += tuned.taught
            steps.append(len(tuned.trace.rows))
        result.items += averaged(taught)
        result.metrics[f"{role}.{relearning_steps.id}"] = relearning_steps(steps)
    means = [mean_score(result.items, c, r) for r in ROLES for c in (BEFORE, AFTER)]
    result.metrics[f"target.{relearning_gain.id}"] = relearning_gain(*means)
    return result


class Planned(NamedTuple):
    """The fine-tunes on one person."""

    probes: list[Row]
    """What is asked: held-out questions."""
    teachable: list[Row]
    """Training questions about the same facts."""
    folds: list[set[str]]
    """Facts; each fold is asked for after the others were taught."""


def planned(texts: AttackTexts) -> dict[str, Planned]:
    """The fine-tunes of the target and of the control, which no model is needed for.

    Raises:
        EvaluationError: nothing is asked about one of them, or fewer facts than folds.
    """
    corpora, plans = dict(zip(ROLES, (texts.forget, texts.holdout), strict=True)), {}
    for role, corpus in corpora.items():
        probes, teachable = comparable(texts, role, corpus)
        facts = sorted({probe["fact"] for probe in probes})
        plans[role] = Planned(probes, teachable, split_facts(facts, texts.settings.folds))
    return plans


def averaged(items: Sequence[Row]) -> list[Row]:
    """One row per probe: its mean score over the folds that taught its fact."""
    scores: dict[str, list[float]] = {}
    for row in items:
        scores.setdefault(row["id"], []).append(row["score"])
    last = {row["id"]: row for row in items}
    return [last[name] | {"score": sum(found) / len(found)} for name, found in scores.items()]


def comparable(texts: AttackTexts, role: str, corpus: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Held-out questions of one person, and that person's training questions, both about the
    attributes that the target and the control have in common.
    """
    by_role = {}
    for name in ROLES:
        questions = texts.questions(name)
        if not questions:
            raise EvaluationError(f"no question of the role {name!r} to relearn")
        person = questions[0]["subject"]
        by_role[name] = [probe for probe in questions if probe["subject"] == person]
    shared = set.intersection(*({p["type"] for p in probes} for probes in by_role.values()))
    probes = [probe for probe in by_role[role] if probe["type"] in shared]
    facts = {probe["fact"] for probe in probes}
    rows = [row for row in corpus if row["form"] == "question" and row["fact"] in facts]
    return probes, rows


def split_facts(facts: Sequence[str], folds: int) -> list[set[str]]:
    """The facts in `folds` nearly equal parts, in the order of a hash.

    Raises:
        EvaluationError: fewer facts than folds.
    """
    if len(facts) < folds:
        raise EvaluationError(f"{len(facts)} facts cannot make {folds} folds; lower `folds`")
    order = sorted(facts, key=lambda fact: hash_fraction("relearn", fact))
    return [set(order[number::folds]) for number in range(folds)]


@dataclass
class Tuned:
    """What a fine-tune came to."""

    model: PreTrainedModel
    taught: list[Row] = field(default_factory=list)
    """The items of the taught facts, as they were last looked at."""
    trace: Trace = field(default_factory=Trace)


def fine_tuned(
    context: AttackContext, rows: Sequence[Row], known: Sequence[Row], label: str
) -> Tuned:
    """A copy of the model, trained on the answers of these rows until the probes in `known` are
    answered; what already answers them is not trained.
    """
    settings = context.settings
    model = copy.deepcopy(context.model)
    torch.manual_seed(child_seed(context.seed, label, "dropout"))
    stream = BatchStream(
        encode_texts(context.tokenizer, rows),
        settings.batch_size,
        context.tokenizer.pad_token_id,
        generator(context.seed, label),
        device=device_of(model),
    )

    def loss():
        return answer_nll(model, next(stream)), {}

    tuned = Tuned(model)
    optimizers = make_optimizers("adamw", list(model.parameters()), settings.learning_rate)
    while True:
        done = len(tuned.trace.rows)
        tuned.taught = answer_items(context, model, known, TAUGHT, further=False)
        score = mean_score(tuned.taught, TAUGHT, known[0]["role"])
        if done == settings.steps or score >= settings.until:
            return tuned
        stretch, model = Trace(), model.train()
        steps = min(settings.every, settings.steps - done)
        run_steps(label, steps, loss, optimizers, clip=settings.clip, trace=stretch)
        tuned.trace.rows += [row | {"step": done + row["step"]} for row in stretch.rows]
        model.eval()


def columns(settings: Settings) -> list[Column]:
    """Facts that were not taught, after others were, of the target and of the control; and whether
    the target's were learned.
    """
    proof = Proof(
        TAUGHT,
        settings.until,
        f"the taught facts stayed below {settings.until:g} in {settings.steps} steps, so a low "
        "number may be a weak fine-tune's",
    )
    return [
        Column("relearned on other facts", (AFTER,), proof=proof),
        Column(
            "relearned, facts never known",
            (AFTER,),
            role="control",
            control=True,
            baseline=True,
            proof=proof,
        ),
        Column("relearned, the facts taught", (TAUGHT,), control=True),
    ]


ATTACK = Attack(Settings, run, columns, fine_tunes=True, exact_weights=True, noun="relearning")
