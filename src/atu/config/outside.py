"""Results outside the grid, such as those of a target that was taken out of it.

DVC records the folder of a whole phase. What no job of the grid makes stays out of the record, or a
removed person's texts would be pushed, and the hash would not be a clean run's.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from atu.config.cells import job_folders
from atu.config.params import PHASES, Params
from atu.errors import ConfigError
from atu.results.files import write_whole

IGNORE_FILE = ".dvcignore"
UNFINISHED = (".partial", ".checkpoints", ".old", ".lock")
"""What a job keeps beside its folder while it runs; the project's `.dvcignore` names it."""


def outside_of(params: Params, results: Path) -> list[Path]:
    """What stands among the phases' results but is of no job of the grid, such as the folders of a
    target that was taken out of it; of a folder only its own path, not those below.
    """
    jobs = job_folders(params, results)
    above = {parent for folder in jobs for parent in folder.parents}
    found: list[Path] = []

    def walk(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if path in jobs or (path.name.startswith(".") and path.name.endswith(UNFINISHED)):
                continue
            if path in above and path.is_dir():
                walk(path)
            else:
                found.append(path)

    for phase in PHASES:
        folder = results / phase
        if folder in above and folder.is_dir():
            walk(folder)
        elif folder not in jobs and folder.exists():
            found.append(folder)
    return found


def leave_out(results: Path, paths: Sequence[Path]) -> bool:
    """Have DVC leave these paths out, by an ignore file beside the phases' folders, which Git
    ignores: it names what must not leave this machine. True if the file changed.
    """
    file = results / IGNORE_FILE
    lines = ["/" + _pattern(path.relative_to(results)) for path in paths]
    text = "".join(line + "\n" for line in lines)
    how = {"encoding": "utf-8", "errors": "surrogateescape"}  # as Python reads names of files
    before = file.read_text(**how) if file.exists() else ""
    if text == before:
        return False
    if text:
        write_whole(file, text, **how)
    else:
        file.unlink()
    return True


def _pattern(path: Path) -> str:
    """A path as a pattern of `.gitignore`; a line break, which none can hold, as any character."""
    return re.sub(r"([\\*?\[\]!# ])", r"\\\1", path.as_posix()).replace("\n", "?")


def move_away(results: Path, paths: Sequence[Path], place: Path) -> None:
    """Move these paths below `place`, as they stand below `results`.

    Raises:
        ConfigError: `place` is in `results` or a file, or holds one of them already.
    """
    if place.resolve().is_relative_to(results.resolve()) or place.is_file():
        raise ConfigError("--move", str(place), f"is in {results} or a file; name a folder")
    moves = {path: place / results.name / path.relative_to(results) for path in paths}
    for there in moves.values():
        if there.exists():
            raise ConfigError("--move", str(place), f"has {there} already; name another folder")
    for path, there in moves.items():
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, there)
