import hashlib
import json
import subprocess
from importlib import metadata

import pytest
import torch

from atu.results import provenance
from atu.results.provenance import code_version, collect_provenance, library_versions


@pytest.fixture
def git(monkeypatch):
    """A function that sets what git answers, by its first argument; None where it fails."""

    def answers(**found):
        monkeypatch.setattr(provenance, "_git", lambda *args: found[args[0].replace("-", "_")])

    return answers


@pytest.mark.parametrize(
    ("commit", "diff", "expected"),
    [
        ("abc\n", "", ("abc", None)),
        ("abc\n", "-a\n+b\n", ("abc", hashlib.sha256(b"-a\n+b\n").hexdigest())),
        (None, None, (None, None)),
    ],
    ids=["clean", "dirty", "no git"],
)
def test_code_version(git, commit, diff, expected):
    """The commit, and the sha256 of what is not committed where there is any."""
    git(rev_parse=commit, diff=diff)
    assert tuple(code_version.__wrapped__().values()) == expected


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("git"),
        subprocess.CalledProcessError(128, "git"),
        subprocess.TimeoutExpired("git", 20),
    ],
)
def test_git_that_fails_is_no_error(monkeypatch, error):
    """A wheel has no repository, a container no git, a network disk no answer."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(provenance.subprocess, "run", fail)
    assert code_version.__wrapped__() == {"commit": None, "dirty_diff_sha256": None}


def test_library_versions():
    versions = library_versions()
    assert versions["torch"] == metadata.version("torch")
    assert {"transformers", "tokenizers", "polars", "numpy"} <= set(versions)


def test_a_library_that_is_not_there_is_left_out(monkeypatch):
    """The training core runs where mlflow or snakemake is missing."""
    monkeypatch.setattr(provenance, "LIBRARIES", ("torch", "no-such-library"))
    assert list(library_versions()) == ["torch"]


@pytest.mark.parametrize(("used", "device"), [(True, "Some GPU"), (False, "cpu")])
def test_the_device_is_the_one_that_was_used(monkeypatch, used, device):
    """A GPU that is there and idle computed nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    assert collect_provenance()()["device"] == device


def test_the_record(monkeypatch, git):
    """Started at 0 and finished 2.5 seconds later; everything is JSON."""
    code_version.cache_clear()
    git(rev_parse="abc\n", diff="")
    now = [0.0]
    monkeypatch.setattr(provenance.time, "time", lambda: now[0])
    monkeypatch.setattr(provenance.time, "process_time", lambda: 1.25)
    finish = collect_provenance()
    now[0] = 2.5
    record = finish()
    code_version.cache_clear()
    assert record["started"] == "1970-01-01T00:00:00+00:00" and record["seconds"] == 2.5
    assert record["processor_seconds"] == 1.25
    assert record["code"]["commit"] == "abc"
    assert record["threads"] == 1
    assert set(record["machine"]) == {"cpus", "platform", "python"}
    assert json.loads(json.dumps(record)) == record


def test_the_peak_is_of_this_job(tmp_path, monkeypatch):
    """What Linux has counted since the job began, 3 kB = 3072 bytes; before it, a 5 made it forget.
    Elsewhere what the process took since it began."""
    status, forget = tmp_path / "status", tmp_path / "clear_refs"
    status.write_text("VmRSS:\t1 kB\nVmHWM:\t3 kB\n", encoding="utf-8")
    monkeypatch.setattr(provenance, "STATUS", status)
    monkeypatch.setattr(provenance, "FORGET_PEAK", forget)
    finish = collect_provenance()
    assert forget.read_text(encoding="utf-8") == "5"
    assert finish()["memory"] == {"process_bytes": 3072, "gpu_bytes": None}
    status.unlink()
    assert finish()["memory"]["process_bytes"] > 10**7


def test_the_peak_of_a_gpu_is_its_tensors(monkeypatch):
    begun = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: begun.append(True))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    assert collect_provenance()()["memory"]["gpu_bytes"] == 7
    assert begun == [True]
