"""Cleaning of generated texts: sentences, repetition, duplicates."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from atu.untrusted.names import composed

SENTENCE = re.compile(r".+?[.!?]+[\"')\]\u2019\u201d]*(?=\s|$)", re.DOTALL)
"""Text up to the end of a sentence, before whitespace or the end of the text."""
ABBREVIATION = re.compile(r"(?:^|\s|\()(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|No|vs|e\.g|i\.e)\.$")
"""A full stop that does not end a sentence."""
GRAM = 3
"""Words per run when texts are compared."""


def sentences(text: str) -> list[str]:
    """The complete sentences of a text; an unfinished one is left out.

    "Dr. Ann sings. She is old. And" gives "Dr. Ann sings." and "She is old."
    """
    complete: list[str] = []
    open_part = ""
    for match in SENTENCE.finditer(text):
        open_part += match[0]
        if not ABBREVIATION.search(open_part):
            complete.append(" ".join(open_part.split()))
            open_part = ""
    return complete


def words(text: str) -> list[str]:
    """Lower-case words without punctuation: "Ann's owl, Bo!" gives anns, owl and bo."""
    plain = unicodedata.normalize("NFKC", text).lower()
    return [word for part in plain.split() if (word := re.sub(r"[^\w-]", "", part))]


def key(text: str) -> str:
    """Equal for texts that differ in case, spaces and punctuation alone."""
    return " ".join(words(text))


def telling_lines(text: str) -> list[str]:
    """The lines of a text, without those that end with a colon and only announce what follows."""
    return [line for line in text.splitlines() if not line.rstrip().endswith(":")]


MARKER = re.compile(r"^\s*(?:#{1,6}|[-*+\u2022]|\d{1,3}[.)])\s+")
"""Markdown before a line's text: a heading's, a list's."""
EMPHASIS = re.compile(r"\*\*|__|`")
OF_ITSELF = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely)\b[^.]*[.!]"
    r"|(?:here(?:'s| is| are)\b.*\b(?:paragraphs?|sentences?|lines|lists?|articles?|overview)\b.*)"
    r"|.*\b(?:as an ai|an ai (?:language )?model|an ai assistant|ai language model)\b.*"
    r"|(?:i'?m|i am) (?:sorry|unable|not able)\b.*"
    r"|i (?:can(?:'t|not| not)|do(?:n't| not) have)\b.*)$",
    re.IGNORECASE | re.DOTALL,
)
"""A sentence in which a chat model speaks of itself or of its text."""


def cleaned(text: str) -> str:
    """The complete sentences of every line, each once, in NFC, so that a name is found however the
    model spelled it. Without Markdown, lines that announce something ("Here is a paragraph:") and
    sentences in which a chat model speaks of itself ("As an AI ...").
    """
    first: dict[str, str] = {}
    for line in telling_lines(composed(text)):
        for part in sentences(EMPHASIS.sub("", MARKER.sub("", line))):
            if not OF_ITSELF.match(part.replace("\u2019", "'")):
                first.setdefault(key(part), part)
    return " ".join(first.values())


def grams(text: str) -> frozenset[tuple[str, ...]]:
    """The runs of `GRAM` words; a shorter text is one run."""
    all_words = words(text)
    if len(all_words) < GRAM:
        return frozenset([tuple(all_words)])
    return frozenset(zip(*(all_words[i:] for i in range(GRAM)), strict=False))


def overlap(first: frozenset[tuple[str, ...]], second: frozenset[tuple[str, ...]]) -> float:
    """Jaccard's coefficient in [0, 1]: shared runs over all runs of either.

    "a b c d" has abc, bcd; "a b c e" has abc, bce: 1 / 3.
    """
    return len(first & second) / len(first | second)


@dataclass
class Distinct:
    """Keeps texts that differ from all earlier ones: not the same words, and an overlap of at most
    `limit`.
    """

    limit: float
    kept: list[str] = field(default_factory=list)
    _keys: set[str] = field(default_factory=set)
    _grams: list[frozenset[tuple[str, ...]]] = field(default_factory=list)

    def add(self, text: str) -> str | None:
        """Keep the text, or return the kind of duplicate: `same` or `near`."""
        text_key, text_grams = key(text), grams(text)
        if text_key in self._keys:
            return "same"
        if any(overlap(text_grams, other) > self.limit for other in self._grams):
            return "near"
        self._keys.add(text_key)
        self._grams.append(text_grams)
        self.kept.append(text)
        return None


def mentions(text: str, names: Sequence[str], apart: Sequence[str] = ()) -> bool:
    """Whether the text contains one of the names as whole words, ignoring case:
    "Stephen King's" and "King-like" mention King, "Kingston" does not.

    Args:
        apart: names of others, which are ignored: "Paris Hilton" does not mention Paris.
    """
    plain = unicodedata.normalize("NFKC", text)
    for other in apart:
        if mentions(other, names):
            plain = _pattern(unicodedata.normalize("NFKC", other)).sub("", plain)
    return any(find_name(plain, unicodedata.normalize("NFKC", name)) for name in names)


def find_name(text: str, name: str) -> re.Match[str] | None:
    """The first match of a name, as in `mentions`; None also for a name without letters."""
    return _pattern(name).search(text) if words(name) else None


def _pattern(name: str) -> re.Pattern[str]:
    parts = (re.sub("['\u2019]", "['\u2019]", re.escape(part)) for part in name.split())
    pattern = r"\s+".join(parts)
    return re.compile(rf"(?<!\w){pattern}(?!\w)", re.IGNORECASE)
