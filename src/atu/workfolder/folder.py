"""A command's work folder and its result: what may stand there, and what is never overwritten."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from atu.config.written import Origin, origin
from atu.errors import ArtifactError, AtuError
from atu.results.artifacts import MANIFEST, METRICS, PROVENANCE, Artifact
from atu.results.files import write_whole

PARAMS = "params.yaml"
LOCKS = "locks"
MODEL = "model"
"""The model as a folder of its own, where it came otherwise."""


@contextlib.contextmanager
def work_folder(folder: Path) -> Iterator[None]:
    """Make the work folder; a refusal before there is work in it leaves no folder that was not
    there before.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except AtuError:
        if folder in made and {path.name for path in folder.iterdir()} <= {LOCKS, MODEL}:
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):  # somebody else uses it by now
                for path in made[1:]:
                    path.rmdir()
        raise


def require_params(path: Path, command: str) -> None:
    """Refuse a work folder whose parameter file another command wrote.

    Raises:
        ArtifactError: names the file.
    """
    here = origin(path) if path.exists() else Origin(command, edited=False)
    if here is None or here.command != command:
        raise ArtifactError(f"{path}: was not written by `{command}`; name another --work")


def keep_params(path: Path, text: str) -> None:
    """Write the parameter file, unless the user has edited it."""
    here = origin(path) if path.exists() else None
    if here is not None and here.edited:
        print(f"{path.absolute()}: was edited, so it is used as it is; delete it for a new one")
    elif here is None or path.read_bytes() != text.encode("utf-8"):
        write_whole(path, text)


def require_place(option: str, folder: Path) -> None:
    """Refuse a path that cannot become a folder.

    Raises:
        ArtifactError: names the path.
    """
    if folder.is_symlink():
        raise ArtifactError(f"{option} {folder}: is a link; name the folder itself")
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ArtifactError(f"{option} {folder}: {place} is a file; name another folder")


def standing_result(out: Path, phase: str) -> Artifact | None:
    """The command's own result that stands in `out`, not edited since; None if `out` is free.

    Raises:
        ArtifactError: names what else stands there.
    """
    require_place("--out", out)
    if not out.is_dir() or not any(out.iterdir()):
        return None
    if not (out / MANIFEST).is_file():
        raise ArtifactError(f"--out {out}: holds files that `atu {phase}` did not write; name "
                            "another folder")  # fmt: skip
    result = Artifact.open(out / MANIFEST, phase)
    require_untouched(out, result)
    return result


def require_untouched(out: Path, result: Artifact) -> None:
    """Refuse to replace a result with edited or added files.

    Raises:
        ArtifactError: names the first of them.
    """
    known = {MANIFEST, METRICS, PROVENANCE, *result.manifest["artifacts"]}
    files = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    added = sorted(files - known)
    if added:
        raise ArtifactError(
            f"--out {out}: {added[0]} was added since; move it away, or name another folder"
        )
    try:
        result.check()
    except ArtifactError as error:
        raise ArtifactError(f"{error}; move it away, or name another folder") from None


def is_here(out: Path, phase: str, inputs: dict[str, Artifact]) -> bool:
    """Whether the result of these inputs exists.

    Raises:
        ArtifactError: it was edited.
    """
    if not (out / MANIFEST).is_file():
        return False
    result = Artifact.open(out / MANIFEST, phase)
    require_untouched(out, result)
    expected = {name: artifact.digest for name, artifact in inputs.items()}
    return bool(result.manifest["inputs"] == expected)
