"""Everything that the report's page, figures and files show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atu.metrics.trust import Trust
from atu.reporting.answers import Group
from atu.reporting.robustness import Shown
from atu.reporting.verdict import Verdict


@dataclass(frozen=True)
class Tables:
    """Everything the page, the figures and the CSV files show."""

    methods: list[str]
    names: dict[str, str]
    """What people call them."""
    notes: dict[str, str]
    """What a reader must know of a method before its numbers."""
    measure: str
    """Id of the metric that the answers are scored by."""
    worst: str
    """What its column of worst forms holds."""
    columns: dict[str, str]
    """Of the main table, those that the benchmark asks anything for."""
    rows: list[dict[str, Any]]
    """Of the main table, with `selection` and, where there is an oracle, the distance to it."""
    words: list[dict[str, Any]]
    """Per model and method `words`, the verdict in one line, and `collapsed`."""
    sentences: list[str]
    """Who is beaten in every column; stands first on the page."""
    headline: list[dict[str, Any]]
    cells: list[dict[str, Any]]
    """Per cell its headline, and `folder`, what Snakemake is asked for to make it."""
    answers: list[Group]
    amid: dict[str, tuple[int, int]]
    """`amid_counts` of every method."""
    attacker_columns: dict[str, str]
    attacker: list[dict[str, Any]]
    forms: list[dict[str, Any]]
    gaps: list[dict[str, Any]]
    """What the distances are made of."""
    comparison: list[dict[str, Any]]
    compared: dict[str, str]
    """Its columns: key to title."""
    robustness: list[dict[str, Any]]
    shown: list[Shown]
    mattering: list[Shown]
    """Of the lines shown, those that stand outside the fold."""
    summary: list[dict[str, Any]]
    privacy: list[dict[str, Any]]
    privacy_titles: dict[str, str]
    """Of the lines that the privacy table has."""
    failed: dict[str, str]
    """By the key of a column or line, why its number is not to be trusted."""
    meta: list[Trust]
    """Which numbers can be trusted, where the grid has enough models to say."""
    requests: list[dict[str, Any]]
    cost: list[dict[str, Any]]
    searches: list[dict[str, Any]]
    trials: list[dict[str, Any]]
    points: Any
    utility: dict[tuple[str, str], dict[str, float]]
    items: Any
    verdicts: dict[str, Verdict]
    """Of every checkpoint that somebody else made, by the name of its model and its own."""
