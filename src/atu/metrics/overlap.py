"""How much of the gold answer an answer contains, and how likely the gold answer is."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from atu.metrics.registry import metric


@metric(
    "rwku_rouge_l_recall",
    "faithful-1",
    source="RWKU, arXiv 2406.10890: eval_forget.py with the package `rouge` 1.0.1",
    defect="case-sensitive; splits on spaces and full stops only; the order of words across "
    "sentences is lost; a repeated gold word counts once; an answer of full stops alone fails",
)
def rwku_rouge_l_recall(answer: str, gold: str) -> float | None:
    """ROUGE-L recall in [0, 1] as RWKU's scorer gives it; None where that scorer fails.

    Sentences end at full stops, words at spaces; the union of the longest common subsequences of
    every pair of sentences is counted over the gold words. An empty answer is "NOANSWER" there.
    """
    from rouge import Rouge

    try:
        return float(Rouge().get_scores(answer or "NOANSWER", gold)[0]["rouge-l"]["r"])
    except ValueError:
        return None


@cache
def _scorer(stemmer: bool) -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=stemmer)


def rouge_l(answer: str, gold: str, stemmer: bool) -> Any:
    """`rouge_score`'s precision, recall and F measure of ROUGE-L, lower-cased."""
    return _scorer(stemmer).score(gold, answer)["rougeL"]


@metric("rwku_rouge_l_recall", "fixed-1", source="`rouge_score` without stemming, lower-cased")
def rwku_rouge_l_recall_fixed(answer: str, gold: str) -> float:
    """ROUGE-L recall in [0, 1] that ignores case and punctuation and is defined for any answer.

    "the old clock" for "old tall clock" shares (old, clock): 2/3.
    """
    return float(rouge_l(answer, gold, stemmer=False).recall)


@metric(
    "ort_probability",
    "faithful-1",
    source="ORT, arXiv 2506.07795: eval_ort; the paper's text calls it a joint probability",
)
def ort_probability(log_probs: np.ndarray) -> float:
    """Exponential of the mean log-probability of the gold answer's tokens, in [0, 1].

    Tokens of probability 1/2 and 1/8: exp((ln 1/2 + ln 1/8) / 2) = 1/4.
    """
    return float(np.exp(np.mean(log_probs)))


@metric(
    "triviaqa_f1",
    "faithful-1",
    source="Joshi et al., arXiv 1705.03551: official evaluation; RWKU: eval_triviaqa.py",
)
def triviaqa_f1(answer: str, aliases: Sequence[str]) -> float:
    """Largest F1 in [0, 1] of the answer's words with any alias.

    Lower case, without punctuation and articles. "the Nile river" for "Nile": precision 1/2,
    recall 1, F1 = 2/3.

    Raises:
        ValueError: no alias.
    """
    return max(_word_f1(_words(answer), _words(alias)) for alias in aliases)


def _words(text: str) -> list[str]:
    plain = "".join(" " if c in string.punctuation else c for c in text.lower())
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _word_f1(words: list[str], gold: list[str]) -> float:
    shared = sum((Counter(words) & Counter(gold)).values())
    return 2 * shared / (len(words) + len(gold)) if shared else 0.0
