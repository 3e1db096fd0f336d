"""MUSE's measure of an answer: ROUGE-L F."""

from __future__ import annotations

from atu.metrics.registry import metric
from atu.metrics.rouge import rouge_l


@metric("muse_knowledge", "faithful-2", source="MUSE, arXiv 2407.06460: metrics/knowmem.py")
def muse_knowledge(output: str, answer: str) -> float:
    """ROUGE-L F measure in [0, 1], without stemmer.

    MUSE reports 100 times the mean, and ends an answer where the benchmark's stops do (version 1
    cut them here). "the cello" for "cello": precision is 1/2, recall 1, F = 2/3.
    """
    return float(rouge_l(output, answer, stemmer=False).fmeasure)
