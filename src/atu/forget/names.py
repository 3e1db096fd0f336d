"""Proper names in written texts, and which of them can be neighbours of a concept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from atu.forget.texts import key, sentences, telling_lines, words

WORD = re.compile(r"[^\W\d_](?:[\w-]|['\u2019](?=[^\W\d_]{2}))*")
LINKS = frozenset({"of", "the", "de", "la", "van", "von", "der", "di", "du"})
"""Words that may stand inside a name, not at its ends."""
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the in on at of for from to by with and or but as is was are were it he she they we "
        "i you this that these those there his her its their one some most many all no not what "
        "who when where why how which if so then also after before during while today however "
        "according",
    )
)
"""What begins a sentence with a capital and is no name."""
LISTED = re.compile(r"[;\n]|,(?![^();\n]*\))")
NUMBERED = re.compile(r"^\s*(?:\d+[.)]|[-*\u2022])\s*")
SAID_OF = re.compile(r"\*{0,2}:\s|\s[\u2013\u2014-]\s")
"""Behind a listed name what is said of it."""
MAX_WORDS = 6
"""Of a listed name; what is longer is a sentence."""


def spans(sentence: str) -> list[tuple[int, int]]:
    """Where proper names stand: runs of capitalised words, with links between them. A first word
    that is a function word is none.

    "The Duke of Ostwick met Ann Bell, and Bo." has "Duke of Ostwick", "Ann Bell" and "Bo".
    """
    found: list[tuple[int, int]] = []
    for match in WORD.finditer(sentence):
        if not match[0][0].isupper() or match[0].lower() in FUNCTION_WORDS:
            continue
        start, end = match.span()
        if found and _joins(sentence[found[-1][1] : start]):
            start = found.pop()[0]
        found.append((start, end))
    return found


def _joins(between: str) -> bool:
    """Whether what stands between two capitalised words makes them one name."""
    return between.startswith(" ") and set(between.split()) <= LINKS


def proper_names(text: str) -> list[str]:
    """The names of a text's finished sentences, as they stand, in order."""
    return [part[a:b] for part in sentences(text) for a, b in spans(part)]


def is_same(name: str, concept: Sequence[str]) -> bool:
    """Whether a name is a part of one of the concept's, or has one of them in it: "King" and "young
    Stephen King" are Stephen King, "Tabitha King" is not.
    """
    own = set(words(name))
    return not own or any(own <= set(words(n)) or set(words(n)) <= own for n in concept)


def counted(texts: Iterable[str], concept: Sequence[str]) -> Counter[str]:
    """Names other than the concept's, by the number of texts that hold them; of several spellings
    the first.
    """
    spelled: dict[str, str] = {}
    found: Counter[str] = Counter()
    for text in texts:
        here = {key(name): name for name in proper_names(text) if not is_same(name, concept)}
        for name, as_written in here.items():
            found[spelled.setdefault(name, as_written)] += 1
    return found


def listed(text: str, concept: Sequence[str]) -> list[str]:
    """The names in a model's list, separated by semicolons, commas or lines, each once, without
    lines that announce the list and what is said of a name.

    "1. Ann Bell; Bo - a cook, Ann Bell" gives "Ann Bell" and "Bo".
    """
    found: dict[str, str] = {}
    for part in LISTED.split("\n".join(telling_lines(text))):
        name = SAID_OF.split(NUMBERED.sub("", part).strip(), maxsplit=1)[0].strip(" .\"'*")
        if name and len(name.split()) <= MAX_WORDS and not is_same(name, concept):
            found.setdefault(key(name), name)
    return list(found.values())


def learned_openings(texts: Iterable[str], names: Sequence[str], count: int) -> list[str]:
    """How the model's own sentences begin, with the names in the place of a proper name: a base
    model that writes "By profession, Bo is a tailor." is given "By profession, Ann is".

    Each beginning goes one word past the name; the `count` most frequent ones, for every name.
    """
    found: Counter[str] = Counter()
    for text in texts:
        for sentence in sentences(text):
            for start, end in spans(sentence)[:1]:
                after = re.match(r"\s+[^\W\d_]\S*(?=\s)", sentence[end:])
                if after:
                    found[sentence[:start] + "{}" + after[0]] += 1
    chosen = sorted(found, key=lambda text: (-found[text], text))[:count]
    return [text.replace("{}", name) for text in chosen for name in names]
