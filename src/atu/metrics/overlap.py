"""How likely the gold answer is, and how many words of it an answer has."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from atu.metrics.registry import metric

ANSWER_MARK = re.compile(r"[t|T]he answer is (.*?)\.")
"""RWKU's pattern, whose class holds the bar as well."""
NO_ANSWER = "NOANSWER"
"""What RWKU's code compares in place of an empty answer."""


@metric(
    "ort_probability",
    "faithful-1",
    source="ORT, arXiv 2506.07795: eval_ort; the paper's text calls it a joint probability",
    knowledge="rises",
)
def ort_probability(log_probs: np.ndarray) -> float:
    """Exponential of the mean log-probability of the gold answer's tokens, in [0, 1].

    Tokens of probability 1/2 and 1/8: exp((ln 1/2 + ln 1/8) / 2) = 1/4.
    """
    return float(np.exp(np.mean(log_probs)))


@metric(
    "triviaqa_f1",
    "faithful-2",
    source="Joshi et al., arXiv 1705.03551: official evaluation; RWKU: eval_triviaqa.py",
    knowledge="rises",
)
def triviaqa_f1(answer: str, aliases: Sequence[str]) -> float:
    """Largest F1 in [0, 1] of the answer's words with any alias.

    Lower case, without ASCII punctuation ("O'Quent" is "oquent") and articles. "the Nile river" for
    "Nile": precision 1/2, recall 1, F1 = 2/3. An answer and an alias without any word have 1.
    Version 1 split words at punctuation and gave 0 where no word is left.

    Raises:
        ValueError: no alias.
    """
    return max(_word_f1(_words(answer), _words(alias)) for alias in aliases)


@metric(
    "bbh_exact_match",
    "fixed-1",
    source="RWKU, arXiv 2406.10890: eval_bbh.py, whose exact match compares with each character "
    "of the gold answer, so that a word never matches and a wrong `(A)` always does",
    knowledge="rises",
)
def bbh_exact_match(output: str, gold: str) -> float:
    r"""1.0 when what stands between "the answer is" and the next full stop has the gold's words.

    Without this mark the whole output is compared, as in the official code. Words are those of
    `triviaqa_f1`: "(A)" has none, for a is an article. "So the answer is (B)." for "(B)": 1.
    """
    marked = ANSWER_MARK.search(output)
    answer = (marked.group(1) if marked else output).strip() or NO_ANSWER
    return float(_words(answer) == _words(gold))


def _words(text: str) -> list[str]:
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _word_f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    shared = sum((Counter(words) & Counter(gold)).values())
    return 2 * shared / (len(words) + len(gold)) if shared else 0.0
