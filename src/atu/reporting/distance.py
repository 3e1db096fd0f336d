"""How far every method is from the oracle, with intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atu.config.sections import Report
from atu.metrics.bootstrap import FineEstimate, percentiles, resampled_means
from atu.metrics.oracle_distance import GROUPS, TASK, gaps, oracle_distance
from atu.metrics.selection import PARTNER
from atu.reporting.items import beside, of
from atu.reporting.names import called
from atu.reporting.tables import (
    COLUMNS,
    TASK_TITLES,
    asked_columns,
    by_column,
    compared_tasks,
    markdown_lines,
)
from atu.results.items import SCORE
from atu.seeding import generator

Parts = Mapping[str, pl.DataFrame]
"""The items behind each mean score of `oracle_distance`."""
Cells = Mapping[tuple[str, int], Parts]
"""The same by target and seed, of each what is not empty."""
Scores = Mapping[tuple[str, str], Mapping[str, float]]
"""Utility scores by model and method."""


@dataclass(frozen=True)
class Distance:
    """A method's distance to the oracle, and what it is in every resample, [resamples]; resamples
    are the same for all methods.
    """

    estimate: FineEstimate
    resampled: NDArray[np.float64]
    cells: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """Of every target and seed."""
    by_target: Mapping[str, Distance] = field(default_factory=dict)
    """Of every target by itself, of several: intervals draw its facts and documents."""
    gaps: Mapping[str, float] = field(default_factory=dict)
    """What it is made of: by the name of a score the mean gap to the oracle's."""

    def minus(self, other: Distance, section: Report) -> FineEstimate:
        """The difference of two distances, with its paired interval."""
        first, second = self.estimate, other.estimate
        if not (first.valid and second.valid):
            return _invalid(first.n, min(first.n_scored, second.n_scored))
        low, high = percentiles(self.resampled - other.resampled, section.confidence)
        return FineEstimate(first.mean - second.mean, low, high, first.n)

    def each_minus(self, other: Distance, section: Report) -> dict[str, FineEstimate]:
        """The same of every target by itself; nothing of one target."""
        return {
            target: mine.minus(other.by_target[target], section)
            for target, mine in self.by_target.items()
            if target in other.by_target
        }


def distances(
    items: pl.DataFrame,
    documents: pl.DataFrame,
    utility: Scores,
    section: Report,
    methods: Sequence[str],
    oracle: str | None,
) -> dict[tuple[str, str], Distance]:
    """Of every model and method; nothing without an oracle, for which neither chance nor the
    original can stand.

    Each cell's distance is taken for itself, so that too much here and too little there do not
    cancel, and averaged; n is the number of cells. The interval draws targets; of one target it
    draws facts, and documents of utility tasks.
    """
    if oracle is None or oracle not in methods:
        return {}
    columns, found = asked_columns(items), {}
    for model in items["model"].unique().sort():
        tasks = compared_tasks(utility, model, methods)
        parts = {
            method: parts_by_cell(
                mean_parts(of(items, model, method), columns)
                | task_parts(of(documents, model, method), tasks)
            )
            for method in methods
        }
        for method in methods:
            found[model, method] = _distance(parts[method], parts[oracle], section)
    return found


def mean_parts(items: pl.DataFrame, columns: Iterable[str]) -> dict[str, pl.DataFrame]:
    """What was asked for each of the `columns`, and beside the target."""
    asked = by_column(items)
    return {key: asked[key] for key in columns} | {PARTNER: beside(items)}


def task_parts(documents: pl.DataFrame, tasks: Sequence[str]) -> dict[str, pl.DataFrame]:
    """The documents of each task."""
    return {f"{TASK}{task}": documents.filter(pl.col("task") == task) for task in tasks}


def parts_by_cell(parts: Parts) -> dict[tuple[str, int], dict[str, pl.DataFrame]]:
    """What was asked, by target and seed."""
    cells: dict[tuple[str, int], dict[str, pl.DataFrame]] = defaultdict(dict)
    for name, part in parts.items():
        for cell, rows in part.partition_by("target", "seed", as_dict=True).items():
            cells[cast("tuple[str, int]", cell)][name] = rows
    return cells


