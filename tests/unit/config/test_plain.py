"""`atu model`: a model of any source as a Hugging Face folder, whole or not at all."""

from pathlib import Path

import pytest
from made.gguf import Made
from made.models import write_model

from atu.config import plain
from atu.config.plain import ORIGIN, make_plain, needs_plain, plain_name
from atu.errors import ArtifactError, SourceError
from atu.models.pinned import file_digests
from atu.results.files import read_json, sha256
from atu.results.locks import Lock, Source


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return Made(folder / "original").write(folder / "own" / "tiny.gguf")


@pytest.fixture
def source(made):
    return Source(str(made), None, "")


def test_once_and_then_it_is_there(source, tmp_path, monkeypatch):
    out = tmp_path / "models" / "tiny"
    assert make_plain(source, out, offline=True)
    origin = read_json(out / ORIGIN)
    assert origin["read"] == {"tiny.gguf": sha256(Path(source.place))}
    assert {path.name for path in out.parent.iterdir()} == {"tiny"}
    monkeypatch.setattr(plain, "dequantise", None)
    assert not make_plain(source, out, offline=True)


def test_a_quicker_process_is_believed(source, tmp_path, monkeypatch):
    """The same model was written there meanwhile; whoever writes another is told."""
    out, write = tmp_path / "tiny", plain._write

    def slow(place, made):
        write(place, made)
        monkeypatch.setattr(plain, "_write", write)
        assert make_plain(source, out, offline=True)

    monkeypatch.setattr(plain, "_write", slow)
    assert not make_plain(source, out, offline=True)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny"}


def test_what_was_altered_is_named(source, tmp_path):
    out = tmp_path / "tiny"
    make_plain(source, out, offline=True)
    (out / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json: altered since .*delete .*tiny, and"):
        make_plain(source, out, offline=True)


def test_another_folder_is_never_written_over(source, tmp_path):
    other = write_model(tmp_path / "model", "llama", 1)
    before = file_digests(other)
    with pytest.raises(ArtifactError, match=r"model: holds something else; move it away, or name"):
        make_plain(source, other, offline=True)
    assert file_digests(other) == before


def test_a_failure_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(_file, out):
        (out / "config.json").write_text("{}")
        raise ArtifactError("broken")

    monkeypatch.setattr(plain, "dequantise", fail)
    with pytest.raises(ArtifactError, match="broken"):
        make_plain(source, tmp_path / "out", offline=True)
    assert not list(tmp_path.iterdir())


def test_the_lock_decides(source, tmp_path):
    lock = tmp_path / "lock.json"
    Lock(content={"tiny.gguf": "0" * 64}).write(lock)
    with pytest.raises(SourceError, match=r"'tiny\.gguf' is altered"):
        make_plain(Source(source.place, None, str(lock)), tmp_path / "out", offline=True)
    with pytest.raises(SourceError, match=r"absent\.json: cannot be read"):
        make_plain(
            Source(source.place, None, str(tmp_path / "absent.json")),
            tmp_path / "out",
            offline=True,
        )


def test_a_folder_is_copied(tmp_path):
    folder = write_model(tmp_path / "model", "llama", 1)
    (folder / "run.py").touch()
    assert make_plain(Source(str(folder), None, ""), tmp_path / "out", offline=True)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*file_digests(folder), ORIGIN}


def test_what_must_be_made_plain_first(made, tmp_path):
    assert all(needs_plain(p) for p in (str(made), str(made.parent), "pip:a==1"))
    plain_ones = ("owner/name", str(tmp_path), str(write_model(tmp_path / "m", "llama", 1)))
    assert not any(needs_plain(p) for p in plain_ones)


@pytest.mark.parametrize(
    ("place", "name"),
    [("a/tiny.Q4_1.gguf", "tiny.Q4_1"), ("a/tiny/", "tiny"), ("pip:a-b==1.0", "a-b-1.0")],
)
def test_its_name_is_the_places(place, name):
    assert plain_name(place) == name
