"""What people call measures and figures; those of methods, attacks and forms stand with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MEASURES = {
    "exact_match": "exact match",
    "contains": "containing the right answer",
    "rwku_rouge_l_recall": "ROUGE-L recall",
    "tofu_rouge_l_recall": "ROUGE-L recall",
    "muse_knowledge": "ROUGE-L recall, as MUSE has it",
}


def measure_name(metric: str) -> str:
    """What people call the metric that answers are scored by."""
    return MEASURES.get(metric.partition("@")[0], metric)


def called(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> str:
    """What people call the method of a row, its key where `names` has none; with its model where
    the rows have several.
    """
    several = len({other["model"] for other in rows}) > 1
    name = names.get(row["method"], row["method"])
    return f"{name} ({row['model']})" if several else name


PAGE = "report.html"
"""The report's file for people."""
FIGURES = {
    "forget_retain.svg": "What leaks of the target, and what is kept of others, per method",
    "leakage_by_form.svg": "Score about the target per method and form of asking",
    "robustness.svg": "Leakage per method and way of asking or attacking",
    "trajectories.svg": "Scores over unlearning steps per method",
}
"""The report's figures, and what somebody hears who does not see them."""
