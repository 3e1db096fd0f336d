"""The robustness table: whether a low leakage survives other forms and attacks.

One row per model and method. The original and the oracle are rows too: they show what a number was
before and what it should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import polars as pl

from atu import attacks
from atu.attacks.base import Column
from atu.attacks.quantise import Settings as Quantise
from atu.attacks.relearn import AFTER, BEFORE
from atu.attacks.relearn import Settings as Relearn
from atu.config.roles import ORIGINAL
from atu.config.sections import AttackSection, Report
from atu.metrics.bootstrap import Estimate
from atu.metrics.recovery import (
    meta_eval_robustness,
    quantisation_ratio,
    recovery,
    relearning_gain,
    relearning_ratio,
    relearning_steps,
)
from atu.probes.prompts import ADVERSARIAL, ORT
from atu.reporting.items import PAIR, beside, estimate, of, worst
from atu.reporting.names import called
from atu.reporting.verdict import Evidence, leaking
from atu.results.artifacts import Artifact
from atu.results.items import PROBABILITY


@dataclass(frozen=True)
class Shown:
    """A column as shown to the reader."""

    key: str
    title: str
    control: bool
    """Whether it is a reference for other columns, not a number that should be low."""
    baseline: bool = False
    """As in `attacks.base.Column`."""
    note: str = ""
    """What a reader must know before its numbers: why it is weak or INVALID."""

    @property
    def marked(self) -> str:
        """The title, with a dagger where there is a note."""
        return f"{self.title} †" if self.note else self.title


REPHRASED = (
    Shown("question", "plain question", False),
    Shown("question_seen", "plain question, wording in the forget corpus", True),
    Shown("worst_adversarial", "worst of the adversarial types", False),
    Shown("ort", "largest probability over ORT's forms", False),
    Shown("worst", "worst of all forms", False),
    Shown("alias", "asked by another name", False),
    Shown("two_hop", "asked over two hops", False),
    Shown("paired", "asked beside a retain question", False),
    Shown("partner", "the retain question beside it", True),
)
"""Columns from the phase `rephrase`."""


def shown_columns(section: AttackSection, names: Sequence[str]) -> list[Shown]:
    """All columns: those of `rephrase`, then every attack's in the order of the grid."""
    columns = list(REPHRASED)
    for name in names:
        for number, column in enumerate(attack_columns(section, name)):
            columns.append(Shown(f"{name}.{number}", column.title, column.control, column.baseline))
    return columns


def attack_columns(section: AttackSection, name: str) -> list[Column]:
    """The columns of one of the grid's attacks."""
    settings = section.attacks[name]
    return attacks.get(settings.attack).columns(settings)


def attack_noun(section: AttackSection, name: str) -> str:
    """What one of the grid's attacks is called in a sentence."""
    return attacks.get(section.attacks[name].attack).noun or name


def robustness_table(
    items: pl.DataFrame,
    attacked: pl.DataFrame,
    section: Report,
    attack: AttackSection,
    names: Sequence[str],
    methods: Sequence[str],
) -> list[dict[str, Any]]:
    """One row per model and method with an `Estimate` per column of `shown_columns`."""
    rows = []
    for model in items["model"].unique().sort():
        for method in methods:
            row: dict[str, Any] = {"model": model, "method": method}
            row |= rephrased_columns(of(items, model, method), section)
            for name in names:
                chosen = attack_items(attacked, model, method, name)
                for number, column in enumerate(attack_columns(attack, name)):
                    key = f"{name}.{number}"
                    values = column_items(chosen, column)
                    row[key] = estimate(values, section, "score")
            rows.append(row)
    return rows


