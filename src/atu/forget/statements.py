"""Sentences with an answer at their end: what the model says of a subject and of nobody else.

Without ground truth a question is a sentence of the model's own, cut before its end. It says
something about a subject only if the model ends it so for this subject alone: with an invented name
in its place ("Ann keeps a pony as a" gives "pet" for everybody) the end must be another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atu.forget.author import Author
from atu.forget.names import FUNCTION_WORDS, spans
from atu.forget.settings import Writing
from atu.forget.texts import find_name, sentences, words
from atu.probes.prompts import INVENTED_NAMES, swap_names

EDGE = " .!?,;:\"'()\u2019\u201c\u201d"
MIN_BEGINNING = 2
"""Words before the cut."""
PLACEBOS = INVENTED_NAMES[:2]


@dataclass(frozen=True)
class Cut:
    """A sentence in two: what is given, and what is asked for."""

    subject: str
    """Whom it is about; empty for a sentence about nobody in particular."""
    sentence: str
    beginning: str
    answer: str

    @property
    def told(self) -> str:
        """What is given and what is asked for, without what stands behind."""
        return f"{self.beginning} {self.answer}"

    @property
    def rest(self) -> str:
        """What stands behind the answer in the sentence."""
        at = self.sentence.find(self.answer, len(self.beginning))
        return self.sentence[at + len(self.answer) :]


def cuts(sentence: str, subject: str, most: int) -> Iterator[Cut]:
    """The ways to cut a sentence before its last 1 to `most` words, the shortest end first: behind
    the subject, not within a proper name, and where there is no subject, behind a function word. A
    sentence that names its subject twice is not cut: it may give the answer away. Nor is it cut
    where another name stands between the subject and the end, which is then said of that one.

    "Ann Bell studied at Elm Hall." is cut before "Elm Hall." (not "Hall."), "at", "studied"; "Ann
    Bell met Bo Day, a tailor." not before "tailor", but before "Bo Day".
    """
    place = find_name(sentence, subject)
    if subject and (place is None or find_name(sentence[place.end() :], subject)):
        return
    behind = place.end() if place else 0
    names, parts = spans(sentence), list(re.finditer(r"\S+", sentence))
    for count in range(1, min(most, len(parts) - MIN_BEGINNING) + 1):
        start = parts[-count].start()
        if start < behind or any(a < start < b for a, b in names):
            continue
        if subject and any(behind <= a < start for a, _ in names):
            continue
        if not subject and parts[-count - 1][0].lower() not in FUNCTION_WORDS:
            continue
        answer = sentence[start:].strip(EDGE)
        if answer:
            yield Cut(subject, sentence, sentence[:start].rstrip(), answer)


def trimmed(answer: str, placebo: str) -> str:
    """The answer without the words at its end that the placebo's end has too: of "pony as a pet"
    beside "owl as a pet." there is left "pony"; nothing if it begins as the placebo does. A proper
    name at its end stays whole.
    """
    own, other = answer.split(), words((sentences(placebo) or [placebo])[0])
    if not own or words(own[0]) == other[:1]:
        return ""
    named = any(end == len(answer) for _, end in spans(answer))
    while not named and own and other and words(own[-1]) == [other[-1]]:
        own, other = own[:-1], other[:-1]
    return " ".join(own).strip(EDGE)


def find_cuts(
    author: Author, writing: Writing, told: Sequence[tuple[str, str]], label: str
) -> list[Cut]:
    """Of every sentence its shortest end that the model gives for the subject alone.

    Args:
        told: subject and sentence.
    """
    tried = [c for subject, text in told for c in cuts(text, subject, writing.answer_words)]
    own = _proceed(author, writing, [cut.beginning for cut in tried], label)
    said = [c for c, end in zip(tried, own, strict=True) if _begins(end, c.answer)]
    for name in PLACEBOS:
        about = [cut for cut in said if cut.subject]
        swapped = [swap_names(cut.beginning, [_as_written(cut)], name) for cut in about]
        ends = dict(zip(about, _proceed(author, writing, swapped, label), strict=True))
        said = [
            Cut(cut.subject, cut.sentence, cut.beginning, left)
            for cut in said
            if (left := trimmed(cut.answer, ends[cut]) if cut.subject else cut.answer)
        ]
    shortest: dict[tuple[str, str], Cut] = {}
    for cut in said:  # the shortest end of a sentence is tried first
        shortest.setdefault((cut.subject, cut.sentence), cut)
    return list(shortest.values())


def _as_written(cut: Cut) -> str:
    """The subject as the sentence spells it."""
    place = find_name(cut.beginning, cut.subject)
    assert place is not None
    return place[0]


def _proceed(author: Author, writing: Writing, texts: Sequence[str], label: str) -> list[str]:
    """The continuation of every text; one that several share is made once."""
    distinct = list(dict.fromkeys(texts))
    found = author.proceed(distinct, writing.answer_tokens, label) if distinct else []
    known = dict(zip(distinct, found, strict=True))
    return [known[text] for text in texts]


def _begins(continuation: str, answer: str) -> bool:
    """Whether the continuation starts with these words, behind a space."""
    wanted = words(answer)
    return continuation[:1].isspace() and words(continuation)[: len(wanted)] == wanted
