"""The few numbers that a reader asks for first, per method and per cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from atu.config.sections import Report
from atu.metrics.bootstrap import Estimate, percentiles, resampled_means
from atu.reporting import tables
from atu.reporting.distance import Distance
from atu.reporting.items import CELL, of
from atu.reporting.names import called
from atu.reporting.tables import (
    DISTANCE,
    asked_columns,
    by_column,
    compared_tasks,
    interval,
    markdown_lines,
    plain,
    utility_means,
)
from atu.results.artifacts import Artifact
from atu.results.items import SCORE
from atu.seeding import generator

UTILITY, GENERAL = "utility", "general"
COLUMNS = {"target": "target_questions", "worst_form": "worst_form", "neighbour": "neighbours"}
"""Columns of the main table, by their names here, where `target` is whom a cell is about."""
HEADLINE = {name: tables.COLUMNS[key] for key, name in COLUMNS.items()} | {
    UTILITY: UTILITY,
    DISTANCE: tables.DISTANCE_TITLE,
}
"""The five columns of the first table: key to title."""


def headline_rows(
    rows: Sequence[Mapping[str, Any]],
    items: pl.DataFrame,
    documents: pl.DataFrame,
    utility: Mapping[tuple[str, str], Mapping[str, float]],
    section: Report,
) -> list[dict[str, Any]]:
    """One row per row of the main table: the columns of `HEADLINE` that there are, `collapsed`."""
    found = []
    for row in rows:
        model, method = row["model"], row["method"]
        tasks = compared_tasks(utility, model, [r["method"] for r in rows if r["model"] == model])
        own = {name: row[key] for key, name in COLUMNS.items() if key in row}
        parts = _utility_parts(of(items, model, method), of(documents, model, method), tasks)
        own[UTILITY] = utility_mean(parts, section)
        own |= {DISTANCE: row[DISTANCE]} if DISTANCE in row else {}
        collapsed = bool(utility[model, method]["collapsed"])
        found.append({"model": model, "method": method, **own, "collapsed": collapsed})
    return found


def _utility_parts(
    items: pl.DataFrame, documents: pl.DataFrame, tasks: Sequence[str]
) -> dict[str, pl.DataFrame]:
    """What utility is the mean of, as in the distance to the oracle: general facts, where they are
    asked, and every task.
    """
    general = plain(items, GENERAL)
    parts = {task: documents.filter(pl.col("task") == task) for task in tasks}
    return ({GENERAL: general} if len(general) else {}) | parts


def utility_mean(parts: Mapping[str, pl.DataFrame], section: Report) -> Estimate:
    """The mean over these parts of their mean scores, with an interval that draws facts and
    documents; not valid without parts. n is the number of all items.
    """
    if not parts or any(part.is_empty() for part in parts.values()):
        return Estimate(np.nan, np.nan, np.nan, 0)
    n = sum(len(part) for part in parts.values())
    missing = sum(part[SCORE].null_count() for part in parts.values())
    if missing:
        return Estimate(np.nan, np.nan, np.nan, n, n - missing)
    drawn = [
        resampled_means(
            part[SCORE].to_list(), part["fact"].to_list(),
            generator(section.seed, "utility", name), section.bootstrap,
        )
        for name, part in parts.items()
    ]  # fmt: skip
    mean = float(np.mean([part[SCORE].to_numpy().mean() for part in parts.values()]))
    return Estimate(mean, *percentiles(np.mean(drawn, axis=0), section.confidence), n)


def markdown_headline(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """The first table in Markdown, with the number of items in its head."""
    keys = [key for key in HEADLINE if key in rows[0]]
    lines = []
    for row in rows:
        name = called(row, rows, names) + ", COLLAPSED" * row["collapsed"]
        lines.append([name, *(interval(row[key]) for key in keys)])
    return markdown_lines(["", *(f"{HEADLINE[key]} (n = {rows[0][key].n})" for key in keys)], lines)


def headline_numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The valid numbers of `headline_rows` by method, or by model and method of several models."""
    several = len({row["model"] for row in rows}) > 1
    return {
        f"{row['model']}.{row['method']}" if several else row["method"]: {
            key: row[key].mean for key in HEADLINE if key in row and row[key].valid
        }
        | {"collapsed": int(row["collapsed"])}
        for row in rows
    }


def cell_rows(
    items: pl.DataFrame,
    documents: pl.DataFrame,
    utility: Sequence[Artifact],
    distances: Mapping[tuple[str, str], Distance],
) -> list[dict[str, Any]]:
    """One row per cell: its keys, a number or None per column of `HEADLINE`, `collapsed`.

    Args:
        utility: the cells' folders of that phase.
    """
    means, asked = utility_means(utility), asked_columns(items)
    flags = {_key(a): a.metrics()["utility/collapsed/report"] for a in utility}
    scored = documents.partition_by(CELL, as_dict=True, maintain_order=True)
    rows = []
    for key, group in items.group_by(CELL, maintain_order=True):
        model, target, method, seed = key
        columns = by_column(group)
        tasks = compared_tasks(means, model, [m for at, m in means if at == model])
        here = dict(zip(CELL, key, strict=True))
        own = scored.get(key, documents.clear())
        scores = [_mean(part) for part in _utility_parts(group, own, tasks).values()]
        far = distances.get((model, method))
        rows.append(
            here
            | {n: _mean(columns[c]) if c in asked else None for c, n in COLUMNS.items()}
            | {
                UTILITY: _average(scores),
                DISTANCE: far.cells.get((target, seed)) if far else None,
                "collapsed": int(flags[key]),
            }
        )
    return rows


def _key(artifact: Artifact) -> tuple[Any, ...]:
    return tuple(artifact.cell[name] for name in CELL)


def _average(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known and len(known) == len(scores) else None


def _mean(items: pl.DataFrame) -> float | None:
    if items.is_empty() or items[SCORE].has_nulls():
        return None
    return float(items[SCORE].to_numpy().mean())
