"""Scored items, the table of every evaluation with questions: columns, and worst forms."""

from __future__ import annotations

import polars as pl

from atu.metrics.overlap import ort_probability
from atu.metrics.worst_form import worst_form

SCORE = "score"
"""Column of items: the score by the probe's measure."""
PROBABILITY = ort_probability.id
OFFICIAL = "official"
"""Column of items: the score by the official code of the probe's measure, if it has one."""
BLIND = "blind"
"""Column: whether the official score reads another text than is written
(`measures.official_is_blind`)."""


def worst_forms(items: pl.DataFrame, score: str = SCORE) -> dict[str, float]:
    """Per fact, its score in the form in which it leaks most."""
    return worst_form(items.select("fact", "form", score).drop_nulls().iter_rows())
