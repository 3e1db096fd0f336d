"""The cost of unlearning per method: steps, tokens, and the search before it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from atu.results.artifacts import PROVENANCE, Artifact
from atu.results.costs import COSTS


def cost_table(
    unlearn: Sequence[Artifact], searches: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Per model and method: mean steps and tokens over cells, and the cost of the search."""
    cells_of: dict[tuple[str, str], list[dict[str, float]]] = {}
    for artifact in unlearn:
        metrics = artifact.metrics()
        key = (artifact.cell["model"], artifact.cell["method"])
        cells_of.setdefault(key, []).append({n: metrics[f"unlearn/{n}/all"] for n in COSTS})
    trials = {(row["model"], row["method"]): row for row in searches}
    return [
        {"model": model, "method": method, "cells": len(cells)}
        | {name: sum(cell[name] for cell in cells) / len(cells) for name in COSTS}
        | {"search": trials.get((model, method))}
        for (model, method), cells in cells_of.items()
    ]


def flat_cost(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the cost table with the search as plain columns, for CSV: empty without a search,
    the chosen values as JSON.
    """
    search = row["search"] or {}
    flat = {key: value for key, value in row.items() if key != "search"}
    flat |= {f"search_{name}": search.get(name) for name in ("trials", "finals", "failed", *COSTS)}
    return flat | {"chosen": json.dumps(search["values"]) if search else None}


def seconds(artifacts: Sequence[Artifact]) -> float:
    """Seconds that these jobs took, from their provenance; not part of any result."""
    records = [(artifact.folder / PROVENANCE).read_text(encoding="utf-8") for artifact in artifacts]
    return sum(json.loads(record)["seconds"] for record in records)


def text_table(
    rows: Sequence[dict[str, Any]], spent: dict[tuple[str, str], tuple[float, float]]
) -> str:
    """The cost table as Markdown; `spent` holds the seconds per cell and of the search."""
    lines = [
        "| method | cells | steps | predictor steps | tokens | seconds | search runs "
        "| search tokens | search seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        search = row["search"] or {"trials": 0, "finals": 0, "tokens": 0}
        per_cell, searching = spent[row["model"], row["method"]]
        lines.append(
            f"| `{row['method']}` | {row['cells']} | {row['model_steps']:.0f} "
            f"| {row['predictor_steps']:.0f} | {row['tokens']:.0f} | {per_cell:.0f} "
            f"| {search['trials'] + search['finals']:.0f} | {search['tokens']:.0f} "
            f"| {searching:.0f} |"
        )
    return "\n".join(lines) + "\n"
