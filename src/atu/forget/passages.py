"""Collecting enough texts: sampled, cleaned, deduplicated, about their subject."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from math import ceil

from atu.forget.author import Author
from atu.forget.settings import Writing
from atu.forget.texts import Distinct, cleaned, words

SURPLUS = 1.5
"""Texts to write per missing text, since some are dropped."""
PATIENCE = 2
"""Rounds after which a subject without any text is given up."""
Refuse = Callable[[str, list[str]], list[str | None]]
"""Maps a subject and texts about it to the reason why each is refused; None keeps the text."""


@dataclass
class PassageSet:
    """The texts kept about one subject, and how many were dropped for which reason."""

    texts: Distinct
    count: int
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> list[str]:
        """The kept texts."""
        return self.texts.kept

    @property
    def missing(self) -> int:
        """How many texts are still missing."""
        return max(self.count - len(self.kept), 0)

    @property
    def full(self) -> bool:
        """Whether there are enough texts."""
        return not self.missing

    def put(self, text: str, reason: str | None) -> None:
        """Keep a text, unless there is a reason against it or a similar one was kept."""
        reason = reason or ("enough" if self.full else self.texts.add(text))
        if reason:
            self.dropped[reason] += 1


def collect(
    author: Author,
    writing: Writing,
    prompts: Mapping[str, Sequence[str]],
    count: int,
    refuse: Refuse,
) -> dict[str, PassageSet]:
    """Write in rounds until there are `count` texts about every subject, at most `writing.rounds`
    times. Each round uses all prompts of the subjects that lack texts; one of whom
    `PATIENCE` rounds give none is given up.

    Args:
        prompts: prompts per subject.
    """
    passage_sets = {name: PassageSet(Distinct(writing.near), count) for name in prompts}
    for number in range(writing.rounds):
        pairs = [
            (s, prompt)
            for s, subject_prompts in prompts.items()
            if not passage_sets[s].full and (passage_sets[s].kept or number < PATIENCE)
            for prompt in subject_prompts
        ]
        if not pairs:
            break
        missing = max(passage_sets[s].missing / len(prompts[s]) for s, _ in pairs)
        texts = author.write(
            [prompt for _, prompt in pairs],
            number=number,
            samples=min(writing.samples, ceil(SURPLUS * missing)),
            tokens=writing.tokens,
            temperature=writing.temperature,
            top_p=writing.top_p,
        )
        written: dict[str, list[str]] = {}
        for (subject, _), text in zip(cycle(pairs), texts, strict=False):
            written.setdefault(subject, []).append(text)
        for subject, subject_texts in written.items():
            _put_all(passage_sets[subject], subject, subject_texts, writing, refuse)
    return passage_sets


def _put_all(
    passage_set: PassageSet, subject: str, texts: Sequence[str], writing: Writing, refuse: Refuse
) -> None:
    clean = [cleaned(text) for text in texts]
    long_enough = [text for text in clean if len(words(text)) >= writing.min_words]
    passage_set.dropped["unfinished or short"] += len(clean) - len(long_enough)
    for text, reason in zip(long_enough, refuse(subject, long_enough), strict=True):
        passage_set.put(text, reason)
