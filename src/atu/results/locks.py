"""Where a benchmark or a model comes from, and the lock that says what was there.

A source is a local folder or a repository of the hub. `atu fetch` writes its lock: the sha256 of
every table or file, and the hub's commit. The training core reads pinned models, so nothing beyond
its libraries is imported here.
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
"""A strict dataclass would take no dict."""
LOCK_BYTES = 16 * MB
COMMIT = re.compile(r"[0-9a-f]{40}")
REPAIR = "`atu fetch` writes it"


@dataclass(frozen=True)
class Source:
    """A local folder, or a repository of the hub at a revision; and its lock."""

    __pydantic_config__ = LAX
    place: Annotated[str, Pattern(r"\S(.*\S)?")]
    """A folder, from the project's root; or the hub's `owner/name`."""
    revision: str | None
    """Of the hub, a commit or branch; null for a folder."""
    lock: Annotated[str, Pattern(r"[\w./-]+\.json")]
    """A JSON file, from the project's root: keep it under version control."""

    @property
    def folder(self) -> Path | None:
        """The local folder, if it is one."""
        return Path(self.place) if is_folder(Path(self.place)) else None

    def __str__(self) -> str:
        return self.place + (f"@{self.revision}" if self.revision else "")


@dataclass
class Lock:
    """What was found at a source: per table or file its sha256, and the hub's commit."""

    revision: str | None = None
    content: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Lock:
        """The lock that stands at `path`.

        Raises:
            SourceError: it is missing, or no lock.
        """
        try:
            values = parse_json(read_text(path, LOCK_BYTES))
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}); {REPAIR}") from None
        except ValueError as error:
            raise SourceError(f"{path}: is no lock ({error}); {REPAIR}") from None
        found = cls(**values) if _is_lock(values) else None
        if found is None:
            raise SourceError(f"{path}: is no lock; {REPAIR}")
        return found

    @classmethod
    def of(cls, source: Source) -> Lock:
        """The lock of a source.

        Raises:
            SourceError: it is missing or no lock, or is of another commit than the source asks for.
        """
        found = cls.read(Path(source.lock))
        asked = source.revision or ""
        if found.revision and COMMIT.fullmatch(asked) and asked != found.revision:
            raise SourceError(
                f"{source.lock}: is of {source.place}@{found.revision}, but {asked} is asked for; "
                "`atu fetch --update` takes that over"
            )
        return found

    def write(self, path: Path) -> None:
        """The lock as JSON, whole or not at all."""
        from atu.results.files import write_json

        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.partial")
        write_json(beside, {"revision": self.revision, "content": self.content})
        beside.replace(path)

    def require(self, path: Path, name: str, digest: str, source: Source) -> None:
        """Compare what was found with what the lock says.

        Raises:
            SourceError: names the table or file that is not in it, or altered.
        """
        if name not in self.content:
            raise SourceError(f"{path}: says nothing of {name!r} of {source}; `atu fetch` adds it")
        if self.content[name] != digest:
            raise SourceError(
                f"{source}: {name!r} is altered, its sha256 is not the one in {path}; put the "
                "original back, or take the new one over with `atu fetch --update`"
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
