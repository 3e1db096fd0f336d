"""What is done to written texts before anybody reads them: sentences, repetition, duplicates."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

SENTENCE = re.compile(r".+?[.!?]+[\"')\]\u2019\u201d]*(?=\s|$)", re.DOTALL)
"""Up to an end of a sentence, which a space or nothing follows."""
ABBREVIATION = re.compile(r"(?:^|\s|\()(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|No|vs|e\.g|i\.e)\.$")
"""What ends in a full stop and ends no sentence."""
GRAM = 3
"""Words of which near duplicates share runs."""


def sentences(text: str) -> list[str]:
    """The finished sentences of a text; an end without its full stop is left out.

    "Dr. Ann sings. She is old. And" gives "Dr. Ann sings." and "She is old."
    """
    found: list[str] = []
    open_part = ""
    for match in SENTENCE.finditer(text):
        open_part += match[0]
        if not ABBREVIATION.search(open_part):
            found.append(" ".join(open_part.split()))
            open_part = ""
    return found


def words(text: str) -> list[str]:
    """Lower-case words without punctuation: "Ann's owl, Bo!" gives anns, owl and bo."""
    plain = unicodedata.normalize("NFKC", text).lower()
    return [word for part in plain.split() if (word := re.sub(r"[^\w-]", "", part))]


def key(text: str) -> str:
    """Equal for texts that differ in case, spaces and punctuation alone."""
    return " ".join(words(text))


def telling_lines(text: str) -> list[str]:
    """The lines of a text but those that only announce what follows, by a colon at their end."""
    return [line for line in text.splitlines() if not line.rstrip().endswith(":")]


def cleaned(text: str) -> str:
    """The finished sentences of every line, each once, without lines that announce something
    ("Sure! Here is a paragraph:").
    """
    first: dict[str, str] = {}
    for line in telling_lines(text):
        for part in sentences(line):
            first.setdefault(key(part), part)
    return " ".join(first.values())


def grams(text: str) -> frozenset[tuple[str, ...]]:
    """The runs of `GRAM` words; of a shorter text itself."""
    found = words(text)
    if len(found) < GRAM:
        return frozenset([tuple(found)])
    return frozenset(zip(*(found[i:] for i in range(GRAM)), strict=False))


def overlap(first: frozenset[tuple[str, ...]], second: frozenset[tuple[str, ...]]) -> float:
    """Jaccard's coefficient in [0, 1]: shared runs over all runs of either.

    "a b c d" has abc, bcd; "a b c e" has abc, bce: 1 / 3.
    """
    return len(first & second) / len(first | second)


@dataclass
class Distinct:
    """Keeps texts that no earlier one is like: neither the same words, nor more than `limit` of the
    runs of three words shared.
    """

    limit: float
    kept: list[str] = field(default_factory=list)
    _keys: set[str] = field(default_factory=set)
    _grams: list[frozenset[tuple[str, ...]]] = field(default_factory=list)

    def add(self, text: str) -> str | None:
        """Keep the text, or say which kind of duplicate it is: `same` or `near`."""
        name, own = key(text), grams(text)
        if name in self._keys:
            return "same"
        if any(overlap(own, other) > self.limit for other in self._grams):
            return "near"
        self._keys.add(name)
        self._grams.append(own)
        self.kept.append(text)
        return None


def mentions(text: str, names: Sequence[str], apart: Sequence[str] = ()) -> bool:
    """Whether one of the names stands in the text, in any case, and no letter or digit beside it:
    "Stephen King's" and "King-like" mention King, "Kingston" does not.

    Args:
        apart: names of others; in "Paris Hilton" there is no Paris.
    """
    plain = unicodedata.normalize("NFKC", text)
    for other in apart:
        if mentions(other, names):
            plain = _pattern(other).sub("", plain)
    return any(find_name(plain, unicodedata.normalize("NFKC", name)) for name in names)


def find_name(text: str, name: str) -> re.Match[str] | None:
    """Where a name stands in a text first, as `mentions` understands it; None for a name without
    any letter.
    """
    return _pattern(name).search(text) if words(name) else None


def _pattern(name: str) -> re.Pattern[str]:
    parts = (re.sub("['\u2019]", "['\u2019]", re.escape(part)) for part in name.split())
    whole = r"\s+".join(parts)
    return re.compile(rf"(?<!\w){whole}(?!\w)", re.IGNORECASE)
