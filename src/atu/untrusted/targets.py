"""What is to be forgotten: one name, several at once, or one request after another."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atu.errors import shown
from atu.untrusted.names import composed

RESERVED = {"shared", "full", "oracle"}
AT_ONCE, IN_SEQUENCE = "+", ".then."
"""Separators between the folder names of targets that are forgotten together or in sequence."""
MAX_BYTES = 200
"""Limit of a folder name. File systems allow 255; our prefixes and suffixes need the rest."""


@dataclass(frozen=True)
class Target:
    """A request to forget `new`, on a model that has forgotten `earlier`; names are kept in NFC."""

    new: tuple[str, ...]
    earlier: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in ("new", "earlier"):
            object.__setattr__(self, key, tuple(map(composed, getattr(self, key))))

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that is forgotten after this request."""
        return (*self.earlier, *self.new)

    @property
    def label(self) -> str:
        """The label in tables: "A", "A + B" or "A, then B"."""
        return ", then ".join([*self.earlier, " + ".join(self.new)])

    @property
    def slug(self) -> str:
        """The folder name, distinct for distinct labels."""
        return IN_SEQUENCE.join([*map(target_slug, self.earlier), _joined(self.new)])

    @property
    def before(self) -> Target | None:
        """The previous request of the sequence; None for the first."""
        if not self.earlier:
            return None
        return Target(self.earlier[-1:], self.earlier[:-1])


def _joined(names: Sequence[str]) -> str:
    return AT_ONCE.join(map(target_slug, names))


def steps(names: Sequence[str]) -> Iterator[Target]:
    """The requests of a sequence, the first on the original model."""
    for number, name in enumerate(names):
        yield Target((name,), tuple(names[:number]))


def folded(slug: str) -> str:
    """Equal for folder names that some file system treats as equal."""
    return unicodedata.normalize("NFKC", slug).casefold()


def require_short(slug: str) -> None:
    """Refuse a folder name that no file system can hold.

    Raises:
        ValueError: it has more than `MAX_BYTES` bytes.
    """
    length = len(slug.encode())
    if length > MAX_BYTES:
        raise ValueError(
            f"{shown(slug)} would be a folder name of {length} bytes, {MAX_BYTES} fit: name less"
        )


def target_slug(name: str) -> str:
    """A target's folder name: letters with their accents, digits, `.`, `_`, `-` are kept, in NFC;
    others become `_`.

    Raises:
        ValueError: the name is empty, reserved, too long, or could leave the results folder.
    """
    if not name.strip() or name != name.strip():
        raise ValueError(f"{shown(name)} is empty or has spaces around it")
    if re.search(r"[/\\\x00-\x1f]", name) or ".." in name or name.startswith("."):
        raise ValueError(f"{shown(name)} has a path separator or dots that could leave results/")
    slug = "".join(c if re.match(r"[\w.-]", c) or _is_mark(c) else "_" for c in composed(name))
    if folded(slug) in RESERVED:
        raise ValueError(f"{shown(name)} is a reserved folder name")
    if IN_SEQUENCE in slug:
        raise ValueError(f"{shown(name)} holds {IN_SEQUENCE!r}, which separates requests")
    require_short(slug)
    return slug


def _is_mark(character: str) -> bool:
    """Whether it belongs to the letter before: an accent, or a vowel of an Indic script."""
    return unicodedata.category(character) in ("Mn", "Mc")
