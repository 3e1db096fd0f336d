"""All methods in one order: by the score that chose their settings, and by what they should be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from atu.config.roles import ORIGINAL, REFERENCES
from atu.metrics.selection import CHANCE, LEAKS, PARTNER, RETAINED, selection
from atu.probes.chance import chances
from atu.reporting.items import beside, of, worst
from atu.reporting.tables import DISTANCE
from atu.results.items import SCORE

SELECTION = "selection"
Row = Mapping[str, Any]
GUESSED = "guessed"


def selections(rows: Sequence[Row], items: pl.DataFrame) -> list[float | None]:
    """`selection` of every row of the main table, from its numbers on the `report` split; None
    without the original, where nothing is asked of what should be kept, or where an item was not
    scored.
    """
    before = {row["model"]: row for row in rows if row["method"] == ORIGINAL}
    asked = [role for role in RETAINED if role in rows[0]]
    if not asked or "target" not in rows[0]:
        return [None] * len(rows)
    guessed = chance_levels(items)
    partners = beside(items)

    def point(row: Row) -> dict[str, float] | None:
        partner = of(partners, row["model"], row["method"])[SCORE]
        valid = all(row[key].valid for key in ("target", "worst_form", *asked))
        if not valid or partner.null_count():
            return None
        leaks = dict(zip(LEAKS, (row["target"].mean, row["worst_form"].mean), strict=True))
        kept = {f"score_{role}": row[role].mean for role in asked}
        if len(partner):
            kept[f"score_{PARTNER}"] = float(partner.to_numpy().mean())
        return leaks | guessed | kept

    found = []
    for row in rows:
        first = before.get(row["model"])
        now, then = point(row), first and point(first)
        found.append(selection(now, then) if now and then else None)
    return found


def chance_levels(items: pl.DataFrame) -> dict[str, float]:
    """What guessing gives of both leaks; every method was asked the same."""
    first = items.row(0, named=True)
    cells = of(items, first["model"], first["method"]).filter(pl.col("seed") == first["seed"])
    about = []
    for _, cell in cells.group_by("target", maintain_order=True):
        asked = cell.filter((pl.col("role") == "target") & ~pl.col("seen"))
        guesses = chances(asked.to_dicts(), cell.to_dicts())
        about.append(asked.with_columns(pl.Series(GUESSED, guesses, dtype=pl.Float64)))
    probes = pl.concat(about)
    plain = probes.filter(pl.col("form") == "question")[GUESSED]
    levels = (plain, worst(probes, GUESSED)[GUESSED])
    return {
        name: float(level.to_numpy().mean()) for name, level in zip(CHANCE, levels, strict=True)
    }


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
