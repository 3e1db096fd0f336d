"""What a verdict is derived from: a checkpoint's numbers beside the original's, the oracle's and
the attacks' controls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from atu.config.roles import ORACLE, ORIGINAL
from atu.config.sections import AttackSection, Report
from atu.metrics.answers import contains, exact_match
from atu.metrics.bootstrap import Estimate
from atu.metrics.fluency import stutters
from atu.metrics.memorisation import tofu_forget_quality, tofu_truth_ratio
from atu.metrics.selection import PARTNER, RETAINED
from atu.probes.prompts import FORMS
from atu.reporting import tables
from atu.reporting.attacker import MEMBERSHIP, PRIV_LEAK
from atu.reporting.items import PAIR, difference, estimate, of, worst
from atu.reporting.items import beside as asked_beside
from atu.reporting.robustness import (
    attack_columns,
    attack_items,
    attack_noun,
    column_items,
    is_weak,
)
from atu.reporting.verdict import ASKED, CONTROL, NOTHING, Evidence, Line, Loss
from atu.reporting.verdict import ORACLE as THE_ORACLE

FLOORED = (exact_match.id, contains.id)
"""Measures by which a guess scores nothing."""
QUALITY = f"target.{tofu_truth_ratio.id}.{tofu_forget_quality.id}"
KEPT_TITLES = {role: tables.COLUMNS[role] for role in RETAINED} | {
    PARTNER: "retain questions beside the target's"
}
BESIDE = "beside."
"""What the key of a loss begins with that only shows beside the target."""


@dataclass(frozen=True)
class Beside:
    """All items of one model, and how they become estimates."""

    model: str
    methods: Sequence[str]
    items: pl.DataFrame
    attacked: pl.DataFrame
    documents: pl.DataFrame
    """Of the utility tasks."""
    section: Report
    _found: dict[tuple[str, str], Estimate] = field(default_factory=dict, repr=False)
    """By key and method: every method's numbers stand beside the same original and oracle."""
    _about: dict[str, pl.DataFrame] = field(default_factory=dict, repr=False)
    _worst: dict[str, pl.DataFrame] = field(default_factory=dict, repr=False)
    _tried: dict[tuple[str, str], pl.DataFrame] = field(default_factory=dict, repr=False)

    def about(self, method: str) -> pl.DataFrame:
        """A method's items about the target, in wordings that no corpus has."""
        if method not in self._about:
            rows = of(self.items, self.model, method)
            self._about[method] = rows.filter((pl.col("role") == "target") & ~pl.col("seen"))
        return self._about[method]

    def worst(self, method: str) -> pl.DataFrame:
        """The worst form of a method's items about the target."""
        if method not in self._worst:
            self._worst[method] = worst(self.about(method))
        return self._worst[method]

    def tried(self, method: str, attack: str) -> pl.DataFrame:
        """A method's items of an attack."""
        if (method, attack) not in self._tried:
            rows = attack_items(self.attacked, self.model, method, attack)
            self._tried[method, attack] = rows
        return self._tried[method, attack]

    def _estimate(self, key: str, method: str, take: Callable[[str], pl.DataFrame]) -> Estimate:
        if (key, method) not in self._found:
            self._found[key, method] = estimate(take(method), self.section)
        return self._found[key, method]

    def loss(
        self, key: str, title: str, method: str, take: Callable[[str], pl.DataFrame], had: bool
    ) -> Loss:
        """What should be kept; `had` says whether the original has the same items."""
        mine = take(method)
        found = estimate(mine, self.section)
        if not had:
            return Loss(key, title, found, None, None)
        before = self._estimate(key, ORIGINAL, take)
        loss = Loss(key, title, found, before, difference(mine, take(ORIGINAL), self.section, key))
        if not loss.fell or ORACLE not in self.methods or not _same(mine, take(ORACLE)):
            return loss
        gap = difference(mine, take(ORACLE), self.section, key)
        return replace(loss, reference=self._estimate(key, ORACLE, take), to_reference=gap)

    def line(
        self, key: str, title: str, method: str, take: Callable[[str], pl.DataFrame], floor: bool,
        control: Callable[[str], Estimate] | None = None,
    ) -> Line:  # fmt: skip
        """A number about the target; `take` gives the items of a method, `floor` says whether a
        guess scores 0, `control` gives the estimate of the attack's control.
        """
        original = ORIGINAL in self.methods
        before = self._estimate(key, ORIGINAL, take) if original else None
        found = self._estimate(key, method, take)
        if ORACLE in self.methods:
            mine = take(method)
            gap = difference(mine, take(ORACLE), self.section, key) if len(mine) else None
            reference = self._estimate(key, ORACLE, take)
            both = [control(name) for name in (method, ORACLE)] if control else [None, None]
            return Line(
                key, title, found, before, reference, THE_ORACLE, gap,
                control=both[0], control_reference=both[1],
            )  # fmt: skip
        if control is not None:
            return Line(key, title, found, before, control(method), CONTROL)
        return Line(key, title, found, before, None, NOTHING if floor else None)


