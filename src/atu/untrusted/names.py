"""Names in texts, whichever way Unicode spells them.

"é" is one character or two (a letter and an accent), and the same to every reader. Names, labels
and folder names are kept in the composed form, NFC. Texts stay as they are given, because the model
reads them as they are; a name is searched in a text's composed form, and where it stands is said in
characters of the text as given, to which a tokenizer's offsets refer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence


def composed(text: str) -> str:
    """The text in NFC."""
    return unicodedata.normalize("NFC", text)


def name_spans(text: str, names: Iterable[str]) -> list[tuple[int, int]]:
    """Where the names stand in the text, (start, end) of each occurrence in characters of `text`,
    sorted. Names that overlap are all found. "Beyonce" does not stand in "Beyonce\u0301".
    """
    if unicodedata.is_normalized("NFC", text):
        return sorted(_spans(text, names))
    plain, places = _composed_places(text)
    return sorted((places[start][0], places[end - 1][1]) for start, end in _spans(plain, names))


def names_in(text: str, names: Sequence[str]) -> list[str]:
    """The names that the text has, each once, as they are written in `names`."""
    return [name for name in dict.fromkeys(names) if name_spans(text, [name])]


def _spans(plain: str, names: Iterable[str]) -> Iterator[tuple[int, int]]:
    for name in filter(None, names):
        for match in re.finditer(re.escape(composed(name)), plain):
            yield match.span()


def _composed_places(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text in NFC, and for each of its characters the span in `text` that it comes from."""
    plain: list[str] = []
    places: list[tuple[int, int]] = []
    for start, end in _segments(text):
        part = composed(text[start:end])
        plain.append(part)
        places += [(start, end)] * len(part)
    return "".join(plain), places


def _segments(text: str) -> list[tuple[int, int]]:
    """Spans that are composed each for itself: a letter with its accents, a syllable of Hangul."""
    spans: list[tuple[int, int]] = []
    start = 0
    for at in range(1, len(text)):
        before, character = text[start:at], text[at]
        if unicodedata.combining(character):
            continue
        if composed(before + character) == composed(before) + composed(character):
            spans.append((start, at))
            start = at
    return [*spans, (start, len(text))]
