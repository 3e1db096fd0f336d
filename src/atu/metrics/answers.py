"""Scores of one answer against the gold answer."""

from __future__ import annotations

import re
import string
import unicodedata

_EDGE = string.punctuation + string.whitespace


def normalise(text: str) -> str:
    """Unicode NFKC, lower case, single spaces, no leading article, no punctuation at the edges."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"\s+", " ", text).strip(_EDGE)
    return re.sub(r"^(the|a|an) ", "", text).strip(_EDGE)


def exact_match(answer: str, gold: str) -> float:
    """1.0 when both are the same after `normalise`, else 0.0. An empty answer never matches."""
    found = normalise(answer)
    return float(bool(found) and found == normalise(gold))


def contains(answer: str, gold: str) -> float:
    """1.0 when the gold answer stands in the answer as whole words, after `normalise`; an
    empty gold answer stands nowhere.
    """
    if not normalise(gold):
        return 0.0
    pattern = rf"(?<!\w){re.escape(normalise(gold))}(?!\w)"
    return float(re.search(pattern, normalise(answer)) is not None)


def rouge_l_recall(answer: str, gold: str) -> float:
    """ROUGE-L recall in [0, 1] by `rouge_score` without stemming, lower-cased.

    RWKU's official scorer (package `rouge`) is case-sensitive and fails on an answer of dots; this
    is the repaired variant. "the old clock" for "old tall clock" shares (old, clock): 2/3.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    return float(scorer.score(gold, answer)["rougeL"].recall)
