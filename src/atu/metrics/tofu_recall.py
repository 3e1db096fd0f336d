"""TOFU's measure of an answer: ROUGE-L recall."""

from __future__ import annotations

from atu.metrics.registry import metric
from atu.metrics.rouge import rouge_l


@metric(
    "tofu_rouge_l_recall",
    "faithful-1",
    source="TOFU, arXiv 2401.06121: evaluate_util.py; open-unlearning the same",
)
def tofu_rouge_l_recall(answer: str, gold: str) -> float:
    """ROUGE-L recall in [0, 1] by `rouge_score` with its stemmer, lower-cased.

    "the old clocks" for "old tall clock" shares (old, clock), for the stemmer cuts the s: 2/3.
    """
    return float(rouge_l(answer, gold, stemmer=True).recall)
