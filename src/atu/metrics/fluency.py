"""Fluency and repetition of generated text, and when a model counts as collapsed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """Shannon entropy in bits of the n-grams of one text; 0 when it has at most one n-gram.

    "a b a b" has bigrams ab, ba, ab: -(2/3 log2 2/3 + 1/3 log2 1/3) = 0.9183.
    """
    grams = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    total = sum(grams.values())
    return -sum(c / total * math.log2(c / total) for c in grams.values()) if total else 0.0


def fluency(text: str) -> float:
    """RWKU's weighted n-gram entropy (arXiv 2406.10890): mean of 2/3 bigram and 4/3 trigram.

    High entropy is not quality: broken text can score high, so this is read beside a
    generation-based utility and the share of distinct tokens.
    """
    words = text.split()
    return (2 / 3 * ngram_entropy(words, 2) + 4 / 3 * ngram_entropy(words, 3)) / 2


def distinct_tokens(text: str) -> float:
    """Distinct words over words, in [0, 1]; 0 for an empty text."""
    words = text.split()
    return len(set(words)) / len(words) if words else 0.0


def is_collapsed(
    scores: Mapping[str, float], before: Mapping[str, float], collapse_below: float
) -> bool:
    """Whether any score fell below `collapse_below` times what the original model has.

    `scores` must be generation-based: an option's log-probability survives when generation is
    ruined (one published model kept MMLU .778 while its fluency fell from 7.27 to 0.001).

    Raises:
        KeyError: a score of the original model is missing.
    """
    return any(scores[name] < collapse_below * value for name, value in before.items())
