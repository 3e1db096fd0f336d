"""How likely the gold answer is, and how many words of it an answer has."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from atu.metrics.registry import metric


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
