"""Sources of benchmarks and models, and the locks that pin their content.

A source is a local folder or a repository of the hub. `atu fetch` writes its lock: the sha256 of
every table or file, and the hub's commit. The training core reads pinned models, so only its
libraries are imported here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from atu.errors import SourceError
from atu.untrusted.bounds import Pattern
from atu.untrusted.texts import MB, is_folder, parse_json, read_text

LAX = {"extra": "forbid"}
"""A strict dataclass would not accept a dict."""
LOCK_BYTES = 16 * MB
COMMIT = re.compile(r"[0-9a-f]{40}")
REPAIR = "`atu fetch` writes it"


@dataclass(frozen=True)
class Source:
    """A local folder, or a repository of the hub at a revision, with its lock."""

    __pydantic_config__ = LAX
    place: Annotated[str, Pattern(r"\S(.*\S)?")]
    """A folder or, of a model, a GGUF file, relative to the project's root; the hub's `owner/name`;
    or, of a model, `pip:package==version`."""
    revision: str | None
    """The hub's commit or branch; null for anything else."""
    lock: Annotated[str, Pattern(r"[\w./-]+\.json")]
    """A JSON file, relative to the project's root; keep it under version control."""

    @property
    def folder(self) -> Path | None:
        """The local folder, if it is one."""
        return Path(self.place) if is_folder(Path(self.place)) else None

    def __str__(self) -> str:
        return self.place + (f"@{self.revision}" if self.revision else "")


@dataclass
class Lock:
    """The pinned content of a source: the sha256 of every table or file, and the hub's commit."""

    revision: str | None = None
    content: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Lock:
        """The lock at `path`.

        Raises:
            SourceError: it is missing, or not a lock.
        """
        try:
            values = parse_json(read_text(path, LOCK_BYTES))
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}); {REPAIR}") from None
        except ValueError as error:
            raise SourceError(f"{path}: is not a lock ({error}); {REPAIR}") from None
        lock = cls(**values) if _is_lock(values) else None
        if lock is None:
            raise SourceError(f"{path}: is not a lock; {REPAIR}")
        return lock

    @classmethod
    def of(cls, source: Source) -> Lock:
        """The lock of a source.

        Raises:
            SourceError: it is missing, not a lock, or of another commit than the source requests.
        """
        lock = cls.read(Path(source.lock))
        requested = source.revision or ""
        if lock.revision and COMMIT.fullmatch(requested) and requested != lock.revision:
            raise SourceError(
                f"{source.lock}: is of {source.place}@{lock.revision}, but {requested} is "
                "requested; `atu fetch --update` updates the lock"
            )
        return lock

    def write(self, path: Path) -> None:
        """Write the lock as JSON, whole or not at all."""
        from atu.results.files import write_json

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        write_json(partial, {"revision": self.revision, "content": self.content})
        partial.replace(path)

    def require(self, path: Path, name: str, digest: str, source: Source) -> None:
        """Compare the sha256 of a table or file with the lock.

        Raises:
            SourceError: the lock does not have it, or it was altered.
        """
        if name not in self.content:
            raise SourceError(f"{path}: has no entry for {name!r} of {source}; `atu fetch` adds it")
        if self.content[name] != digest:
            raise SourceError(
                f"{source}: {name!r} is altered, its sha256 is not the one in {path}; restore "
                "the original, or accept the new one with `atu fetch --update`"
            )


def _is_lock(values: Any) -> bool:
    if not isinstance(values, dict) or set(values) != {"revision", "content"}:
        return False
    content = values["content"]
    return (
        isinstance(values["revision"], str | None)
        and isinstance(content, dict)
        and all(isinstance(digest, str) for digest in content.values())
    )
