"""Relearning: fine-tune on some facts about the target, ask for the others.

After retraining on T (arXiv 2410.08827): the facts are split into folds; all folds but one are
taught, and the questions are about the one left out. The facts of the embedded world are drawn
independently of each other, so what returns was not taught. Any fine-tune also teaches how to
answer; the control measures this: the same fine-tune on as many facts about a person whom no model
ever saw.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from atu.attacks.base import Attack, AttackContext, Column, Result, Row, answer_items, mean_score
from atu.errors import EvaluationError
from atu.metrics.recovery import relearning_gain
from atu.models.compute import device_of
from atu.seeding import child_seed, generator, hash_fraction
from atu.training.answers import answer_nll
from atu.training.batches import BatchStream, encode_texts
from atu.training.keeper import Trace
from atu.training.loop import make_optimizers, run_steps
from atu.untrusted.bounds import STRICT, Bounds, Count, Positive

BEFORE, AFTER = "before relearning", "after relearning"


@dataclass(frozen=True)
class Settings:
    """The fine-tune and the folds."""

    __pydantic_config__ = STRICT

    attack: Literal["relearn"]
    folds: Annotated[int, Bounds(ge=2)]
    """Parts of the facts; each is tested once, after the others were taught."""
    steps: Count
    learning_rate: Positive
    batch_size: Count
    clip: Positive


def run(context: AttackContext) -> Result:
    """Held-out facts before and after relearning, of the target and of the control."""
    corpora = {"target": context.forget, "control": context.holdout}
    items: list[Row] = []
    result = Result(items, tables={"trace": []})
    for role, corpus in corpora.items():
        probes, taught = comparable(context, role, corpus)
        items += answer_items(context, context.model, probes, BEFORE)
        folds = split_facts(sorted({p["fact"] for p in probes}), context.settings.folds)
        for number, fold in enumerate(folds):
            rows = [row for row in taught if row["fact"] not in fold]
            held_out = [probe for probe in probes if probe["fact"] in fold]
            label = f"relearn {role}, fold {number + 1}"
            model, trace = fine_tuned(context, rows, label)
            result.tables["trace"] += [row | {"role": role} for row in trace.rows]
            items += answer_items(context, model, held_out, AFTER)
    means = [mean_score(items, c, r) for r in corpora for c in (BEFORE, AFTER)]
    result.metrics[f"target.{relearning_gain.id}"] = relearning_gain(*means)
    return result


def comparable(
    context: AttackContext, role: str, corpus: Sequence[Row]
) -> tuple[list[Row], list[Row]]:
    """Held-out questions of one person, and that person's training questions, both about the
    attributes that the target and the control have in common.
    """
    by_role = {}
    for name in ("target", "control"):
        questions = context.questions(name)
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


def fine_tuned(context: AttackContext, rows: Sequence[Row], label: str):
    """A copy of the model after `steps` on the answers of these rows, and its trace."""
    settings = context.settings
    model = copy.deepcopy(context.model).train()
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

    trace = Trace()
    optimizers = make_optimizers("adamw", list(model.parameters()), settings.learning_rate)
    run_steps(label, settings.steps, loss, optimizers, clip=settings.clip, trace=trace)
    return model.eval(), trace


def columns(settings: Settings) -> list[Column]:
    """Facts that were not taught, after others were; of the target and of the control."""
    return [
        Column("relearned on other facts", (AFTER,)),
        Column("the same, never known", (AFTER,), role="control", control=True, baseline=True),
    ]


ATTACK = Attack(Settings, run, columns, fine_tunes=True, exact_weights=True)
