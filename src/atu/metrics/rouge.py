"""ROUGE-L as the package `rouge_score` gives it, and the same in any script."""

from __future__ import annotations

from functools import cache
from typing import Any

from atu.metrics.words import ascii_words, same, words

BLIND = (
    "blind to all letters but a to z: any Cyrillic answer scores 0, of `Élodie` only `lodie` counts"
)
"""The defect of every score on `rouge_score`'s own words (`is_blind`)."""
STEMMED_FROM = 4
"""Letters from which `rouge_score` stems a word."""


class _AnyScript:
    """A tokenizer for `rouge_score` that reads every script."""

    def __init__(self, stemmer: Any) -> None:
        self.stemmer = stemmer

    def tokenize(self, text: str) -> list[str]:
        """The words of a text; English ones as their stems, if there is a stemmer."""
        found = words(text)
        if self.stemmer is None:
            return found
        return [
            self.stemmer.stem(word) if len(word) >= STEMMED_FROM and word.isascii() else word
            for word in found
        ]


@cache
def _scorer(stemmer: bool, any_script: bool) -> Any:
    from nltk.stem.porter import PorterStemmer
    from rouge_score import rouge_scorer

    tokenizer = _AnyScript(PorterStemmer() if stemmer else None) if any_script else None
    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=stemmer, tokenizer=tokenizer)


def rouge_l(answer: str, gold: str, *, stemmer: bool) -> Any:
    """`rouge_score`'s precision, recall and F measure of ROUGE-L, lower-cased; blind to every
    letter but a to z (`is_blind`).
    """
    return _scorer(stemmer, False).score(gold, answer)["rougeL"]


def rouge_l_any_script(answer: str, gold: str, *, stemmer: bool) -> Any:
    """The same over the words of any script; equal to `rouge_l` where that is not blind.

    Texts without any word, such as "C♯" beside "♯", have 1 if they show the same signs.
    """
    score = _scorer(stemmer, True).score(gold, answer)["rougeL"]
    if not words(gold) and same(answer, gold):
        return type(score)(precision=1.0, recall=1.0, fmeasure=1.0)
    return score


def decoded(text: str) -> str:
    """The text as MUSE and open-unlearning decode it, with transformers' clean-up: "do n't" is
    "don't". All else that it joins are signs, which no word of `rouge_score` has.
    """
    return text.replace(" n't", "n't")


def is_blind(answer: str, gold: str) -> bool:
    """Whether `rouge_score` reads another text than is written: it drops or splits words of the
    answer or of the gold answer.

    "Élodie" (read as "lodie"), any Cyrillic word (nothing is read), full-width digits. Not
    "O’Quent", which is two words either way.
    """
    return any(ascii_words(text) != words(text) for text in (answer, gold))
