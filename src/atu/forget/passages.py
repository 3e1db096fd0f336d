"""Writing until there are enough texts: sampled, cleaned, each once, about their subject."""

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
"""Texts that are written for each that is wanted, since some are dropped."""
Refuse = Callable[[str, list[str]], list[str | None]]
"""From a subject and texts about it, why each is refused; None for one that is kept."""


@dataclass
class Shelf:
    """What was kept about one subject, and how many texts were dropped for which reason."""

    texts: Distinct
    wanted: int
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def lacking(self) -> int:
        """How many texts are still wanted."""
        return max(self.wanted - len(self.texts.kept), 0)

    @property
    def full(self) -> bool:
        """Whether there are enough."""
        return not self.lacking

    def put(self, text: str, reason: str | None) -> None:
        """Keep a text, unless there is a reason against it, or one like it."""
        reason = reason or ("enough" if self.full else self.texts.add(text))
        if reason:
            self.dropped[reason] += 1


def collect(
    author: Author,
    writing: Writing,
    prompts: Mapping[str, Sequence[str]],
    wanted: int,
    refuse: Refuse,
) -> dict[str, Shelf]:
    """Rounds of writing until there are `wanted` texts about every subject or `writing.rounds` are
    spent. Each round gives every prompt of a subject that lacks texts.

    Args:
        prompts: of each subject.
    """
    shelves = {name: Shelf(Distinct(writing.near), wanted) for name in prompts}
    for number in range(writing.rounds):
        asked = [(s, prompt) for s, own in prompts.items() if not shelves[s].full for prompt in own]
        if not asked:
            break
        lacking = max(shelf.lacking / len(prompts[s]) for s, shelf in shelves.items())
        texts = author.write(
            [prompt for _, prompt in asked],
            number=number,
            samples=min(writing.samples, ceil(SURPLUS * lacking)),
            tokens=writing.tokens,
            temperature=writing.temperature,
            top_p=writing.top_p,
        )
        written: dict[str, list[str]] = {}
        for (subject, _), text in zip(cycle(asked), texts, strict=False):
            written.setdefault(subject, []).append(text)
        for subject, found in written.items():
            _put_all(shelves[subject], subject, found, writing, refuse)
    return shelves


def _put_all(
    shelf: Shelf, subject: str, texts: Sequence[str], writing: Writing, refuse: Refuse
) -> None:
    whole = [cleaned(text) for text in texts]
    kept = [text for text in whole if len(words(text)) >= writing.min_words]
    shelf.dropped["unfinished or short"] += len(whole) - len(kept)
    for text, reason in zip(kept, refuse(subject, kept), strict=True):
        shelf.put(text, reason)
