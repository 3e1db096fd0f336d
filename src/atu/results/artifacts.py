"""Finished job folders, sealed by a manifest: refused if a file differs from the manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from atu.errors import ArtifactError, shown
from atu.results.files import MAX_JSON, read_json, read_jsonl, sha256
from atu.untrusted.texts import parse_json, read_text, require_inside

SCHEMA = "atu-manifest-1"
MANIFEST = "manifest.json"
METRICS = "metrics.json"
PROVENANCE = "provenance.json"
SECTIONS = ("cell", "params", "inputs", "artifacts")
EXECUTED = {
    ".bin", ".ckpt", ".dill", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth", ".py",
    ".pyc", ".so",
}  # fmt: skip
"""Suffixes of files that are unpickled or imported when read."""
CODE, MODEL_FOLDER = ".py", "model/"
"""A model may have its own code in its folder; it is refused unless the parameters list the model
(`subfolder`)."""


@dataclass(frozen=True)
class Artifact:
    """A finished job folder, opened through its manifest.

    Raises:
        ArtifactError: no manifest, an unknown schema, an unexpected phase, or (on `file`) a file
            that is missing, truncated, altered or not listed.
    """

    folder: Path
    manifest: dict[str, Any]
    digest: str
    """sha256 of the manifest: identifies the content of the whole folder."""

    @classmethod
    def open(cls, manifest: Path, phase: str, *others: str) -> Artifact:
        """Open the folder of this `manifest.json`, which must be of `phase` or of the `others`."""
        if manifest.name != MANIFEST:
            raise ArtifactError(f"{manifest}: name the folder's {MANIFEST}, not another file")
        try:
            content = parse_json(read_text(manifest, MAX_JSON))
        except OSError as error:
            reason = f"cannot be read ({error.strerror})" if manifest.exists() else "missing"
            raise ArtifactError(f"{manifest}: {reason}; run `snakemake {phase}` first") from None
        except ValueError as error:
            raise ArtifactError(
                f"{manifest}: not a manifest ({error}); delete the folder"
            ) from None
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ArtifactError(f"{manifest}: not written by this version (schema {SCHEMA!r})")
        if content.get("phase") not in (phase, *others):
            actual = shown(content.get("phase"))
            raise ArtifactError(f"{manifest}: holds phase {actual}, but {phase!r} was expected")
        if not all(isinstance(content.get(key), dict) for key in SECTIONS):
            raise ArtifactError(f"{manifest}: incomplete; delete the folder and run again")
        for name, listed in content["artifacts"].items():
            _check_listed(manifest, name, listed)
        return cls(manifest.parent, content, sha256(manifest))

    def file(self, name: str) -> Path:
        """The path of a listed file, after a check of its size and sha256."""
        listed = self.manifest["artifacts"].get(name)
        path = self.folder / name
        if listed is None:
            raise ArtifactError(f"{path}: not listed in {MANIFEST}; it is not part of this result")
        if not path.is_file():
            raise ArtifactError(f"{path}: listed in {MANIFEST} but missing; {self._repair}")
        # To resolve a path looks at every folder above it; most have no link to follow.
        linked = any(p.is_symlink() for p in (path, *path.parents[: len(Path(name).parts) - 1]))
        if linked and not path.resolve().is_relative_to(self.folder.resolve()):
            raise ArtifactError(
                f"{path}: a link to {path.resolve()}, outside of the folder; put the file itself "
                "there (DVC: `dvc config cache.type copy`, `dvc checkout --relink`)"
            )
        size = path.stat().st_size
        if size != listed["bytes"]:
            raise ArtifactError(
                f"{path}: truncated or altered, {size} bytes instead of {listed['bytes']}; "
                f"{self._repair}"
            )
        if sha256(path) != listed["sha256"]:
            raise ArtifactError(
                f"{path}: altered, its sha256 is not the one in {MANIFEST}; {self._repair}"
            )
        return path

    def subfolder(self, name: str, code: bool = False) -> Path:
        """A folder inside the artifact, after a check of all its files.

        Raises:
            ArtifactError: a file is not listed or differs; or it is Python code and `code` is
                False.
        """
        files = [key for key in self.manifest["artifacts"] if key.startswith(f"{name}/")]
        if not files:
            raise ArtifactError(f"{self.folder / name}: nothing listed in {MANIFEST} below it")
        for key in files:
            if key.endswith(CODE) and not code:
                raise ArtifactError(
                    f"{self.folder / key}: code of a model, which does not run unless "
                    "compute.remote_code lists the model"
                )
            self.file(key)
        for path in (self.folder / name).rglob("*"):
            # A link to a folder is neither a folder nor listed.
            if path.is_dir() and not path.is_symlink():
                continue
            if path.relative_to(self.folder).as_posix() not in files:
                raise ArtifactError(f"{path}: not listed in {MANIFEST}; remove it")
        return self.folder / name

    def metrics(self) -> dict[str, float]:
        """The folder's metrics, checked when they are first read."""
        return dict(self._metrics)

    @cached_property
    def _metrics(self) -> dict[str, float]:
        path = self.file(METRICS)
        metrics = read_json(path)
        if not isinstance(metrics, dict) or not all(map(_is_number, metrics.values())):
            raise ArtifactError(f"{path}: not names with numbers; delete the folder")
        return metrics

    def read_jsonl(self, name: str) -> list[dict[str, Any]]:
        """The rows of a checked JSONL file."""
        return read_jsonl(self.file(name))

    def check(self) -> None:
        """Check every listed file."""
        for name in self.manifest["artifacts"]:
            self.file(name)

    @property
    def _repair(self) -> str:
        """How to repair a file that differs. DVC does not store the weights of unlearned models."""
        if self.manifest["phase"] == "unlearn":
            return "`make weights` computes it again (docs/dvc.md)"
        return "delete the folder and run again"

    @property
    def cell(self) -> dict[str, Any]:
        """The model, target, method and seed of the folder."""
        return self.manifest["cell"]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_listed(manifest: Path, name: str, listed: Any) -> None:
    """Refuse a manifest entry that is not a file inside the folder with its size and sha256."""
    try:
        require_inside(name)
    except ValueError as error:
        raise ArtifactError(f"{manifest}: {error}; it was not written by this program") from None
    suffix = PurePosixPath(name).suffix
    of_a_model = suffix == CODE and name.startswith(MODEL_FOLDER)
    if suffix.lower() in EXECUTED and not of_a_model:
        raise ArtifactError(
            f"{manifest}: lists {name}, a kind of file that runs code when it is read; no result "
            "has any"
        )
    size, digest = (
        listed.get(k) if isinstance(listed, dict) else None for k in ("bytes", "sha256")
    )
    if not (
        type(size) is int and isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)
    ):
        raise ArtifactError(f"{manifest}: {name} has no size and sha256; delete the folder")
