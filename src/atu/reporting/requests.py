"""Requests for several targets, at once or in sequence: leakage per name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from atu.config.sections import Report
from atu.metrics.selection import RETAINED
from atu.reporting.items import estimate, of, worst
from atu.untrusted.targets import Target

COLUMNS = {
    "target": "this name's questions",
    "worst_form": "this name, worst form",
    "neighbour": "neighbours",
    "other": "other people",
}
"""Columns of the table of requests: key to what a reader sees."""


def requests_table(
    items: pl.DataFrame, section: Report, methods: Sequence[str], requests: Sequence[Target]
) -> list[dict[str, Any]]:
    """One row per model, method, request and name: leakage about that name in held-out plain
    questions and in the worst form, and the scores of neighbours and other people.

    `requests` are those that the other tables leave out; in a sequence the earlier names are probed
    again after every later request.
    """
    held_out = items.filter(~pl.col("seen"))
    rows = []
    for model in items["model"].unique().sort() if len(items) else []:
        for target in requests:
            request_items = of_request(held_out, target)
            for method in methods:
                cell = of(request_items, model, method)
                rows += [
                    {"model": model, "request": target.label, "method": method, "name": name}
                    | _about(cell, about, section)
                    for name, about in _questions(cell, target).items()
                ]
    return rows


def _questions(cell: pl.DataFrame, target: Target) -> dict[str, pl.DataFrame]:
    """The items about every name of the request. If no item has a name as its subject, because
    names stand for sets as in TOFU and MUSE, all items about the target, under the request's label.
    """
    about = cell.filter(pl.col("role") == "target")
    named = {name: about.filter(pl.col("subject") == name) for name in target.names}
    if all(items.is_empty() for items in named.values()):
        return {target.label: about}
    return named


def of_request(items: pl.DataFrame, target: Target) -> pl.DataFrame:
    """The items of one request's cells."""
    return items.filter(pl.col("target") == target.label)


def _about(cell: pl.DataFrame, about: pl.DataFrame, section: Report) -> dict[str, Any]:
    questions = cell.filter(pl.col("form") == "question")
    return {
        "target": estimate(about.filter(pl.col("form") == "question"), section),
        "worst_form": estimate(worst(about), section),
    } | {
        role: estimate(questions.filter(pl.col("role") == role), section)
        for role in COLUMNS
        if role in RETAINED
    }
