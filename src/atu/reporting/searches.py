"""Searches, trial by trial: how settings were chosen, and who was cut short."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from atu.config.sections import Search

QUARTERS = 4


def search_words(section: Search) -> str:
    """How the settings of a searched method were chosen."""
    first, *further = section.targets
    tried = (
        "all combinations of its choices" if section.trials is None else f"{section.trials} trials"
    )
    if not further:
        return f"A searched method’s settings are the best of {tried} on {first}"
    return (
        f"Of a searched method {tried} were run on {first}, the best of them (at most "
        f"{section.finalists}) on {', '.join(further)} too, and the highest mean was chosen"
    )


def searches_table(searched: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per searched model and method: the first trial's score, the best so far after each quarter of
    the trials, all on the first target; which trial was chosen (from 1) and its score over all
    targets; and whether it was cut short: the best came in the last quarter, so that further trials
    may find a better one, and there are some.
    """
    rows = []
    for row in searched:
        curve = row["best_so_far"]
        quarters = [curve[math.ceil(i * len(curve) / QUARTERS) - 1] for i in range(1, QUARTERS + 1)]
        rows.append(
            {"model": row["model"], "method": row["method"], "first": row["scores"][0]}
            | {f"best_{i}_4": best for i, best in enumerate(quarters, 1)}
            | {
                "trial": row["trial"],
                "trials": len(curve),
                "score": row["score"],
                "cut_short": not row["complete"] and quarters[-1] > quarters[-2],
            }
        )
    return rows


def trials_table(searched: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every trial of every search: its score on the first target, 0 if it diverged, the best so
    far, and of finalists the scores on the other targets, apart by blanks.
    """
    return [
        {"model": row["model"], "method": row["method"], "trial": number}
        | {"score": found, "best_so_far": best, "others": " ".join(map(str, others))}
        for row in searched
        for number, (found, best, others) in enumerate(
            zip(row["scores"], row["best_so_far"], row["others"], strict=True), 1
        )
    ]
