"""Scored items, the table of every evaluation with questions: columns, and worst forms."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from atu.metrics.overlap import ort_probability
from atu.metrics.worst_form import has_enough, worst_form
from atu.probes.prompts import ASIDE

SCORE = "score"
"""Column of items: the score by the probe's measure."""
PROBABILITY = ort_probability.id
OFFICIAL = "official"
"""Column of items: the score by the official code of the probe's measure, if it has one."""
BLIND = "blind"
"""Column: whether the official score reads another text than is written
(`measures.official_is_blind`)."""
WORST_OF = "worst_of"
"""Column of probes: of how many wordings of a fact the worst counts; null for the worst form,
`ASIDE` for a wording that is not among them."""
WORDINGS = "wordings"
"""Column of items: in how many held-out wordings the role's questions ask for the fact."""


def counted(items: pl.DataFrame) -> pl.DataFrame:
    """The items among which the worst of a fact is taken."""
    return items.filter(pl.col(WORST_OF).ne_missing(ASIDE))


def worst_of(items: pl.DataFrame) -> int | None:
    """What these items, all of one benchmark, count as the worst: of so many wordings, or None for
    the worst form.
    """
    column = counted(items)[WORST_OF]
    return column[0] if len(column) else None


def worst_forms(items: pl.DataFrame, score: str = SCORE) -> dict[str, float]:
    """Per fact, its score in the form or among the wordings in which it leaks most. Facts with too
    few wordings are left out.
    """
    return worst_of_rows(counted(items).select("fact", "form", score).rows(), worst_of(items))


def worst_of_rows(rows: Sequence[tuple[str, str, float | None]], m: int | None) -> dict[str, float]:
    """`worst_forms` of rows of fact, form and score, of which m wordings of a fact count."""
    scored = [(fact, form, score) for fact, form, score in rows if score is not None]
    enough = has_enough((fact for fact, _, _ in scored), m)
    return {fact: value for fact, value in worst_form(scored, m).items() if fact in enough}


def wordings_per_fact(items: pl.DataFrame) -> list[int]:
    """How many wordings each fact has, each once for all models, targets and seeds."""
    return counted(items).unique(["fact", "id"]).group_by("fact").len()["len"].to_list()


def with_wordings(items: pl.DataFrame) -> pl.DataFrame:
    """The items with the column `WORDINGS`."""
    count = (~pl.col("seen") & pl.col(WORST_OF).ne_missing(ASIDE)).sum().over("role", "fact")
    return items.with_columns(count.cast(pl.Int64).alias(WORDINGS))
