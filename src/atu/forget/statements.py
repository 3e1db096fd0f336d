"""Sentences with an answer at their end that the model gives for this subject only.

Without ground truth a question is one of the model's sentences, cut before its end. The end is a
fact about the subject only if the model ends the sentence differently for an invented name: "Ann
keeps a pony as a" gives "pet" for everybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atu.forget.author import Author
from atu.forget.names import spans
from atu.forget.settings import Writing
from atu.forget.texts import find_name, sentences, words
from atu.probes.prompts import INVENTED_NAMES
from atu.untrusted.names import FUNCTION_WORDS, replace_names

EDGE = " .!?,;:\"'()\u2019\u201c\u201d"
MIN_BEGINNING = 2
"""Words before the cut."""
PLACEBOS = INVENTED_NAMES[:2]


@dataclass(frozen=True)
class Cut:
    """A sentence cut in two: the beginning, and the answer."""

    subject: str
    """The subject's name; empty for a sentence about nobody in particular."""
    sentence: str
    beginning: str
    answer: str

    @property
    def statement(self) -> str:
        """Beginning and answer, without the rest."""
        return f"{self.beginning} {self.answer}"

    @property
    def rest(self) -> str:
        """The text after the answer."""
        at = self.sentence.find(self.answer, len(self.beginning))
        return self.sentence[at + len(self.answer) :]


def cuts(sentence: str, subject: str, most: int) -> Iterator[Cut]:
    """The ways to cut a sentence before its last 1 to `most` words, the shortest end first: after
    the subject, not within a proper name, and without a subject after a function word. A sentence
    that names its subject twice is not cut, as it may give the answer away. There is also no cut
    after another name that follows the subject, as the end may then refer to that name.

    "Ann Bell studied at Elm Hall." is cut before "Elm Hall." (not "Hall."), "at", "studied"; "Ann
    Bell met Bo Day, a tailor." not before "tailor", but before "Bo Day".
    """
    place = find_name(sentence, subject)
    if subject and (place is None or find_name(sentence[place.end() :], subject)):
        return
    subject_end = place.end() if place else 0
    names, parts = spans(sentence), list(re.finditer(r"\S+", sentence))
    for count in range(1, min(most, len(parts) - MIN_BEGINNING) + 1):
        start = parts[-count].start()
        if start < subject_end or any(a < start < b for a, b in names):
            continue
        if subject and any(subject_end <= a < start for a, _ in names):
            continue
        if not subject and parts[-count - 1][0].lower() not in FUNCTION_WORDS:
            continue
        answer = sentence[start:].strip(EDGE)
        if answer:
            yield Cut(subject, sentence, sentence[:start].rstrip(), answer)


def trimmed(answer: str, placebo: str) -> str:
    """The answer without the last words that it shares with the placebo's: "pony as a pet" beside
    "owl as a pet." leaves "pony". Empty if both begin alike. A proper name at its end stays whole.
    """
    left, shared = answer.split(), words((sentences(placebo) or [placebo])[0])
    if not left or words(left[0]) == shared[:1]:
        return ""
    named = any(end == len(answer) for _, end in spans(answer))
    while not named and left and shared and words(left[-1]) == [shared[-1]]:
        left, shared = left[:-1], shared[:-1]
    return " ".join(left).strip(EDGE)


def find_cuts(
    author: Author, writing: Writing, statements: Sequence[tuple[str, str]], label: str
) -> list[Cut]:
    """The shortest end of every sentence that the model gives for this subject only.

    Args:
        statements: subject and sentence.
    """
    candidates = [
        c for subject, text in statements for c in cuts(text, subject, writing.answer_words)
    ]
    ends = _proceed(author, writing, [cut.beginning for cut in candidates], label)
    confirmed = [c for c, end in zip(candidates, ends, strict=True) if _begins(end, c.answer)]
    for name in PLACEBOS:
        with_subject = [cut for cut in confirmed if cut.subject]
        swapped = [replace_names(cut.beginning, [_as_written(cut)], name) for cut in with_subject]
        placebo_ends = dict(
            zip(with_subject, _proceed(author, writing, swapped, label), strict=True)
        )
        confirmed = [
            Cut(cut.subject, cut.sentence, cut.beginning, left)
            for cut in confirmed
            if (left := trimmed(cut.answer, placebo_ends[cut]) if cut.subject else cut.answer)
        ]
    shortest: dict[tuple[str, str], Cut] = {}
    for cut in confirmed:  # the shortest end of a sentence comes first
        shortest.setdefault((cut.subject, cut.sentence), cut)
    return list(shortest.values())


def _as_written(cut: Cut) -> str:
    """The subject as the sentence spells it."""
    place = find_name(cut.beginning, cut.subject)
    assert place is not None
    return place[0]


def _proceed(author: Author, writing: Writing, texts: Sequence[str], label: str) -> list[str]:
    """The continuation of every text; duplicates are continued once."""
    distinct = list(dict.fromkeys(texts))
    continuations = author.proceed(distinct, writing.answer_tokens, label) if distinct else []
    by_text = dict(zip(distinct, continuations, strict=True))
    return [by_text[text] for text in texts]


def _begins(continuation: str, answer: str) -> bool:
    """Whether the continuation starts with a space and the answer's words."""
    expected = words(answer)
    return continuation[:1].isspace() and words(continuation)[: len(expected)] == expected
