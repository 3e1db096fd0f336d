"""All methods in one order: by the score that chose their settings, and by what they should be."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import cache
from typing import Any

import polars as pl

from atu.config.roles import ORIGINAL, REFERENCES
from atu.metrics.selection import CHANCE, KEPT, LEAKS, RETAINED, selection
from atu.probes.chance import chances
from atu.reporting.distance import Parts, mean_parts, parts_by_cell
from atu.reporting.items import of, worst
from atu.reporting.tables import DISTANCE, asked_columns
from atu.results.items import SCORE

SELECTION = "selection"
Row = Mapping[str, Any]
GUESSED = "guessed"


def selections(rows: Sequence[Row], items: pl.DataFrame) -> list[float | None]:
    """`selection` of every row of the main table, on the `report` split. It is that of every cell
    for itself, averaged: the leak of one target does not cancel with the silence about another. A
    target of which no plain question is asked is left out. None without the original, where nothing
    is asked of what should be kept, or where an item was not scored.
    """
    columns = asked_columns(items)
    if "target" not in columns or not {*RETAINED} & {*columns}:
        return [None] * len(rows)
    guessed = chance_levels(items)

    @cache
    def points(model: str, method: str) -> dict[Hashable, dict[str, float] | None]:
        parts = parts_by_cell(mean_parts(of(items, model, method), columns))
        return {
            cell: _point(found, guessed[cell[0]])
            for cell, found in parts.items()
            if {"target", "worst_form"} <= found.keys()
        }

    found: list[float | None] = []
    for row in rows:
        now, then = points(row["model"], row["method"]), points(row["model"], ORIGINAL)
        pairs = [(point, then.get(cell)) for cell, point in now.items()]
        scores = [selection(point, before) for point, before in pairs if point and before]
        found.append(sum(scores) / len(scores) if 0 < len(scores) == len(pairs) else None)
    return found


def _point(parts: Parts, guessed: Mapping[str, float]) -> dict[str, float] | None:
    """What `selection` reads of one cell."""
    if any(part[SCORE].has_nulls() for part in parts.values()):
        return None
    means = {key: float(part[SCORE].to_numpy().mean()) for key, part in parts.items()}
    leaks = dict(zip(LEAKS, (means["target"], means["worst_form"]), strict=True))
    return leaks | {f"score_{role}": means[role] for role in KEPT if role in means} | dict(guessed)


def chance_levels(items: pl.DataFrame) -> dict[str, dict[str, float]]:
    """What guessing gives of both leaks, by target; every method was asked the same."""
    first = items.row(0, named=True)
    cells = of(items, first["model"], first["method"]).filter(pl.col("seed") == first["seed"])
    found = {}
    for (target,), cell in cells.group_by("target", maintain_order=True):
        asked = cell.filter((pl.col("role") == "target") & ~pl.col("seen"))
        guesses = chances(asked.to_dicts(), cell.to_dicts())
        probes = asked.with_columns(pl.Series(GUESSED, guesses, dtype=pl.Float64))
        plain = probes.filter(pl.col("form") == "question")
        if plain.is_empty():
            continue
        levels = (
            float(each[GUESSED].to_numpy().mean()) for each in (plain, worst(probes, GUESSED))
        )
        found[str(target)] = dict(zip(CHANCE, levels, strict=True))
    return found


def rankings(
    rows: Sequence[Row],
    utility: Mapping[tuple[str, str], Row],
    names: Mapping[str, str],
) -> list[str]:
    """The methods of every model in order, a line for each: by `selection` on the `report` split,
    and by distance to the oracle, where there is one. What is COLLAPSED comes last: its silence is
    no forgetting. `names` says what people call a method; its key stands where it does not.
    """
    lines = []
    several = len({row["model"] for row in rows}) > 1
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model and row["method"] not in REFERENCES]
        ruined = {r["method"] for r in own if utility[model, r["method"]]["collapsed"]}
        where = f" ({model})" if several else ""
        chosen = {r["method"]: r[SELECTION] for r in own if r[SELECTION] is not None}
        far = {r["method"]: r[DISTANCE].mean for r in own if DISTANCE in r and r[DISTANCE].valid}
        if chosen:
            told = _told(chosen, ruined, names, -1)
            lines.append(f"By selection on the report split{where}, high is good: {told}.")
        if far:
            told = _told(far, ruined, names, 1)
            lines.append(f"By distance to the oracle{where}, low is good: {told}.")
    return lines


def _told(
    numbers: Mapping[str, float], ruined: Collection[str], names: Mapping[str, str], sign: int
) -> str:
    order = sorted(numbers, key=lambda name: (name in ruined, sign * numbers[name]))
    return ", ".join(
        f"{names.get(name, name)} {numbers[name]:.3f}" + (" (COLLAPSED)" if name in ruined else "")
        for name in order
    )
