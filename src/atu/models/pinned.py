"""Pretrained models in a folder or in the hub's cache, compared with their lock.

Their weights stay where they are. The job's folder holds a pin instead: the sha256 of every file.
Opening the job reads the pinned files, and fails with the name of one that has changed.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

from atu.errors import SourceError
from atu.models.folders import (
    ADAPTERS,
    PATTERNS,
    check_adapter_folder,
    check_model_folder,
    is_adapter,
    refuse_file,
)
from atu.models.gguf_header import gguf_in, is_gguf
from atu.models.packages import is_package, locate_package, wheel_digest
from atu.results.artifacts import Artifact
from atu.results.files import read_json, sha256
from atu.results.locks import Lock, Source
from atu.untrusted.texts import is_file, is_folder

PIN = "pin.json"
FOLDER = "model"


def split_revision(model: str) -> tuple[str, str | None]:
    """Split `owner/name@revision`; a folder, a file and a package have no revision."""
    path = Path(model)
    if is_package(model) or is_folder(path) or is_file(path):
        return model, None
    place, _, revision = model.partition("@")
    return place, revision or None


def locate(source: Source, revision: str | None = None) -> Path:
    """The folder of a model: the source's, or the snapshot in the hub's local cache; of a model
    in one GGUF file, that file.

    Args:
        revision: the hub's commit; the source's revision if None.

    Raises:
        ArtifactError: the place is a file.
        SourceError: there is neither.
    """
    if source.folder is not None:
        return gguf_in(source.folder) or source.folder
    if is_package(source.place):
        return locate_package(source.place)
    if is_gguf(Path(source.place)):
        if not is_file(Path(source.place)):
            raise SourceError(f"{source}: there is no such file; name one that is there")
        return Path(source.place)
    refuse_file(Path(source.place))
    from transformers.utils import cached_file

    config_file = None
    for name in ("config.json", ADAPTERS):
        # OSError or ValueError: no such name, or not in the cache.
        with contextlib.suppress(OSError, ValueError):
            config_file = config_file or cached_file(
                source.place, name, revision=revision or source.revision, local_files_only=True
            )
    if config_file is None:
        raise SourceError(
            f"{source}: neither a folder nor in the local hub cache; `atu fetch` downloads it"
        )
    return Path(config_file).parent


def patterns(code: bool) -> list[str]:
    """`PATTERNS`, and Python files where the model's code may run."""
    return [*PATTERNS, *(["*.py"] if code else [])]


def source_digests(source: Source, place: Path, code: bool = False) -> dict[str, str]:
    """`file_digests` of a located source, and of a package also that of its wheel."""
    wheel = wheel_digest(source.place) if is_package(source.place) else {}
    return wheel | file_digests(place, code)


def file_digests(folder: Path, code: bool = False) -> dict[str, str]:
    """sha256 by name of every file that transformers reads; with `code` also of the model's code.
    Of a GGUF file, its own; of an adapter, those of its folder.

    Raises:
        ArtifactError: the folder holds what no model folder may.
    """
    if is_gguf(folder):
        return {folder.name: sha256(folder)}
    if is_adapter(folder):
        check_adapter_folder(folder)
    else:
        check_model_folder(folder, code=code)
    paths = (path for pattern in patterns(code) for path in folder.glob(pattern))
    names = {path.name for path in paths if path.is_file()}
    return {name: sha256(folder / name) for name in sorted(names)}


def pin(source: Source, code: bool = False) -> dict[str, Any]:
    """The content of `pin.json`: the model's place and the sha256 of every file, as locked.

    Raises:
        SourceError: the model or its lock is missing, or a file differs from its lock.
    """
    lock = Lock.of(source)
    folder = locate(source, lock.revision)
    digests = source_digests(source, folder, code)
    for name, digest in digests.items():
        lock.require(Path(source.lock), name, digest, source)
    for name in sorted(set(lock.content) - set(digests)):
        raise SourceError(f"{folder / name}: is in {source.lock} but missing; put it back")
    return {"place": source.place, "revision": lock.revision or source.revision, "files": digests}


def is_pinned(artifact: Artifact) -> bool:
    """Whether the job's folder points at a model instead of holding one."""
    return PIN in artifact.manifest["artifacts"]


def model_folder(artifact: Artifact, code: bool = False) -> Path:
    """The Hugging Face folder in a job, or the one that it pins, every file checked.

    Raises:
        ArtifactError: a file in the job's folder differs from its manifest.
        SourceError: a pinned file is missing or altered.
    """
    if not is_pinned(artifact):
        return artifact.subfolder(FOLDER, code)
    folder = pinned_folder(artifact)
    for name, digest in read_json(artifact.file(PIN))["files"].items():
        path = folder / name
        if not path.is_file():
            raise SourceError(f"{path}: is pinned by {artifact.folder} but missing; put it back")
        if sha256(path) != digest:
            raise SourceError(
                f"{path}: altered since {artifact.folder} pinned it; put the original back, or "
                "take the new one over with `atu fetch --update` and run again"
            )
    return folder


def pinned_folder(artifact: Artifact) -> Path:
    """The folder that a job pins; its files are not checked.

    Raises:
        SourceError: it does not exist here.
    """
    content = read_json(artifact.file(PIN))
    return locate(Source(content["place"], content["revision"], lock=""))


def parameter_count(folder: Path) -> int:
    """Numbers in the weight files, from their headers alone."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as weights:
            total += sum(math.prod(weights.get_slice(k).get_shape()) for k in weights.keys())  # noqa: SIM118
    return total
