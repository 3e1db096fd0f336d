"""Names in texts: where one stands, whatever its spelling, and by which others a text calls it.

A name is found without regard to Unicode's normal form, to accents ("Beyonce"), to the form of an
apostrophe or a hyphen, to dots and spaces of initials ("J.K. Rowling", "J K Rowling") and to
commas after its words; letter case counts. It does not begin or end inside a word of a script with
case: "King" is not in "Kingston", but the name before a Chinese character is found.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the in on at of for from to by with and or but as is was are were it he she they we "
        "i you this that these those there his her its their one some most many all no not what "
        "who when where why how which if so then also after before during while today however "
        "according",
    )
)
"""Words that are no names although they are capitalised at the start of a sentence."""
PARTICLES = frozenset(
    re.findall(
        r"\w+",
        "al ap bin da de del della der den di do dos du el ibn la le ten ter van vel von zu",
    )
)
"""Words of a name that may be written small."""
TITLES = frozenset(
    re.findall(
        r"\w+", "Prince Princess King Queen Emperor Pope Saint St Sir Dame Lord Lady Dr President"
    )
)
"""They begin a name and are, alone, nobody's."""
SUFFIXES = frozenset({"Jr", "Sr", "II", "III", "IV"})
"""They follow a surname."""
ACCENT = 200
"""Unicode's combining class from which a mark is an accent: vowel signs of scripts that are written
with marks are below."""
PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u02bc\u02b9\uff07`\u00b4", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-")
    | dict.fromkeys("\u00a0\u2007\u202f", " ")
)
"""Apostrophes, hyphens and spaces, as a keyboard has them."""
WORD = re.compile(r"(\()?[^\W\d_]\w*(?:[-\u2010\u2011]\w+|['\u2019](?=[A-Z])\w+)*(?(1)\))")
"""O'Brien and Yun-Hwa are one word each, Lu's is two; (Alex) is one with its parentheses."""
MOST = 0.5
"""A part of a name is an alias if more than this share of the texts has it alone."""
SOME = 0.05
"""A longer form of a name is an alias if at least this share of the texts has it."""


def composed(text: str) -> str:
    """Unicode's NFC: equal for names that look equal."""
    return unicodedata.normalize("NFC", text)


def name_spans(text: str, names: Sequence[str]) -> list[tuple[int, int]]:
    """The character spans of the names in a text, in order. Of spans that overlap the first counts,
    of those that begin at one place the longest.

    "J.K. Rowling met Rowling." has "J. K. Rowling" and "Rowling" at (0, 12) and (17, 24).
    """
    plain, places = _plain(text)
    found = sorted(
        (span for name in names for span in _spans(plain, name)), key=lambda s: (s[0], -s[1])
    )
    spans: list[tuple[int, int]] = []
    end = 0
    for first, last in found:
        if first >= end:
            spans.append((places[first], places[last]))
            end = last
    return spans


def has_name(text: str, names: Sequence[str]) -> bool:
    """Whether one of the names stands in a text."""
    plain, _ = _plain(text)
    return any(True for name in names for _ in _spans(plain, name))


def names_in(text: str, names: Sequence[str]) -> list[str]:
    """The names that stand in a text, each once, as they are written in `names`."""
    return [name for name in dict.fromkeys(names) if has_name(text, [name])]


def replace_names(text: str, names: Sequence[str], new: str) -> str:
    """The text with `new` in place of each of the names."""
    return replace_spans(text, name_spans(text, names), new)


def replace_spans(text: str, spans: Sequence[tuple[int, int]], new: str) -> str:
    """The text with `new` in place of each of these spans, which are in order and apart."""
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], new]
        end = stop
    return "".join([*parts, text[end:]])


@lru_cache(maxsize=4096)
def _plain(text: str) -> tuple[str, Sequence[int]]:
    """The text without accents, and the place in `text` of each of its characters and of its
    end.
    """
    if text.isascii():
        return text, range(len(text) + 1)
    letters: list[tuple[int, int, str, int]] = []
    base = 0
    for place, character in enumerate(text):
        for part in unicodedata.normalize("NFD", character):
            mark = unicodedata.combining(part)
            base += not mark
            if mark < ACCENT:
                letters.append((base, mark, part, place))
    letters.sort(key=lambda letter: letter[:2])  # marks of one letter, in Unicode's order
    plain = "".join(part for _, _, part, _ in letters)
    return plain.translate(PLAIN), [*(place for *_, place in letters), len(text)]


def _spans(plain: str, name: str) -> Iterator[tuple[int, int]]:
    pattern = _pattern(name)
    for match in pattern.finditer(plain) if pattern else ():
        start, end = match.span()
        if not _in_word(plain, start) and not _in_word(plain, end):
            yield start, end


def _in_word(text: str, place: int) -> bool:
    return 0 < place < len(text) and _cased(text[place - 1]) and _cased(text[place])


def _cased(character: str) -> bool:
    return character.lower() != character.upper() or character.isdecimal()


@lru_cache(maxsize=4096)
def _pattern(name: str) -> re.Pattern[str] | None:
    """What a name looks like in a text without accents; None for a name without words."""
    pattern = separator = ""
    for word in _plain(name)[0].replace(".", ". ").split():
        bare = word.rstrip(".,")
        if not bare:
            continue
        pattern += separator + re.escape(bare).replace(r"\-", "[- ]")
        is_initial = len(bare) == 1 and bare.isupper()
        separator = r"\.?,?\s*" if is_initial else r"[.,]?\s+"
    # Or as it is written: will.i.am has no spaces after its dots.
    return re.compile(f"{pattern}|{re.escape(_plain(name)[0].strip())}") if pattern else None


def aliases_of(name: str, texts: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """The name, and by what else texts about it call it. `name_spans` knows other spellings; here
    are other words:

    - the name before a comma: "Prince Harry" of "Prince Harry, Duke of Sussex";
    - forms with more or fewer given names that at least `SOME` of the texts have, if the first word
      is the name's, or one of both abbreviates the other: "Joanne Rowling", not "Piero da Vinci";
    - the surname with its particles, and the first name, if more than `MOST` of the texts have it
      outside longer names: "Rowling", "Leonardo"; but none that is a word of one of the `others`.

    Args:
        others: names that must not be taken for this one.
    """
    full = composed(name).split(",")[0].strip()
    words = [word for word in _words(full) if word not in SUFFIXES]
    found = [composed(name), full]
    if len(words) > 1:
        foreign = {word for other in others for word in _words(composed(other))}
        runs = (set(map(" ".join, name_runs(composed(text)))) for text in texts)
        counts = Counter(run for each in runs for run in each)
        frequent = [run for run, n in counts.items() if n >= max(SOME * len(texts), 2)]
        found += sorted(
            run for run in frequent
            if _is_form(_words(run), words) and name_spans(run, found) != [(0, len(run))]
        )  # fmt: skip
        parts = [words[_surname(words) :], [] if words[0] in TITLES else words[:1]]
        for part in filter(None, parts):
            if counts[" ".join(part)] > MOST * len(texts) and foreign.isdisjoint(part):
                found.append(" ".join(part))
    return list(dict.fromkeys(found))


def short_names(name: str) -> list[str]:
    """What somebody of this name may be called for short: the surname with its particles, the
    initials before it, and what follows a comma; of a single word nothing.

    "Sara Jo van Dyke" gives "van Dyke" and "S. J. van Dyke", "Prince Harry, Duke of Sussex" gives
    "Harry" and "Duke of Sussex".
    """
    full, *rest = (part.strip() for part in composed(name).split(","))
    words = [word for word in _words(full) if word not in SUFFIXES]
    found = [part for part in rest if part and part.rstrip(".") not in SUFFIXES]
    if len(words) > 1:
        at = _surname(words)
        surname = " ".join(words[at:])
        given = [word for word in words[:at] if word[0].isalpha()]
        found = [surname, *found]
        if given and words[0] not in TITLES:
            found.insert(1, " ".join([*(f"{word[0]}." for word in given), surname]))
    return found


def _words(name: str) -> list[str]:
    """Its words, initials apart and without dots: "J.K. Rowling" has J, K and Rowling."""
    return name.replace(".", " ").replace(",", " ").split()


def _surname(words: Sequence[str]) -> int:
    """Where the surname begins: at the last word, or at the particles before it."""
    at = len(words) - 1
    while at > 1 and words[at - 1].lower() in PARTICLES:
        at -= 1
    return at


def _is_form(run: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a run of words is a form of the name: the same surname after a first word that is the
    name's, or where one of both abbreviates the other.
    """
    surname = list(words[_surname(words) :])
    if len(run) <= len(surname) or list(run[-len(surname) :]) != surname:
        return False
    first, own = run[0], words[0]
    return first == own or (1 in (len(first), len(own)) and first[0] == own[0])


def name_runs(text: str) -> Iterator[list[str]]:
    """What may be names in a text: runs of capitalised words, with initials, particles and a word
    in parentheses between them. A function word does not begin one.

    "While Femke van der Veen met J.K. Bo (Al) Day's cat" has Femke van der Veen, and J K Bo (Al)
    Day; not While.
    """
    run: list[str] = []
    kept = end = 0
    for match in WORD.finditer(text):
        word, between = match[0], text[end : match.start()]
        initial = bool(run) and len(run[-1]) == 1
        if run and not (between == " " or (initial and between in (".", ". "))):
            yield run[:kept]
            run, kept = [], 0
        end = match.end()
        if word[0].isupper() and (run or word.lower() not in FUNCTION_WORDS):
            run.append(word)
            kept = len(run)
        elif run and (word[0] == "(" or word in PARTICLES):
            run.append(word)
        elif run:
            yield run[:kept]
            run, kept = [], 0
    if run:
        yield run[:kept]
