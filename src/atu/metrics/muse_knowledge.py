"""MUSE's measure of an answer: ROUGE-L F."""

from __future__ import annotations

from atu.metrics.registry import metric
from atu.metrics.rouge import BLIND, decoded, is_blind, rouge_l, rouge_l_any_script

__all__ = [
    "OFFICIAL",
    "is_blind",
    "muse_knowledge",
    "muse_knowledge_fixed",
    "open_unlearning_knowledge",
]


@metric(
    "muse_knowledge",
    "faithful-2",
    source="MUSE, arXiv 2407.06460: metrics/knowmem.py",
    defect=BLIND,
    knowledge="rises",
)
def muse_knowledge(output: str, answer: str) -> float:
    """ROUGE-L F measure in [0, 1] of the decoded output, without stemmer.

    MUSE reports 100 times the mean, and ends an answer where the benchmark's stops do (version 1
    cut them here). The gold answer is compared as it is written. "the cello" for "cello": precision
    is 1/2, recall 1, F = 2/3.
    """
    return float(rouge_l(decoded(output), answer, stemmer=False).fmeasure)


@metric(
    "muse_knowledge",
    "fixed-1",
    source="`faithful-2` over the words of any script",
    knowledge="rises",
)
def muse_knowledge_fixed(output: str, answer: str) -> float:
    """ROUGE-L F measure in [0, 1], without stemmer, in any script.

    Equal to `faithful-2` for texts whose letters are all a to z.
    """
    return float(rouge_l_any_script(decoded(output), answer, stemmer=False).fmeasure)


@metric(
    "open_unlearning_knowledge",
    "faithful-1",
    source="open-unlearning: src/evals/metrics/utils.py, `rougeL_f1` of MUSE's KnowMem",
    defect=BLIND,
    knowledge="rises",
)
def open_unlearning_knowledge(output: str, answer: str) -> float:
    """ROUGE-L F measure in [0, 1] with the stemmer, which MUSE itself does not use.

    Of both texts as decoded.

    "lighting lamps" for "lights lamp" is 1 here and 0 for MUSE.
    """
    return float(rouge_l(decoded(output), decoded(answer), stemmer=True).fmeasure)


OFFICIAL = muse_knowledge
"""What the benchmark's own code reports; `is_blind` says where it must not."""
