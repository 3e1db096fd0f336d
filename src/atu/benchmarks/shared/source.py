"""A benchmark's tables, from a local folder or a data set of the hub.

Every table that is read is compared with the sha256 in the lock of its source. Jobs never touch
the network.

Whatever characters a row holds, it is read. Only an unpaired surrogate, which JSON can spell and
neither a table nor a tokenizer can hold, becomes U+FFFD, and is counted.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from atu.errors import SourceError, shown
from atu.results.locks import Lock, Source
from atu.untrusted.texts import MB, parse_json, read_text, require_inside, whole

Rows = list[dict[str, Any]]
MAX_BYTES = 1024 * MB
"""Limit of one file of a benchmark."""


def digest_of(rows: Rows) -> str:
    """sha256 of the rows as JSON with sorted keys, one per line: independent of the file format."""
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        digest.update(line.encode("utf-8") + b"\n")
    return digest.hexdigest()


class Reader:
    """Reads tables of a source and compares each with the lock; with `record` adds it to the lock.

    Every table is read once and cached.
    """

    def __init__(self, source: Source, lock: Lock, *, record: bool = False) -> None:
        self.source, self.lock, self.record = source, lock, record
        self.replaced: dict[str, int] = {}
        """How many unpaired surrogates were replaced, by table; only where there were some."""
        self._known: dict[str, Rows] = {}

    @classmethod
    def open(cls, source: Source) -> Reader:
        """A reader for jobs.

        Raises:
            SourceError: the lock is missing.
        """
        return cls(source, Lock.of(source))

    def names(self, pattern: str) -> list[str]:
        """Paths inside a local folder that match, sorted."""
        folder = self._folder()
        return sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))

    def file(self, name: str) -> Rows:
        """The rows of a JSON list in a local folder.

        Raises:
            SourceError: the file is missing, not a JSON list of objects, or differs from the lock.
        """
        return self._once(name, lambda: self._read(name))

    def table(self, config: str, split: str) -> Rows:
        """The rows of one configuration and split, of a local data set repository or of the hub.

        Raises:
            SourceError: it cannot be loaded here, or differs from the lock.
        """
        return self._once(f"{config}/{split}", lambda: self._load(config, split))

    def _once(self, name: str, read: Any) -> Rows:
        if name not in self._known:
            rows, replaced = whole(read())
            if replaced:
                self.replaced[name] = replaced
            digest = digest_of(rows)
            if self.record:
                self.lock.content[name] = digest
            else:
                self.lock.require(Path(self.source.lock), name, digest, self.source)
            self._known[name] = rows
        return self._known[name]

    def _folder(self) -> Path:
        folder = self.source.folder
        if folder is None:
            raise SourceError(f"{self.source}: no such folder; put the benchmark's files there")
        return folder

    def _read(self, name: str) -> Rows:
        try:
            require_inside(name)
        except ValueError as error:
            raise SourceError(f"{self.source}: {error}") from None
        return _json_rows(self._folder() / name, lines=False)

    def _load(self, config: str, split: str) -> Rows:
        """Call `datasets`; for a folder without its cache, which is keyed by name and time.

        JSON files of a folder are read here: `datasets` would take texts that look like dates for
        dates, and drop or refuse unpaired surrogates.
        """
        import datasets

        revision = self.lock.revision or self.source.revision
        with tempfile.TemporaryDirectory() as fresh:
            try:
                if self.source.folder and (files := _json_files(self.source, config, split, fresh)):
                    return _same_columns(
                        [row for file in files for row in _json_rows(file, lines=True)]
                    )
                loaded = datasets.load_dataset(
                    self.source.place,
                    config,
                    split=split,
                    revision=None if self.source.folder else revision,
                    cache_dir=fresh if self.source.folder else None,
                )
                return _require_rows(loaded.to_list(), f"{self.source}: {config}/{split}")
            except SourceError:
                raise
            except Exception as error:  # `datasets` raises many types
                reason = " ".join(str(error).split())[:300]
                raise SourceError(
                    f"{self.source}: {config}/{split} cannot be loaded ({type(error).__name__}: "
                    f"{reason}); `atu fetch` downloads it"
                ) from None


def _json_files(source: Source, config: str, split: str, cache: str) -> list[Path]:
    """The local files of a table, if they are plain JSON; otherwise none."""
    import datasets

    builder = datasets.load_dataset_builder(source.place, config, cache_dir=cache)
    files = [Path(name) for name in (builder.config.data_files or {}).get(split, [])]
    plain = all(file.suffix in (".json", ".jsonl") and file.is_file() for file in files)
    return files if plain and getattr(builder.config, "field", None) is None else []


def _json_rows(path: Path, *, lines: bool) -> Rows:
    """The rows of a file: a JSON list of objects, or with `lines` also an object on each line.

    Raises:
        SourceError: it is missing, or neither.
    """
    try:
        text = read_text(path, MAX_BYTES)
        if not lines or text.lstrip().startswith("["):
            rows = parse_json(text)
        else:  # not `splitlines`, which would also split at characters that stand within texts
            rows = [parse_json(line) for line in text.split("\n") if line.strip()]
    except OSError as error:
        reason = "is missing" if not path.exists() else f"cannot be read ({error.strerror})"
        raise SourceError(f"{path}: {reason}; put the benchmark's file there") from None
    except ValueError as error:
        raise SourceError(f"{path}: is not a JSON file ({error})") from None
    return _require_rows(rows, str(path))


def _same_columns(rows: Rows) -> Rows:
    """Every row with all columns, null where it has none, as other formats hold them."""
    columns = dict.fromkeys(key for row in rows for key in row)
    return [dict.fromkeys(columns) | row for row in rows]


Readers = Mapping[str, Reader]
"""The readers of a benchmark's sources, by the name of the settings' field."""


def sources_of(settings: Any) -> dict[str, Source]:
    """The fields of a settings dataclass that hold a source, by name."""
    values = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    return {name: value for name, value in values.items() if isinstance(value, Source)}


def open_readers(settings: Any) -> Readers:
    """A reader for each of the settings' sources.

    Raises:
        SourceError: a lock is missing.
    """
    return {name: Reader.open(source) for name, source in sources_of(settings).items()}


def _require_rows(rows: Any, where: str) -> Rows:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"{where}: is not a list of rows")
    return rows


def text_of(row: Mapping[str, Any], key: str, where: str) -> str:
    """A row's text, which may be empty; `where` names its file and its number.

    Raises:
        SourceError: the row has no such text.
    """
    value = row.get(key)
    if not isinstance(value, str):
        raise SourceError(f"{where}: the row has no text {key!r} but {shown(value)}")
    return value


def asked_text(row: Mapping[str, Any], key: str, where: str) -> str:
    """A row's text that is asked, or that an answer is compared with: as `text_of`, not blank.

    Raises:
        SourceError: the row has no such text, or a blank one.
    """
    text = text_of(row, key, where)
    if not text.strip():
        raise SourceError(f"{where}: the row has an empty {key!r}, so it cannot be asked")
    return text


def texts_of(rows: Rows, key: str, where: str) -> list[str]:
    """`text_of` of every row; `where` names their file."""
    return [text_of(row, key, f"{where}, row {number}") for number, row in enumerate(rows)]
