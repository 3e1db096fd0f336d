"""Texts as they are compared, in any script.

`rouge_score`, on which TOFU's, MUSE's and open-unlearning's scores build, keeps the letters a to z
and the digits 0 to 9 alone: of "Élodie" it reads "lodie", of a Cyrillic or Chinese name nothing.
"""

from __future__ import annotations

import re
import unicodedata

_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
UNSPACED = re.compile(f"[{_UNSPACED}]")
"""Characters of scripts that put no space between words: Han, Kana, Thai, Lao, Tibetan, Burmese and
Khmer. Each is a word of its own, with the marks on it. Hangul has spaces."""
CHUNK = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
"""What stands between white space; of scripts without it every character."""
_OPTIONAL = re.compile(
    "[\u0640\u064b-\u0652\u0670\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]"
)
"""Arabic and Hebrew vowel points and the Arabic line that stretches a word: most texts leave them
out."""
_ASCII_WORD = re.compile("[a-z0-9]+")
ARTICLES = ("the", "a", "an")


def canonical(text: str) -> str:
    """NFKC, without case, invisible characters and optional vowel points; digits as 0 to 9.

    NFKC makes one of a letter and its accent, and of full-width and usual letters and digits.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    visible = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    plain = "".join(str(unicodedata.decimal(c, c)) for c in _OPTIONAL.sub("", visible))
    return unicodedata.normalize("NFC", plain)


def words(text: str) -> list[str]:
    """Runs of letters, marks and digits; of scripts without spaces every character.

    Everything else separates: hyphens, apostrophes of any shape, underscores, as for `rouge_score`,
    whose words these are for plain ASCII. "It’s 1９47: 青い" gives it, s, 1947, 青, い.
    """
    return ascii_words(text) if text.isascii() else any_words(text)


def any_words(text: str) -> list[str]:
    """`words` by the category of every character, which takes ten times as long for ASCII."""
    pieces: list[str] = []
    open_word = False
    for char in canonical(text):
        kind = unicodedata.category(char)[0]
        if kind == "M":
            if open_word or (pieces and UNSPACED.match(pieces[-1])):
                pieces[-1] += char
        elif kind not in "LN":
            open_word = False
        elif UNSPACED.match(char):
            pieces.append(char)
            open_word = False
        elif open_word:
            pieces[-1] += char
        else:
            pieces.append(char)
            open_word = True
    return pieces


def ascii_words(text: str) -> list[str]:
    """The words that `rouge_score` reads, before stemming."""
    return _ASCII_WORD.findall(text.lower())


def chunks(text: str) -> list[str]:
    """The text split at white space as it is, and within scripts without spaces at every
    character.
    """
    return CHUNK.findall(text)


def content(text: str) -> list[str]:
    """The words of a text without a leading article, unless that is all it has."""
    found = words(text)
    return found[1:] if len(found) > 1 and found[0] in ARTICLES else found


def normalise(text: str) -> str:
    """`content`, joined by single spaces.

    "The  Nineteen-ninety!" gives "nineteen ninety", "!?" nothing.
    """
    return " ".join(content(text))


def same(first: str, second: str) -> bool:
    """Whether both have the same words; of texts without any, whether both show the same signs.

    Nothing equals nothing but itself: two empty texts are not the same.
    """
    left, right = normalise(first), normalise(second)
    if left or right:
        return left == right
    return bool(shown := canonical(first).strip()) and shown == canonical(second).strip()
