"""What Snakemake and the jobs left beside the results: records of inputs, marks, and logs."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from functools import cached_property
from pathlib import Path

from atu.errors import visible
from atu.results.artifacts import MANIFEST
from atu.untrusted.texts import MB, parse_json, read_text

ERROR = "atu: "
"""How the message begins with which a job ends."""
TAIL = 8192
"""Bytes of a log that are read, from its end."""


class Records:
    """What lies beside an experiment's results, in the folder in which Snakemake ran.

    Snakemake (9.27, `snakemake/persistence/file.py`) keeps a JSON file per output below
    `.snakemake/metadata`, and a mark below `.snakemake/incomplete` while the job runs; the name of
    either is the output's path in base64.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self.root = results.parent.parent

    def inputs(self, folder: Path) -> dict[str, str] | None:
        """The sha256 of every input that Snakemake saw of a job, by path from `root`; None where it
        has no record, as of results that came with DVC.
        """
        try:
            record = parse_json(read_text(self._file("metadata", folder), 16 * MB))
        except (OSError, ValueError):
            return None
        sums = record.get("input_checksums") if isinstance(record, dict) else None
        if not isinstance(sums, dict) or not all(isinstance(s, str) for s in sums.values()):
            return None
        return {path: text.removeprefix("sha256:") for path, text in sums.items()}

    def begun(self, folder: Path) -> bool:
        """Whether Snakemake began the job and did not see it end."""
        return self._file("incomplete", folder).is_file()

    def _file(self, kind: str, folder: Path) -> Path:
        output = (folder / MANIFEST).relative_to(self.root).as_posix()
        name = urlsafe_b64encode(output.encode(errors="surrogateescape")).decode()
        pieces = [name[i : i + self._longest] for i in range(0, len(name), self._longest)]
        above = [f"@{piece}" for piece in pieces[:-1]]
        return self.root.joinpath(".snakemake", kind, *above, pieces[-1])

    @cached_property
    def _longest(self) -> int:
        return os.pathconf(self.root if self.root.is_dir() else ".", "PC_NAME_MAX") - 1

    def log(self, folder: Path) -> Path:
        """The job's log."""
        parts = folder.relative_to(self.results).parts
        *above, name = parts if len(parts) > 1 else parts * 2  # report/report.log
        return self.root.joinpath("logs", self.results.name, *above, f"{name}.log")

    def ended_well(self, folder: Path) -> bool:
        """Whether the log is of a job that ended well: its times are then beside it."""
        log = self.log(folder)
        try:
            return log.with_suffix(".tsv").stat().st_mtime >= log.stat().st_mtime
        except OSError:
            return False


def last_words(log: Path) -> str | None:
    """The message with which a log ends, or its last line; "" if it is empty, None without one."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(log.stat().st_size - TAIL, 0))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    message = next((n for n in reversed(range(len(lines))) if lines[n].startswith(ERROR)), -1)
    return visible(" ".join(lines[message:])) if lines else ""
