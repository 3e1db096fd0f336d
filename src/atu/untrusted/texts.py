"""Untrusted text: read within limits, or refused with a reason.

What a text holds is data and no reason to refuse it, so control characters, separators and marks of
direction pass; they are escaped where they are shown (`errors.visible`). Only parameters, which
people read and type, may not have them (`UNPRINTABLE`, `REORDERING`).

Every reader here raises only `ValueError` or `OSError`, whatever the bytes; callers turn it into
one of `atu.errors`, which names the file and the repair.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from pathlib import Path
from typing import Any

from atu.errors import shown

MB = 2**20
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters except tab and newline, which terminals obey, and unpaired surrogates, which
no file can hold. Refused in parameters."""
REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Unicode's directional overrides, which make a line look different from its content. Refused in
parameters."""
MAX_NAME = 255
"""Limit of a file name in bytes."""


def read_text(path: Path, limit: int) -> str:
    """A UTF-8 file of at most `limit` bytes, without the byte order mark that it may begin with.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or not UTF-8.
    """
    return read_bytes(path, limit).decode("utf-8-sig")


def read_bytes(path: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger.
    """
    with path.open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"is larger than the {limit // MB} MB that are read of such a file")
    return content


MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte order marks, and what they say of the bytes behind them."""
ZEROS = 0.25
"""No text has a larger share of zero bytes; English in UTF-16 without its mark has a half."""


def decoded(content: bytes) -> str:
    """The text of a file that somebody wrote: UTF-8, or what its byte order mark says, with line
    feeds as its line ends. Unpaired surrogates pass (`whole`).

    Raises:
        ValueError: names the first byte that is no text, by its offset from 0, and the repair.
    """
    mark, encoding = next(
        ((m, name) for m, name in MARKS.items() if content.startswith(m)), (b"", "utf-8")
    )
    bare = content[len(mark) :]
    if encoding == "utf-8" and bare.count(0) > ZEROS * len(bare):
        raise ValueError(
            f"is no UTF-8 text: byte {content.index(0)} is 0, as are {content.count(0) - 1} "
            "others; if it is UTF-16 without a byte order mark, save it as UTF-8 (`iconv -f "
            "UTF-16LE -t UTF-8`)"
        )
    try:
        text = bare.decode(encoding, "surrogatepass")
    except UnicodeDecodeError as error:
        at = len(mark) + error.start
        raise ValueError(
            f"is no {encoding[:6].upper().rstrip('-')} text: byte {at} (0x{content[at]:02x}), "
            f"{error.reason}; save it as UTF-8, for example with `iconv -f WINDOWS-1252 -t UTF-8`"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str) -> Any:
    """The value of a JSON text without NaN, infinity and duplicate keys.

    Raises:
        ValueError: it is not such a text, or nested too deeply for Python.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_distinct, parse_constant=_finite, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key {shown(twice)} twice in one object")
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"holds {text}, which is not finite")
    return value


SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def whole(value: Any) -> tuple[Any, int]:
    r"""A JSON value with U+FFFD in place of every unpaired surrogate, and how many there were.

    JSON can spell them (`"\ud800"`), neither UTF-8 nor a tokenizer can hold them.
    """
    if isinstance(value, str):
        return SURROGATE.subn(REPLACEMENT, value)
    if isinstance(value, list):
        parts = [whole(item) for item in value]
        return [part for part, _ in parts], sum(count for _, count in parts)
    if isinstance(value, dict):
        keys, found = whole(list(value))
        parts = [whole(item) for item in value.values()]
        values = dict(zip(keys, (part for part, _ in parts), strict=True))
        return values, found + sum(count for _, count in parts)
    return value, 0


def is_file(path: Path) -> bool:
    """Whether it is a file; False also if the system cannot look it up (a name too long)."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether it is a folder; False also if the system cannot look it up."""
    try:
        return path.is_dir()
    except OSError:
        return False


def require_inside(name: str) -> None:
    """Refuse a path that is not relative or leaves its folder.

    Raises:
        ValueError: it is empty, absolute, too long for a file system, has `.`, `..`, a backslash or
            a control character.
    """
    parts = name.split("/")
    if (
        {"", ".", ".."} & set(parts)
        or "\\" in name
        or not name.isprintable()
        or max(len(part.encode()) for part in parts) > MAX_NAME
    ):
        raise ValueError(f"{shown(name)} is not a path inside the folder")
