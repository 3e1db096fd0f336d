"""Scored items, the table of every evaluation with questions: columns, and worst forms."""

from __future__ import annotations

import polars as pl

from atu.metrics.overlap import ort_probability
from atu.metrics.worst_form import has_enough, worst_form

SCORE = "score"
"""Column of items: the score by the probe's measure."""
PROBABILITY = ort_probability.id
OFFICIAL = "official"
"""Column of items: the score by the official code of the probe's measure, if it has one."""
BLIND = "blind"
"""Column: whether the official score reads another text than is written
(`measures.official_is_blind`)."""
WORST_OF = "worst_of"
"""Column of probes: of how many wordings of a fact the worst counts; null for the worst form."""
WORDINGS = "wordings"
"""Column of items: in how many held-out wordings the role's questions ask for the fact."""


def worst_of(items: pl.DataFrame) -> int | None:
    """What these items, all of one benchmark, count as the worst: of so many wordings, or None for
    the worst form.
    """
    return items[WORST_OF][0] if len(items) else None


def worst_forms(items: pl.DataFrame, score: str = SCORE) -> dict[str, float]:
    """Per fact, its score in the form or among the wordings in which it leaks most. Facts with too
    few wordings are left out.
    """
    scored = items.select("fact", "form", score).drop_nulls()
    worst = worst_form(scored.iter_rows(), worst_of(items))
    enough = has_enough(scored["fact"], worst_of(items))
    return {fact: value for fact, value in worst.items() if fact in enough}


def wordings_per_fact(items: pl.DataFrame) -> list[int]:
    """How many wordings each fact has, each once for all models, targets and seeds."""
    return items.unique(["fact", "id"]).group_by("fact").len()["len"].to_list()


def with_wordings(items: pl.DataFrame) -> pl.DataFrame:
    """The items with the column `WORDINGS`."""
    count = (~pl.col("seen")).sum().over("role", "fact")
    return items.with_columns(count.cast(pl.Int64).alias(WORDINGS))
