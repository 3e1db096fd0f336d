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
from atu.reporting.tables import DISTANCE, asked_columns, by_column

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


def comparison_table(
    items: pl.DataFrame,
    section: Report,
    methods: Sequence[str],
    oracle: str | None,
    distances: Mapping[tuple[str, str], Distance],
) -> list[dict[str, Any]]:
    """`section.compare` against every other method: per column of `COMPARED` the paired difference
    and its verdict, as `<key>_verdict`; and that of their distances to the oracle.
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
                paired = distances[model, ours].minus(distances[model, method], section)
                row |= _told(DISTANCE, paired, verdict(paired, higher_is_better=False))
            rows.append(row)
    return rows


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
