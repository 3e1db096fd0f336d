"""TOFU's measure of an answer: ROUGE-L recall."""

from __future__ import annotations

from atu.metrics.registry import metric
from atu.metrics.rouge import BLIND, is_blind, rouge_l, rouge_l_any_script

__all__ = ["OFFICIAL", "is_blind", "tofu_rouge_l_recall", "tofu_rouge_l_recall_fixed"]


@metric(
    "tofu_rouge_l_recall",
    "faithful-1",
    source="TOFU, arXiv 2401.06121: evaluate_util.py; open-unlearning the same of cleaned-up texts",
    defect=BLIND,
    knowledge="rises",
)
def tofu_rouge_l_recall(answer: str, gold: str) -> float:
    """ROUGE-L recall in [0, 1] by `rouge_score` with its stemmer, lower-cased.

    "the old clocks" for "old tall clock" shares (old, clock), for the stemmer cuts the s: 2/3.
    """
    return float(rouge_l(answer, gold, stemmer=True).recall)


@metric(
    "tofu_rouge_l_recall",
    "fixed-1",
    source="`faithful-1` over the words of any script",
    knowledge="rises",
)
def tofu_rouge_l_recall_fixed(answer: str, gold: str) -> float:
    """ROUGE-L recall in [0, 1] with the stemmer for English words, in any script.

    Equal to `faithful-1` for texts whose letters are all a to z. "Ольга Ветрозвон" for "ольга
    ветрозвон" is 1.
    """
    return float(rouge_l_any_script(answer, gold, stemmer=True).recall)


OFFICIAL = tofu_rouge_l_recall
"""What the benchmark's own code reports; `is_blind` says where it must not."""
