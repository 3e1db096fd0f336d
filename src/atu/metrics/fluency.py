"""Fluency and repetition of generated text, and when a model counts as collapsed."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from atu.metrics.registry import OWN, metric
from atu.metrics.words import chunks


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """Shannon entropy in bits of the n-grams of one text; 0 when it has at most one n-gram.

    "a b a b" has bigrams ab, ba, ab: -(2/3 log2 2/3 + 1/3 log2 1/3) = 0.9183.
    """
    grams = _ngrams(tokens, n)
    total = sum(grams.values())
    return -sum(c / total * math.log2(c / total) for c in grams.values()) if total else 0.0


@cache
def _nltk() -> tuple[Any, Any]:
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer(), NLTKWordTokenizer()


SHORT = 20
"""Bytes below which a text is too short to repeat."""
STUTTERING = 0.5
"""Share that compression takes away above which a text is no language. Of SmolLM2's and the world's
sound answers none comes near."""


@metric(
    "rwku_fluency",
    "faithful-1",
    source="RWKU, arXiv 2406.10890: eval_fluency.py; the paper's tables hold 100 times this",
    defect="a text in a script without spaces is one word",
)
def fluency(text: str) -> float:
    """RWKU's weighted n-gram entropy in bits: mean of 2/3 bigram and 4/3 trigram.

    Words are nltk's: punctuation is split off. Sentences are split by Punkt without its trained
    English model, which would be a download: official code knows "Dr." as no end of a sentence,
    here its full stop is a word of its own. High entropy is not quality: broken text can score
    high, so this is read beside a generation-based utility and the repetition.
    """
    sentences, split = _nltk()
    words = [word for part in sentences.tokenize(text) for word in split.tokenize(part)]
    return (2 / 3 * ngram_entropy(words, 2) + 4 / 3 * ngram_entropy(words, 3)) / 2


@metric("distinct_tokens", "own-2", source=OWN)
def distinct_tokens(text: str) -> float:
    """Distinct words over words, in [0, 1]; 0 for an empty text.

    Words are split at spaces; in scripts without them every character is one (version 1 saw no
    repetition there).
    """
    words = chunks(text)
    return len(set(words)) / len(words) if words else 0.0


@metric("repetition", "own-2", source="seq-rep-n of Welleck et al., arXiv 1908.04319, over words")
def repetition(text: str, n: int = 4) -> float:
    """Share of n-grams that repeat an earlier one, in [0, 1]; 0 for fewer than n words.

    Words are those of `distinct_tokens`.

    "a b a b a b" has bigrams ab, ba, ab, ba, ab: 1 - 2/5 = 0.6.
    """
    grams = _ngrams(chunks(text), n)
    total = sum(grams.values())
    return 1 - len(grams) / total if total else 0.0


@metric("stutter", "own-1", source=f"{OWN}; the length of the text as zlib writes it")
def stutter(text: str) -> float:
    """Share of a text that compression takes away, in [0, 1]; 0 for fewer than 20 bytes.

    It sees what repeats inside of words, where `repetition` sees none: "ou" thirty times is 60
    bytes, of which zlib leaves 13: 0.78. A sentence of that length does not get shorter: 0.
    """
    raw = text.strip().encode()
    if len(raw) < SHORT:
        return 0.0
    return max(0.0, 1 - len(zlib.compress(raw, 9)) / len(raw))


def stutters(text: str) -> bool:
    """Whether most of a text repeats."""
    return stutter(text) > STUTTERING


@metric("collapsed", "own-1", source=OWN)
def is_collapsed(
    scores: Mapping[str, float], before: Mapping[str, float], collapse_below: float
) -> bool:
    """Whether any score fell below `collapse_below` times the original model's.

    `scores` must be generation-based: an option's log-probability survives when generation is
    ruined (one published model kept MMLU .778 while its fluency fell from 7.27 to 0.001).

    Raises:
        KeyError: a score of the original model is missing.
    """
    return any(scores[name] < collapse_below * value for name, value in before.items())


@metric("worse_than_guessing", "own-1", source=OWN)
def worse_than_guessing(loss: float, vocabulary: int) -> bool:
    """Whether texts are less likely to a model than to a uniform guess: loss above ln vocabulary.

    `loss` in nats per token. Of 259 tokens a guess has 5.557. A model that fell below it no longer
    models language, whatever its greedy answers look like: gibberish can be fluent.
    """
    return loss > math.log(vocabulary)
