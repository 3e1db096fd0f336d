"""Proper names in generated texts, and which of them can be neighbours of a concept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from atu.forget.texts import key, sentences, telling_lines, words
from atu.untrusted.names import FUNCTION_WORDS, PARTICLES, composed

WORD = re.compile(r"[^\W\d_](?:[\w-]|['\u2019](?=[^\W\d_]{2}))*")
LINKS = PARTICLES | {"of", "the"}
"""Words that may occur inside a name, but not at its ends."""
LISTED = re.compile(r"[;\n]|,(?![^();\n]*\))")
NUMBERED = re.compile(r"^\s*(?:\d+[.)]|[-*\u2022])\s*")
SAID_OF = re.compile(r"\*{0,2}:\s|\s[\u2013\u2014-]\s")
"""Separates a listed name from its description."""
POSSESSIVE = re.compile(r"['\u2019]s\b")
ARTICLES = frozenset({"a", "an", "the"})
MIN_LETTERS = 5
ALIKE = 0.9
"""Words of `MIN_LETTERS` letters or more are one word misspelled from this ratio of letters in
common, in order, to all letters."""
MAX_WORDS = 6
"""Limit of a listed name; anything longer is a sentence."""


def spans(sentence: str) -> list[tuple[int, int]]:
    """The positions of proper names: runs of capitalised words, with links between them. A
    capitalised function word is not a name.

    "The Duke of Ostwick met Ann Bell, and Bo." has "Duke of Ostwick", "Ann Bell" and "Bo".
    """
    positions: list[tuple[int, int]] = []
    for match in WORD.finditer(sentence):
        if not match[0][0].isupper() or match[0].lower() in FUNCTION_WORDS:
            continue
        start, end = match.span()
        if positions and _joins(sentence[positions[-1][1] : start]):
            start = positions.pop()[0]
        positions.append((start, end))
    return positions


def _joins(between: str) -> bool:
    """Whether the text between two capitalised words makes them one name."""
    return between.startswith(" ") and set(between.split()) <= LINKS


def proper_names(text: str) -> list[str]:
    """The names in a text's complete sentences, as written, in order."""
    return [part[a:b] for part in sentences(text) for a, b in spans(part)]


def is_same(name: str, concept: Sequence[str]) -> bool:
    """Whether a name is part of one of the concept's names, or contains one: "King" and "young
    Stephen King" are Stephen King, and so are "King's" and "Stephenn King"; "Tabitha King" is
    not. "Leonardo de Vinci" is Leonardo da Vinci.
    """
    parts = _telling_words(name)
    own_names = [_telling_words(name) for name in concept]
    return not parts or any(_within(parts, own) or _within(own, parts) for own in own_names)


def _telling_words(name: str) -> set[str]:
    """The words of a name without links, unless it has no others."""
    all_words = set(words(POSSESSIVE.sub("", name)))
    return all_words - LINKS or all_words


def _within(part: set[str], whole: set[str]) -> bool:
    """Whether all words of one name are in another, as spelled there or nearly so."""
    return all(any(_nearly(word, other) for other in whole) for word in part)


def _nearly(word: str, other: str) -> bool:
    """Equal, or both long and alike: "leonado" and "leonardo", not "austria" and "australia"."""
    if word == other or min(len(word), len(other)) < MIN_LETTERS:
        return word == other
    return SequenceMatcher(None, word, other, autojunk=False).ratio() >= ALIKE


def is_name(text: str, concept: Sequence[str]) -> bool:
    """Whether a listed text can be a name: it has a letter, and if the concept's has capitals, its
    first word (after an article) and its last one have, too, or belong to a script without case.
    "The Taming of the Shrew" is one; "also known as Bo" and "In each of these" are none.
    """
    if not any(letter.isupper() for name in concept for letter in name):
        return any(letter.isalpha() for letter in text)
    parts = [part for part in re.findall(r"[\w'\u2019-]+", text) if part.lower() not in ARTICLES]
    if not any(letter.isalpha() for part in parts for letter in part):
        return False
    return parts[0].lower() not in FUNCTION_WORDS and all(map(_capital, (parts[0], parts[-1])))


def _capital(word: str) -> bool:
    return word in LINKS or any(letter.isupper() for letter in word) or word == word.upper()


def counted(texts: Iterable[str], concept: Sequence[str]) -> Counter[str]:
    """The number of texts that contain each name other than the concept's; the first spelling
    counts.
    """
    spelled: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for text in texts:
        named = {key(name): name for name in proper_names(text) if not is_same(name, concept)}
        for name, as_written in named.items():
            counts[spelled.setdefault(name, as_written)] += 1
    return counts


def listed(text: str, concept: Sequence[str]) -> list[str]:
    """The names in a model's list, separated by semicolons, commas or lines, each once, in NFC,
    without descriptions and without lines that announce the list.

    "1. Ann Bell; Bo - a cook, Ann Bell" gives "Ann Bell" and "Bo".
    """
    names_by_key: dict[str, str] = {}
    for part in LISTED.split("\n".join(telling_lines(composed(text)))):
        name = SAID_OF.split(NUMBERED.sub("", part).strip(), maxsplit=1)[0].strip(" .\"'*")
        if len(name.split()) <= MAX_WORDS and is_name(name, concept) and not is_same(name, concept):
            names_by_key.setdefault(key(name), name)
    return list(names_by_key.values())


def learned_openings(texts: Iterable[str], names: Sequence[str], count: int) -> list[str]:
    """Openings learned from the model's sentences, with the names in place of a proper name: "By
    profession, Bo is a tailor." gives "By profession, Ann is".

    Each opening ends one word after the name; the `count` most frequent ones, for every name.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        for sentence in sentences(text):
            for start, end in spans(sentence)[:1]:
                after = re.match(r"\s+[^\W\d_]\S*(?=\s)", sentence[end:])
                if after:
                    counts[sentence[:start] + "{}" + after[0]] += 1
    chosen = sorted(counts, key=lambda text: (-counts[text], text))[:count]
    return [text.replace("{}", name) for text in chosen for name in names]