def _distance(mine: Cells, theirs: Cells, section: Report) -> Distance:
    """The mean over cells; not valid unless every item of every cell was scored."""
    cells = sorted(theirs)
    pairs = [(mine.get(cell, {}), theirs[cell]) for cell in cells]
    sides = [pair for pair in pairs if _comparable(*pair)]
    if not cells or len(sides) < len(cells):
        return Distance(_invalid(len(cells), len(sides)), np.empty(0))
    points = [float(oracle_distance(*map(_means, pair))) for pair in sides]
    targets = [target for target, _ in cells]
    by_target: dict[str, Distance] = {}
    if len(set(targets)) > 1:
        rng = generator(section.seed, "distance")
        resampled = resampled_means(points, targets, rng, section.bootstrap)
        for name in dict.fromkeys(targets):
            by_target[name] = _distance(_of_target(mine, name), _of_target(theirs, name), section)
    else:
        drawn = [[_drawn(side, section) for side in pair] for pair in sides]
        resampled = np.mean([oracle_distance(*pair) for pair in drawn], axis=0)
    mean = float(np.mean(points))
    low, high = percentiles(resampled, section.confidence)
    # The absolute value of a noisy number is too large: resamples of no distance are all above 0.
    estimate = FineEstimate(mean, min(low, mean), max(high, mean), len(cells))
    by_cell = [gaps(*map(_means, pair)) for pair in sides]
    names = dict.fromkeys(name for found in by_cell for name in found)
    mean_gaps = {n: float(np.mean([found[n] for found in by_cell if n in found])) for n in names}
    by_name = dict(zip(cells, points, strict=True))
    return Distance(estimate, resampled, by_name, by_target, mean_gaps)


def gap_rows(
    found: Mapping[tuple[str, str], Distance],
) -> list[dict[str, str | float]]:
    """A row per model and method, with the gap of every score that its distance is made of."""
    return [
        {"model": model, "method": method, **distance.gaps}
        for (model, method), distance in found.items()
    ]


def gap_titles(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Key to title of the scores that these rows have."""
    titles = COLUMNS | {PARTNER: "retain questions beside the target’s"}
    tasks = {
        k: TASK_TITLES.get(n, n) for row in rows for k in row if (n := k.removeprefix(TASK)) != k
    }
    ordered = {key: titles[key] for key in GROUPS} | tasks
    return {key: title for key, title in ordered.items() if any(key in row for row in rows)}


def _of_target(cells: Cells, name: str) -> Cells:
    return {cell: parts for cell, parts in cells.items() if cell[0] == name}


def _comparable(first: Parts, second: Parts) -> bool:
    """Whether both sides of a cell were asked alike, and every item was scored."""
    parts = [*first.values(), *second.values()]
    return set(first) == set(second) and not any(part[SCORE].has_nulls() for part in parts)


def _means(parts: Parts) -> dict[str, NDArray[np.float64]]:
    return {name: part[SCORE].to_numpy().mean() for name, part in parts.items()}


def _drawn(parts: Parts, section: Report) -> dict[str, NDArray[np.float64]]:
    """Every mean score in every resample of its facts; the target's are drawn together in both of
    its scores.
    """

    def resampled(name: str, part: pl.DataFrame) -> NDArray[np.float64]:
        rng = generator(section.seed, "distance", GROUPS.get(name, name))
        scores, facts = part[SCORE].to_list(), part["fact"].to_list()
        return resampled_means(scores, facts, rng, section.bootstrap)

    return {name: resampled(name, part) for name, part in parts.items()}


def _invalid(n: int, scored: int) -> FineEstimate:
    return FineEstimate(math.nan, math.nan, math.nan, n, min(scored, max(n - 1, 0)))


def markdown_gaps(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """The table of `gap_rows` in Markdown; nothing without an oracle."""
    titles = gap_titles(rows)
    if not titles:
        return ""
    lines = [[called(row, rows, names), *(_shown(row.get(key)) for key in titles)] for row in rows]
    return markdown_lines(["gap to the oracle", *titles.values()], lines)


def _shown(gap: float | None) -> str:
    return "–" if gap is None else f"{gap:.3f}"
