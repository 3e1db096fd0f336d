"""A model of any source (a GGUF file, a package, the hub) as a Hugging Face folder of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from atu.config.fetching import model_lock
from atu.errors import ArtifactError
from atu.models import gguf, gguf_tokenizer
from atu.models.gguf import dequantise
from atu.models.gguf_header import gguf_in, is_gguf
from atu.models.packages import PREFIX, cache_folder, is_package
from atu.models.pinned import file_digests, locate, source_digests
from atu.results.files import read_json, sha256, write_json
from atu.results.locks import Lock, Source
from atu.untrusted.texts import is_file, is_folder

ORIGIN = "origin.json"
"""In the folder: which files it was made from, and the sha256 of what was made."""


def needs_plain(place: str) -> bool:
    """Whether a place is a package, a GGUF file, or a folder with one in place of safetensors."""
    path = Path(place)
    return (
        is_package(place)
        or (is_gguf(path) and is_file(path))
        or (is_folder(path) and gguf_in(path) is not None)
    )


def plain_name(place: str) -> str:
    """What a folder made of such a place is called: "tiny.gguf" gives "tiny"."""
    if is_package(place):
        return place.removeprefix(PREFIX).replace("==", "-")
    path = Path(place).resolve()
    return path.stem if is_gguf(path) else path.name


def make_plain(source: Source, out: Path, *, offline: bool) -> bool:
    """Write the source's model as a Hugging Face folder, whole or not at all; False where the
    folder is there already, made from the same files and unaltered since.

    Raises:
        ArtifactError: `out` holds something else.
        SourceError: the model is not to be had, or not as its lock says.
    """
    read = model_lock(source, offline, False, False)
    if source.lock:
        known = Lock.of(source)
        for name, digest in read.content.items():
            known.require(Path(source.lock), name, digest, source)
    origin = {"place": source.place, "revision": read.revision, "read": read.content}
    if out.exists():
        _require_same(out, origin)
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        made = Path(scratch) / "model"
        _write(locate(source, read.revision), made)
        write_json(made / ORIGIN, origin | {"made": file_digests(made)})
        try:
            made.replace(out)
        except OSError:  # another process was quicker
            if not (out / ORIGIN).is_file():
                raise
            _require_same(out, origin)
            return False
    return True


def plain_folder(place: str, revision: str | None) -> Path:
    """The Hugging Face folder that a GGUF file, or one in a package, was made into in the user's
    cache; made now unless it is there.

    Raises:
        ArtifactError, SourceError: as `make_plain`; nothing is downloaded.
    """
    import transformers

    source = Source(place, revision, "")
    read = json.dumps(source_digests(source, locate(source)), sort_keys=True)
    code = "".join(sha256(Path(str(module.__file__))) for module in (gguf, gguf_tokenizer))
    key = hashlib.sha256(f"{read}{code}{transformers.__version__}".encode()).hexdigest()[:32]
    folder = cache_folder() / "models" / key
    make_plain(source, folder, offline=True)
    return folder


def _write(place: Path, made: Path) -> None:
    made.mkdir()
    if is_gguf(place):
        dequantise(place, made)
        return
    for name in file_digests(place):
        shutil.copyfile(place / name, made / name)


def _require_same(out: Path, origin: dict[str, Any]) -> None:
    """Refuse a folder that was not made from these files, or was altered since."""
    path = out / ORIGIN
    known = read_json(path) if path.is_file() else {}
    if not isinstance(known, dict) or known.get("read") != origin["read"]:
        raise ArtifactError(f"{out}: holds something else; move it away, or name another --out")
    made, kept = file_digests(out), known.get("made", {})
    for name in sorted({*made, *kept} - {ORIGIN}):
        if made.get(name) != kept.get(name):
            raise ArtifactError(
                f"{out / name}: altered since it was made; delete {out}, and it is made anew"
            )
