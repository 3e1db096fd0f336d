"""Documents that a user brings: files and folders of texts, of which nothing is left out unsaid."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atu.benchmarks.shared.source import MAX_BYTES
from atu.errors import SourceError, shown, visible
from atu.models.folders import check_link
from atu.results.files import sha256
from atu.results.tables import read_text_column
from atu.untrusted.texts import MB, decoded, is_file, is_folder, parse_json, read_bytes, whole

COLUMN = "text"
"""Key or column of a row that holds its text."""
WHOLE, LINES, TABLE = (".txt", ".md"), ".jsonl", ".parquet"
SUFFIXES = (*WHOLE, LINES, TABLE)
"""A file of the first two is one document, of the others every row is one."""
MAX_FILES = 100_000
"""Limit of what a folder may hold: a whole disk is named by mistake."""
EMPTY, REPLACED = "empty", "unpaired surrogates (now U+FFFD)"
READ = ("files", "documents", "passages", "questions", REPLACED)
"""Counts of what was read; all others are of what was left out."""
READABLE = f"{', '.join(SUFFIXES[:-1])} and {SUFFIXES[-1]} are read"
Digests = list[list[str]]
"""The name of every file that was read, and its sha256."""


@dataclass(frozen=True)
class Documents:
    """What one option's files and folders hold."""

    texts: tuple[str, ...]
    digests: Digests
    """By the names inside the folders, so that a folder may be moved."""
    counts: dict[str, int]
    """What was read (`files`, `documents`) and what was not, by its reason."""


def read_documents(option: str, places: Sequence[Path]) -> Documents:
    """Every document of these files and folders, in the order of their names.

    Raises:
        SourceError, ArtifactError: a file cannot be read, or a folder holds no text; names the
            file, the place in it and the repair.
    """
    texts: list[str] = []
    digests: Digests = []
    counts: Counter[str] = Counter()
    size = 0
    for place in places:
        found: Counter[str] = Counter()
        before = len(texts)
        for name, path in _files(option, place, found):
            size += path.stat().st_size
            if size > MAX_BYTES:
                raise SourceError(
                    f"{option} {place}: {path} would be more than the {MAX_BYTES // MB} MB that "
                    "are read; name fewer files"
                )
            read, digest = _read(path, found)
            digests.append([name, digest])
            texts += read
        if len(texts) == before:
            raise SourceError(
                f"{option} {place}: holds no text ({account(found) or 'it is empty'}); "
                f"{READABLE}, so export others to one of these"
            )
        counts += found
    counts["documents"] = len(texts)
    return Documents(tuple(texts), digests, dict(counts))


def account(counts: Mapping[str, int]) -> str:
    """Counts in one line: "files 2, passages 5; left out: hidden 1"."""
    parts = ([what for what in READ if what in counts], [w for w in counts if w not in READ])
    read, left = (", ".join(f"{visible(what)} {counts[what]}" for what in part) for part in parts)
    return "; ".join(part for part in (read, left and f"left out: {left}") if part)


def _files(option: str, place: Path, found: Counter[str]) -> Iterator[tuple[str, Path]]:
    """The readable files with their names in the folder; the others are counted."""
    if is_file(place):
        if place.suffix.lower() not in SUFFIXES:
            raise SourceError(
                f"{option} {place}: is no file that can be read; {READABLE}, so export it to one"
            )
        yield place.name, place
    elif is_folder(place):
        for path in _walk(option, place, found):
            name = path.relative_to(place).as_posix()
            if not path.is_file():
                found["links to folders or special files"] += 1
            elif path.suffix.lower() in SUFFIXES:
                yield name, path
            else:
                found[f"{path.suffix.lower() or 'without suffix'} (not read)"] += 1
    else:
        raise SourceError(f"{option} {place}: no such file or folder; name one of texts")


def _walk(option: str, folder: Path, found: Counter[str]) -> Iterator[Path]:
    """Everything in the folder but subfolders, in the order of the names, without hidden ones."""
    number = 0

    def refuse(error: OSError) -> None:
        raise SourceError(
            f"{option} {error.filename}: cannot be read ({error.strerror}); allow it, or move it "
            "away"
        )

    for base, folders, files in os.walk(folder, onerror=refuse):
        hidden = [name for name in (*folders, *files) if name.startswith(".")]
        if hidden:
            found["hidden"] += len(hidden)
        links = [name for name in folders if (Path(base) / name).is_symlink()]
        folders[:] = sorted({*folders} - {*hidden, *links})
        for name in sorted({*files, *links} - {*hidden}):
            number += 1
            if number > MAX_FILES:
                raise SourceError(
                    f"{option} {folder}: holds more than {MAX_FILES} files; name the folder of the "
                    "texts alone"
                )
            check_link(folder, Path(base) / name)
            yield Path(base) / name


def _read(path: Path, found: Counter[str]) -> tuple[list[str], str]:
    """The texts of a file, and its sha256."""
    try:
        texts, digest = (_table if path.suffix.lower() == TABLE else _text_file)(path)
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror}); allow it, or move it away"
        ) from None
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None
    texts, replaced = whole(texts)
    told = [text for text in texts if not is_blank(text)]
    found["files"] += 1
    empty = len(texts) - len(told) if texts else 1
    for reason, count in ((EMPTY, empty), (REPLACED, replaced)):
        if count:
            found[reason] += count
    return told, digest


def _table(path: Path) -> tuple[list[str], str]:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"is larger than the {MAX_BYTES // MB} MB that are read of such a file")
    texts = []
    for number, text in enumerate(read_text_column(path, COLUMN)):
        if text is None:
            raise ValueError(f"row {number} (from 0) has no {COLUMN!r}; leave it out, or fill it")
        texts.append(text)
    return texts, sha256(path)


def _text_file(path: Path) -> tuple[list[str], str]:
    content = read_bytes(path, MAX_BYTES)
    text = decoded(content)
    texts = [_text_of(*row) for row in json_lines(text)] if _has_lines(path) else [text]
    return texts, hashlib.sha256(content).hexdigest()


def _has_lines(path: Path) -> bool:
    return path.suffix.lower() == LINES


def _text_of(number: int, row: dict[str, Any]) -> str:
    value = row.get(COLUMN)
    if not isinstance(value, str):
        raise ValueError(
            f"line {number} has no text {COLUMN!r} but {shown(value)}; its keys are "
            f"{', '.join(map(visible, row)) or 'none'}; rename the one that holds the text"
        )
    return value


def json_lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with the numbers of their lines, from 1; blank lines are none.

    Raises:
        ValueError: a line is no JSON object.
    """
    # Not `splitlines`, which would also split at characters that stand within texts.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(
                f"line {number} is no object but {shown(row)}; write one object on each line"
            )
        yield number, row


def is_blank(text: str) -> bool:
    """Whether nothing in a text can be seen."""
    return not any(letter.isprintable() and not letter.isspace() for letter in text)
