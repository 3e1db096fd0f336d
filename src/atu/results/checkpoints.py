"""Checkpoints of long jobs: written beside the job's folder, whole or not at all.

Tensors are in safetensors, everything else in JSON; nothing is unpickled. Rank 0 writes full
tensors, also of sharded ones, so that a job can resume with another number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atu.distributed import processes
from atu.errors import ArtifactError
from atu.results.files import sha256
from atu.untrusted.texts import MB, parse_json, read_text

if TYPE_CHECKING:
    from torch import Tensor


STATE, TENSORS = "state.json", "tensors.safetensors"
MAX_STATE = 1024 * MB


@cache
def code_digest() -> str:
    """sha256 of this package's sources: a job does not resume from a checkpoint of other code."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass
class State:
    """The content of a checkpoint."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


class Store:
    """The checkpoints of one job, in a folder beside the job's; the newest complete one counts."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(identity, sort_keys=True, default=str)
        self.identity = hashlib.sha256(text.encode()).hexdigest()

    def save(self, state: State) -> bool:
        """Write a checkpoint, then remove the older ones; returns whether that succeeded. Rank 0
        writes, the other ranks wait.

        A full disk must not end a job that may still finish: the error goes to stderr, and the
        older checkpoints stay.
        """
        return processes.agreed(processes.is_rank_zero() and self._saved(state))

    def _saved(self, state: State) -> bool:
        from safetensors import SafetensorError

        try:
            self._write(state)
        except (OSError, SafetensorError) as error:
            print(f"{self.folder}: no checkpoint: {error}", file=sys.stderr)
            with suppress(OSError):
                self.folder.rmdir()  # if it is empty
            return False
        return True

    def _write(self, state: State) -> None:
        from safetensors.torch import save_file

        number = max((n for n, _ in self._numbered()), default=0) + 1
        scratch = self.folder / f".{number}.partial"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir(parents=True)
            save_file(
                {name: t.detach().cpu().contiguous() for name, t in state.tensors.items()},
                scratch / TENSORS,
            )
            head = {"identity": self.identity, "sha256": sha256(scratch / TENSORS)}
            text = json.dumps(head | {"values": state.values}, sort_keys=True, allow_nan=False)
            (scratch / STATE).write_text(text, encoding="utf-8")
            for name in (TENSORS, STATE):
                _sync(scratch / name)
            scratch.rename(self.folder / str(number))
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        _sync(self.folder)
        for older, path in self._numbered():
            if older < number:
                shutil.rmtree(path, ignore_errors=True)

    def load(self) -> State | None:
        """The newest checkpoint of this job, or None. A damaged one, or one of other parameters,
        inputs or code, is skipped with a message on stderr. Every rank reads the one that rank 0
        chose, before rank 0 may write another.

        Raises:
            ArtifactError: a rank cannot read it.
        """
        numbers = sorted((number for number, _ in self._numbered()), reverse=True)
        chosen, state = self._newest(numbers) if processes.is_rank_zero() else (None, None)
        chosen = processes.agreed(chosen)
        if chosen is not None and not processes.is_rank_zero():
            _, state = self._newest([chosen])
        (missing,) = processes.any_of(chosen is not None and state is None)
        if missing:
            raise ArtifactError(
                f"{self.folder / str(chosen)}: rank 0 resumes from it, and another rank "
                "cannot read it; give all machines one file system, or remove the folder to start "
                "anew"
            )
        return state

    def _newest(self, numbers: Sequence[int]) -> tuple[int | None, State | None]:
        """The first readable one of these checkpoints, with its number."""
        for number in numbers:
            path = self.folder / str(number)
            try:
                return number, self._read(path)
            except (OSError, ValueError, KeyError) as error:
                print(f"{path}: not resumed from: {error}", file=sys.stderr)
        return None, None

    def _read(self, path: Path) -> State:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        content = parse_json(read_text(path / STATE, MAX_STATE))
        if not isinstance(content, dict) or not isinstance(content.get("values"), dict):
            raise ValueError(f"{STATE} is not a checkpoint")
        if content["identity"] != self.identity:
            raise ValueError("it is of other parameters, inputs, libraries or code")
        if sha256(path / TENSORS) != content["sha256"]:
            raise ValueError(f"{TENSORS} is altered or truncated")
        try:
            return State(content["values"], load_file(path / TENSORS))
        except SafetensorError as error:
            raise ValueError(str(error)) from None

    def clear(self) -> None:
        """Remove all checkpoints: the job is finished."""
        if processes.is_rank_zero():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _numbered(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        return [(int(p.name), p) for p in self.folder.iterdir() if p.name.isdecimal()]


def _sync(path: Path) -> None:
    """Flush to disk: before this returns, a crash of the machine may lose the data."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
