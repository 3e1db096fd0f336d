"""ROUGE-L as the package `rouge_score` gives it, on which several measures build."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _scorer(stemmer: bool) -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=stemmer)


def rouge_l(answer: str, gold: str, stemmer: bool) -> Any:
    """`rouge_score`'s precision, recall and F measure of ROUGE-L, lower-cased."""
    return _scorer(stemmer).score(gold, answer)["rougeL"]
