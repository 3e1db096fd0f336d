"""One writer for a folder: the second is refused, a dead one does not count."""

import errno
import os
import socket

import pytest

from atu.errors import ArtifactError
from atu.results.writer import WRITER, only_writer, writer_of


def test_a_second_writer_is_refused_by_name_of_the_first(tmp_path):
    with only_writer(tmp_path / "align"):
        with (
            pytest.raises(ArtifactError, match=rf"process {os.getpid()} on \S+ is writing align"),
            only_writer(tmp_path / "align"),
        ):
            raise AssertionError("two writers")
        with only_writer(tmp_path / "unlearn"):
            """Another folder is another lock."""
    assert list(tmp_path.iterdir()) == []


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError), only_writer(tmp_path / "align"):
        raise KeyError
    with only_writer(tmp_path / "align"):
        assert (tmp_path / ".align.lock").exists()


def test_a_killed_writer_does_not_count(tmp_path):
    """What it leaves is a file that nobody holds."""
    (tmp_path / ".align.lock").write_text("process 1 on elsewhere", encoding="utf-8")
    with only_writer(tmp_path / "align"):
        assert f"process {os.getpid()}" in (tmp_path / ".align.lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_removed_between_opening_and_locking_is_taken_anew(tmp_path, monkeypatch):
    """The one before finished just then: its file is no longer what others would find."""
    import fcntl

    calls = []
    real = fcntl.flock

    def late(stream, how):
        if not calls:
            (tmp_path / ".align.lock").unlink()
        calls.append(how)
        real(stream, how)

    monkeypatch.setattr("atu.results.writer.fcntl.flock", late)
    with only_writer(tmp_path / "align"):
        assert (tmp_path / ".align.lock").exists()
    assert len(calls) == 2


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch, capsys):
    def none(_stream, _how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("atu.results.writer.fcntl.flock", none)
    with only_writer(tmp_path / "align"):
        """Goes on."""
    assert "continues without a lock: No locks available" in capsys.readouterr().err


def test_who_writes_a_folder(tmp_path):
    """Its process, while it lives; looking takes no lock."""
    folder = tmp_path / "align"
    assert writer_of(folder) is None
    with only_writer(folder):
        assert writer_of(folder) == f"process {os.getpid()} on {socket.gethostname()}"
    assert writer_of(folder) is None


@pytest.mark.parametrize(
    ("text", "who"),
    [
        (WRITER.format(2**31 - 1, socket.gethostname()), None),
        (WRITER.format(10**30, socket.gethostname()), None),
        (WRITER.format(7, "elsewhere"), "process 7 on elsewhere"),
        ("", None),
        ("something else", None),
    ],
    ids=["dead", "no number of a process", "another machine", "empty", "not ours"],
)
def test_a_lock_file_that_was_left_behind(tmp_path, text, who):
    """Of another machine's process nobody here knows whether it lives."""
    (tmp_path / ".align.lock").write_text(text, encoding="utf-8")
    assert writer_of(tmp_path / "align") == who
