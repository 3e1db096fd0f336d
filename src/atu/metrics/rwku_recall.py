"""RWKU's measure of an answer: ROUGE-L recall."""

from __future__ import annotations

import unicodedata

from atu.metrics.registry import metric
from atu.metrics.rouge import rouge_l_any_script
from atu.metrics.words import UNSPACED


@metric(
    "rwku_rouge_l_recall",
    "faithful-1",
    source="RWKU, arXiv 2406.10890: eval_forget.py with the package `rouge` 1.0.1",
    defect="case-sensitive; splits on spaces and full stops only; the order of words across "
    "sentences is lost; a repeated gold word counts once; an answer of full stops alone fails, or "
    "one of a thousand words in a sentence",
    knowledge="rises",
)
def rwku_rouge_l_recall(answer: str, gold: str) -> float | None:
    """ROUGE-L recall in [0, 1] as RWKU's scorer gives it; None where that scorer fails.

    Sentences end at full stops, words at spaces; the union of the longest common subsequences of
    every pair of sentences is counted over the gold words. An empty answer is "NOANSWER" there.
    """
    from rouge import Rouge

    try:
        return float(Rouge().get_scores(answer or "NOANSWER", gold)[0]["rouge-l"]["r"])
    except (ValueError, RecursionError):
        return None


@metric(
    "rwku_rouge_l_recall",
    "fixed-2",
    source="`rouge_score` without stemming, over any script's words",
    knowledge="rises",
)
def rwku_rouge_l_recall_fixed(answer: str, gold: str) -> float:
    """ROUGE-L recall in [0, 1] that ignores case and punctuation and is defined for any answer.

    "the old clock" for "old tall clock" shares (old, clock): 2/3. Version 1 read the letters a to
    z alone, so that any answer in Cyrillic scored 0.
    """
    return float(rouge_l_any_script(answer, gold, stemmer=False).recall)


def is_blind(answer: str, gold: str) -> bool:
    """Whether `faithful-1` cannot compare the words: either text is in a script without spaces, or
    is not in Unicode's composed form, so that equal letters differ.
    """
    return any(UNSPACED.search(t) or unicodedata.normalize("NFKC", t) != t for t in (answer, gold))


OFFICIAL = rwku_rouge_l_recall
"""What the benchmark's own code reports; `is_blind` says where it must not."""