def evidence_of(
    beside: Beside,
    method: str,
    utility: Mapping[tuple[str, str], Mapping[str, float]],
    privacy: Sequence[Mapping[str, Any]],
    attack: AttackSection,
    names: Sequence[str],
) -> Evidence:
    """Everything that is known of one method's checkpoint.

    Args:
        utility: scores by model and method.
        privacy: rows of the privacy table.
        names: the grid's attacks.
    """
    model, methods = beside.model, beside.methods
    plain, most, forms = _asked(beside, method)
    scores = utility[model, method]
    texts = {row["method"]: row for row in privacy if row["model"] == model}
    mine = texts[method] if ORACLE in methods else {}
    known = {key: mine[key].mean for key in (QUALITY, PRIV_LEAK) if key in mine and mine[key].valid}
    return Evidence(
        name=method,
        plain=plain,
        worst=most,
        forms=forms,
        attacks=_attacks(beside, method, attack, names),
        losses=[*_kept(beside, method), *_tasks(beside, method, scores)],
        collapsed=bool(scores["collapsed"]),
        oracle=ORACLE in methods,
        original=ORIGINAL in methods,
        forget_quality=known.get(QUALITY),
        membership=_membership(texts, method),
        priv_leak=known.get(PRIV_LEAK),
        stuttering=(_stuttering(beside, method), _stuttering(beside, ORIGINAL)),
    )


def _stuttering(beside: Beside, method: str) -> float:
    """The share of a method's answers about the target that mostly repeat themselves."""
    outputs = beside.about(method)["output"].to_list()
    return sum(map(stutters, outputs)) / len(outputs) if outputs else 0.0


def _membership(texts: Mapping[str, Mapping[str, Any]], method: str) -> Line | None:
    """Membership inference by the loss, beside the oracle's; None where no text is held out."""
    if ORACLE not in texts or MEMBERSHIP not in texts[method]:
        return None
    before = texts[ORIGINAL][MEMBERSHIP] if ORIGINAL in texts else None
    found, reference = texts[method][MEMBERSHIP], texts[ORACLE][MEMBERSHIP]
    return Line(MEMBERSHIP, "membership AUC, loss", found, before, reference, THE_ORACLE)


def _asked(beside: Beside, method: str) -> tuple[Line, Line | None, list[Line]]:
    """Plain questions, the worst form, and every other form in wordings that no corpus has. In a
    benchmark without plain questions all that it asks counts as plain.
    """
    exact, about = beside.items["measure"][0] in FLOORED, beside.about
    there = about(method)["form"].unique().to_list()
    if "question" not in there:
        return beside.line("asked", "questions", method, about, exact), None, []

    def form(kind: str) -> Callable[[str], pl.DataFrame]:
        return lambda name: about(name).filter(pl.col("form") == kind)

    plain = beside.line("question", "plain questions", method, form("question"), exact)
    others = [kind for kind in FORMS if kind in there and kind != "question"]
    lines = [
        beside.line(
            f"form.{kind}", FORMS[kind].shown, method, form(kind),
            exact and about(method).filter(pl.col("form") == kind)["options"].list.len().max() == 0,
        )
        for kind in others
    ]  # fmt: skip
    most = beside.line("worst", "worst form", method, beside.worst, False)
    return plain, most if others else None, lines


def _attacks(
    beside: Beside, method: str, attack: AttackSection, names: Sequence[str]
) -> list[Line]:
    """Every column that should be low, with its control."""
    lines = []
    for name in names:
        columns = attack_columns(attack, name)
        for number, column in enumerate(columns):
            if column.control:
                continue

            def rows(of_method: str, name: str = name, column: Any = column) -> pl.DataFrame:
                return column_items(beside.tried(of_method, name), column)

            after = columns[number + 1] if number + 1 < len(columns) else None
            control = None
            if after is not None and after.baseline:

                def control(side: str, name: str = name, after: Any = after) -> Estimate:
                    return estimate(rows(side, name, after), beside.section)

            mine = beside.tried(method, name)
            asked = mine.filter(pl.col("condition").is_in(list(column.conditions)))
            metrics = asked["metric"].unique()
            floor = all(metric in FLOORED for metric in metrics) or column.minus is not None
            line = beside.line(f"{name}.{number}", column.title, method, rows, floor, control)
            noun = attack_noun(attack, name)
            lines.append(replace(line, weak=is_weak(mine, column), noun=noun))
    return lines


def _kept(beside: Beside, method: str) -> list[Loss]:
    """Plain questions about everybody else, and retain questions in one prompt with a target's."""
    losses = []
    for role, title in KEPT_TITLES.items():

        def take(name: str, role: str = role) -> pl.DataFrame:
            rows = of(beside.items, beside.model, name)
            return asked_beside(rows) if role == PARTNER else tables.plain(rows, role)

        if take(method).is_empty():
            continue
        key = f"{BESIDE if role == PARTNER else ASKED}{role}"
        losses.append(beside.loss(key, title, method, take, ORIGINAL in beside.methods))
    return losses


def _same(first: pl.DataFrame, second: pl.DataFrame) -> bool:
    """Whether both have the same items."""
    return set(first.select(PAIR).rows()) == set(second.select(PAIR).rows())


def _tasks(beside: Beside, method: str, scores: Mapping[str, float]) -> list[Loss]:
    """Utility tasks, document by document; none whose prompts were cut too often."""
    losses = []
    for name in tables.task_names(scores):
        if tables.is_invalid(scores, name):
            continue

        def take(side: str, name: str = name) -> pl.DataFrame:
            rows = of(beside.documents, beside.model, side)
            return rows.filter(pl.col("task") == name)

        mine = take(method)
        if mine.is_empty():
            continue
        title = tables.TASK_TITLES.get(name, name)
        same = _same(mine, take(ORIGINAL))
        losses.append(beside.loss(f"utility.{name}", title, method, take, same))
    return losses
