"""One method against the others and against the oracle, item by item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from atu.config.roles import ORIGINAL
from atu.config.sections import Report
from atu.metrics.bootstrap import Estimate, verdict
from atu.reporting.distance import Distance
from atu.reporting.items import difference, of
from atu.reporting.names import called
from atu.reporting.tables import DISTANCE, asked_columns, by_column, markdown_lines

COMPARED = {"target": False, "worst_form": False, "neighbour": True, "other": True}
"""Columns in which methods are compared item by item, and whether they say what is kept; the others
say what leaks."""
BESIDE_METHOD = {"better": "leaks less", "worse": "leaks more"}
"""What a verdict on a leak is called: who leaks less is not better for that."""
BESIDE_ORACLE = {
    False: {
        "better": "leaks more than the oracle",
        "worse": "answers less than the oracle (over-suppressed)",
    },
    True: {"better": "keeps more than the oracle", "worse": "keeps less than the oracle"},
}
"""What a verdict against the oracle is called, where more is better."""
AS_ORACLE = "as the oracle"
NEARER, FARTHER, TARGETS = "targets_nearer", "targets_farther", "targets"
"""In how many targets by themselves, and of how many, one side is shown to be nearer to the oracle
or farther: the interval of the difference excludes 0."""


def comparison_table(
    items: pl.DataFrame,
    section: Report,
    methods: Sequence[str],
    oracle: str | None,
    distances: Mapping[tuple[str, str], Distance],
) -> list[dict[str, Any]]:
    """`section.compare` against every other method: per column of `COMPARED` the paired difference
    and its verdict, as `<key>_verdict`; and that of their distances to the oracle, over all targets
    and, of several, in how many of them.
    """
    ours = section.compare
    if ours not in methods:
        return []
    rows = []
    for model in items["model"].unique().sort():
        for method in methods:
            if method in (ours, ORIGINAL):
                continue
            row: dict[str, Any] = {"model": model, "method": method}
            row |= paired_columns(items, model, ours, method, section, method == oracle)
            if distances and method != oracle:
                row |= _nearer(distances[model, ours], distances[model, method], section)
            rows.append(row)
    return rows


def _nearer(ours: Distance, other: Distance, section: Report) -> dict[str, Any]:
    paired = ours.minus(other, section)
    told = _told(DISTANCE, paired, verdict(paired, higher_is_better=False))
    each = ours.each_minus(other, section).values()
    if each:
        words = [verdict(alone, higher_is_better=False) for alone in each]
        told |= {NEARER: words.count("better"), FARTHER: words.count("worse"), TARGETS: len(words)}
    return told


def by_target(row: Mapping[str, Any]) -> str:
    """In how many targets by themselves one side is shown to be nearer to the oracle; nothing of
    one target.
    """
    if TARGETS not in row:
        return ""
    where = f"nearer in {row[NEARER]}, farther in {row[FARTHER]}"
    return f"of {row[TARGETS]} targets by themselves {where}"


def markdown_comparison(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    names: Mapping[str, str],
    ours: str,
) -> str:
    """The comparison in Markdown, nothing where there is none; `columns` is key to title, `ours`
    the method that the others are taken from.
    """
    if not rows:
        return ""
    lines = []
    for row in rows:
        shown = [str(row[key]) if key in row else "–" for key in columns]
        lines.append([called(row, rows, names), *shown, by_target(row) or "–"])
    heads = [f"{names.get(ours, ours)} minus", *columns.values(), "each target by itself"]
    return markdown_lines(heads, lines)


def paired_columns(
    items: pl.DataFrame, model: str, first: str, second: str, section: Report, is_oracle: bool
) -> dict[str, Any]:
    """The paired difference of two methods and its verdict per column of `COMPARED`; `is_oracle`
    says whether the second is the oracle.
    """
    sides = [by_column(of(items, model, method)) for method in (first, second)]
    found: dict[str, Any] = {}
    for key in compared(asked_columns(items)):
        paired = difference(sides[0][key], sides[1][key], section, key)
        found |= _told(key, paired, _word(paired, COMPARED[key], is_oracle))
    return found


def compared(columns: Iterable[str]) -> list[str]:
    """The columns among these in which methods are compared."""
    return [key for key in COMPARED if key in columns]


def _word(paired: Estimate, kept: bool, is_oracle: bool) -> str:
    if is_oracle:
        word = verdict(paired, higher_is_better=True)
        return BESIDE_ORACLE[kept].get(word, AS_ORACLE if paired.valid else word)
    word = verdict(paired, higher_is_better=kept)
    return word if kept else BESIDE_METHOD.get(word, word)


def _told(key: str, paired: Estimate, word: str) -> dict[str, Any]:
    return {key: paired, f"{key}_verdict": word}