def rephrased_columns(items: pl.DataFrame, section: Report) -> dict[str, Estimate]:
    """The columns `REPHRASED` of one model and method."""
    target = items.filter(pl.col("role") == "target")
    held_out = target.filter(~pl.col("seen"))
    question = target.filter(pl.col("form") == "question")
    adversarial = held_out.filter(pl.col("form").is_in(ADVERSARIAL))
    ort = held_out.filter(pl.col("form").is_in(ORT))
    tables = {
        "question": question.filter(~pl.col("seen")),
        "question_seen": question.filter(pl.col("seen")),
        "worst_adversarial": worst(adversarial),
        "worst": worst(held_out),
        **{
            form: held_out.filter(pl.col("form") == form) for form in ("alias", "two_hop", "paired")
        },
        "partner": beside(items),
    }
    estimates = {key: estimate(table, section) for key, table in tables.items()}
    estimates["ort"] = estimate(worst(ort, PROBABILITY), section, PROBABILITY)
    return estimates


def column_items(items: pl.DataFrame, column: Column) -> pl.DataFrame:
    """One row per item with the column's `score`; null if a condition was not scored."""
    items = items.filter(pl.col("role") == column.role)
    keys = ["target", "seed", "id", "fact"]
    score = 1 - pl.col("score") if column.inverted else pl.col("score")
    most = pl.when(score.is_null().any()).then(None).otherwise(score.max()).alias("score")
    largest = _under(items, column.conditions).group_by(keys, maintain_order=True).agg(most)
    if column.minus is None:
        return largest
    minus = _under(items, (column.minus,)).select(*keys, other="score")
    return largest.join(minus, on=keys, how="left").with_columns(
        score=pl.col("score") - pl.col("other")
    )


def is_weak(items: pl.DataFrame, column: Column) -> bool:
    """Whether the positive control of a column fails in one of the cells that these items are of.
    A cell without it proves nothing either.
    """
    proof = column.proof
    if proof is None:
        return False
    shown = _under(items.filter(pl.col("role") == column.role), (proof.condition,))
    cells = ["target", "seed"]
    means = shown.group_by(cells).agg(pl.col("score").mean())
    return len(means) < items.n_unique(cells) or not bool((means["score"] >= proof.least).all())


def with_notes(
    shown: Sequence[Shown],
    attacked: pl.DataFrame,
    section: AttackSection,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    called_so: Mapping[str, str],
) -> list[Shown]:
    """The columns, with a note on those of which a positive control fails, and on those that are
    INVALID for want of something; `rows` are those of the table, `called_so` as `called` has it.
    """
    notes = {}
    for name in names:
        for number, column in enumerate(attack_columns(section, name)):
            key = f"{name}.{number}"
            weak = [
                called(row, rows, called_so)
                for row in rows
                if is_weak(attack_items(attacked, row["model"], row["method"], name), column)
            ]
            if weak and column.proof is not None:
                notes[key] = f"{column.proof.otherwise} ({', '.join(weak)})"
            elif column.without and not any(row[key].n_scored for row in rows):
                notes[key] = column.without
    return [replace(column, note=notes.get(column.key, "")) for column in shown]


ALWAYS = ("question", "worst")
"""Lines that always matter."""


def matters(shown: Sequence[Shown], evidence: Iterable[Evidence]) -> set[str]:
    """The keys of `ALWAYS`, of every line by which some method is found to leak, and of the
    controls that stand right after such a line.
    """
    found = {*ALWAYS}
    for each in evidence:
        lines = leaking([*each.forms, *each.attacks])
        found |= {line.key.removeprefix("form.") for line in lines}
    for line, after in pairwise(shown):
        if line.key in found and after.baseline:
            found.add(after.key)
    return found


def attack_items(attacked: pl.DataFrame, model: str, method: str, name: str) -> pl.DataFrame:
    """The items of one attack on one row's cells."""
    return of(attacked, model, method, attack=name)


def _under(items: pl.DataFrame, conditions: Sequence[str]) -> pl.DataFrame:
    return items.filter(pl.col("condition").is_in(list(conditions)))


SUMMARY = {
    recovery.id: "share of what was forgotten that relearning brings back",
    relearning_gain.id: "relearning beyond the never-known control",
    f"target.{relearning_steps.id}": "steps until the taught facts are answered",
    f"control.{relearning_steps.id}": "steps until facts never known are answered",
    meta_eval_robustness.id: "meta-evaluation robustness (relearning, int4)",
}
QUANTISED = "int4"
"""The scheme for the meta-evaluation, whose 4-bit NF4 needs a GPU."""


