"""MUSE's measure of an answer: ROUGE-L F."""

from __future__ import annotations

from atu.metrics.registry import metric
from atu.metrics.rouge import rouge_l

KNOWLEDGE_STOPS = ("\n\n", "\nQuestion", "Question:")
"""MUSE ends an answer at the first of these."""


@metric("muse_knowledge", "faithful-1", source="MUSE, arXiv 2407.06460: metrics/knowmem.py")
def muse_knowledge(output: str, answer: str) -> float:
    r"""ROUGE-L F measure in [0, 1] of the output up to the next question, without stemmer.

    Cut at the first blank line, "\nQuestion" or "Question:". MUSE reports 100 times the mean. "the
    cello\nQuestion: who" is cut to "the cello"; for "cello" precision is 1/2, recall 1, F = 2/3.
    """
    for stop in KNOWLEDGE_STOPS:
        output = output.split(stop)[0]
    return float(rouge_l(output, answer, stemmer=False).fmeasure)