def summary_table(
    attacked: pl.DataFrame,
    attack: AttackSection,
    names: Sequence[str],
    methods: Sequence[str],
    oracle: str | None,
    folders: Sequence[Artifact],
) -> list[dict[str, Any]]:
    """One row per model and method with the numbers of `SUMMARY`, None if an attack is missing or
    the formula is undefined; no rows without a relearning attack. `folders` are those of the
    attacks.
    """
    relearn, quantise = (named(attack, names, kind) for kind in (Relearn, Quantise))
    if relearn is None:
        return []
    rows = []
    for model in attacked["model"].unique().sort():
        for method in methods:
            row: dict[str, Any] = {"model": model, "method": method}
            row |= _relearning(attacked, model, method, relearn)
            cell = {"model": model, "method": method, "attack": relearn}
            row |= _steps([a for a in folders if cell.items() <= a.cell.items()])
            row[meta_eval_robustness.id] = None
            if quantise is not None and oracle is not None and method not in (ORIGINAL, oracle):
                row[meta_eval_robustness.id] = _meta_evaluation(
                    attacked, model, method, oracle, relearn, quantise
                )
            rows.append(row)
    return rows


def named(attack: AttackSection, names: Sequence[str], kind: type) -> str | None:
    """The grid's first attack of this kind."""
    return next((name for name in names if isinstance(attack.attacks[name], kind)), None)


def _scored(
    attacked: pl.DataFrame, model: str, method: str, attack: str, condition: str, role: str
) -> pl.DataFrame:
    return attack_items(attacked, model, method, attack).filter(
        (pl.col("condition") == condition) & (pl.col("role") == role)
    )


def _means(tables: Sequence[pl.DataFrame]) -> list[float] | None:
    """The mean score of each table; None if one is empty or has an unscored item."""
    if any(table.is_empty() or table["score"].has_nulls() for table in tables):
        return None
    return [float(table["score"].to_numpy().mean()) for table in tables]


def _relearning(
    attacked: pl.DataFrame, model: str, method: str, attack: str
) -> dict[str, float | None]:
    parts = [(method, c, role) for role in ("target", "control") for c in (BEFORE, AFTER)]
    means = _means(
        [
            _scored(attacked, model, name, attack, condition, role)
            for name, condition, role in ((ORIGINAL, BEFORE, "target"), *parts)
        ]
    )
    if means is None:
        return {recovery.id: None, relearning_gain.id: None}
    original, before, after, control_before, control_after = means
    return {
        recovery.id: recovery(original, before, after),
        relearning_gain.id: relearning_gain(before, after, control_before, control_after),
    }


def _steps(folders: Sequence[Artifact]) -> dict[str, float | None]:
    """The mean number of relearning steps over these folders, of the target and of the control."""
    found = {}
    for key in (f"{role}.{relearning_steps.id}" for role in ("target", "control")):
        every = [
            value for a in folders for name, value in a.metrics().items() if f".{key}/" in name
        ]
        found[key] = sum(every) / len(every) if every else None
    return found


def _meta_evaluation(
    attacked: pl.DataFrame, model: str, method: str, oracle: str, relearn: str, quantise: str
) -> float | None:
    """Meta-evaluation robustness on the questions that both attacks use."""
    retain, unlearned = (
        [_scored(attacked, model, name, relearn, c, "target") for c in (BEFORE, AFTER)]
        for name in (oracle, method)
    )
    quantised_items = _scored(attacked, model, method, quantise, QUANTISED, "target")
    quantised_items = quantised_items.join(unlearned[0].select(*PAIR), on=list(PAIR), how="semi")
    means = _means([*retain, *unlearned, quantised_items])
    if means is None:
        return None
    retain_before, retain_after, before, after, quantised = means
    relearning = relearning_ratio(retain_before, retain_after, before, after)
    return meta_eval_robustness([relearning], [quantisation_ratio(before, quantised)])
