"""Real processes that are killed: what they leave, and what the next one makes of it."""

import contextlib
import copy
import os
import resource
import signal
import subprocess
import sys
import time
from functools import cache

import pytest
import yaml
from machines import CPU

from atu.config.params import Params
from atu.phases import align, pretrain, unlearn
from atu.results.artifacts import MANIFEST, Artifact

LONG = 60
"""Steps: enough to be killed among them, few enough to wait for."""
LIMIT = 6 << 30
"""Bytes of address space: far more than the miniature takes, far less than its largest batch."""
LITTLE = 48 << 10
"""Bytes that are left on a full disk: enough for folders and a lock, not for a predictor."""


@pytest.fixture(scope="module")
def values(mini_values):
    """The miniature on the processor, with more steps."""
    values = copy.deepcopy(mini_values)
    values["compute"] |= {"device": "cpu", "precision": "float32"}
    values["pretrain"]["steps"] = values["align"]["steps"] = LONG
    values["unlearn"]["methods"]["ga"] |= {"steps": LONG, "evaluations": 2, "learning_rate": 1e-5}
    values["unlearn"]["methods"]["huge"] = values["unlearn"]["methods"]["ga"] | {"batch_size": 3000}
    return values


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, values, chain):
    """A function that gives the digest of what this process makes in a phase; once of each."""
    params, folder = Params.model_validate(values), tmp_path_factory.mktemp("undisturbed")

    @cache
    def digest(phase):
        out = folder / phase / MANIFEST
        if phase == "pretrain":
            pretrain.run(out, params.pretrain, CPU, "llama_tiny", chain.shared, None)
        elif phase == "align":
            align.run(out, params.align, CPU, 0, chain.full, chain.embed, chain.prepared)
        else:
            inputs = unlearn.UnlearnInputs(chain.full, chain.prepared, None, None)
            unlearn.run(out, params.unlearn, CPU, "ga", 0, inputs)
        return Artifact.open(out, phase).digest

    return digest


@pytest.fixture(scope="module")
def command(tmp_path_factory, values, chain):
    """A function that starts `atu <phase>` on the miniature towards a folder."""
    params = tmp_path_factory.mktemp("faults") / "params.yaml"
    params.write_text(yaml.safe_dump(values), encoding="utf-8")
    inputs = {
        "pretrain": ["--model", "llama_tiny", "--shared", chain.shared],
        "align": [
            "--seed", "0", "--pretrain", chain.full, "--embed", chain.embed,
            "--prepare", chain.prepared,
        ],
        "unlearn": [
            "--method", "ga", "--seed", "0", "--pretrain", chain.full, "--prepare", chain.prepared,
        ],
    }  # fmt: skip

    def start(phase, out, *more, **popen):
        given = [str(x.folder / MANIFEST) if isinstance(x, Artifact) else x for x in inputs[phase]]
        given += more
        return subprocess.Popen(
            [sys.executable, "-m", "atu", phase, "--params", str(params), *given,
             "--out", str(out / MANIFEST)],
            stderr=subprocess.PIPE, text=True, **popen,
            env=os.environ | {"ATU_CHECKPOINT_STEPS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return start


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own in memory, of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no right to mount a file system here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def ended(process, seconds=300):
    """Exit status and stderr of a process that ends by itself."""
    _, said = process.communicate(timeout=seconds)
    return process.returncode, said


def wait_for_a_checkpoint(process, folder):
    """Until a whole one stands in the folder."""
    deadline = time.monotonic() + 120
    while not (folder.is_dir() and any(p.name.isdecimal() for p in folder.iterdir())):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("phase", "sent", "status"),
    [
        ("pretrain", signal.SIGTERM, 128 + signal.SIGTERM),
        ("align", signal.SIGKILL, -signal.SIGKILL),
        ("unlearn", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_killed_job_leaves_no_result_and_goes_on(
    tmp_path, command, undisturbed, phase, sent, status
):
    """SIGTERM is answered with a checkpoint and an exit of its own; SIGKILL with nothing. The next
    process resumes, and its folder is that of an undisturbed run, byte for byte."""
    killed = tmp_path / "killed"
    process = command(phase, killed)
    wait_for_a_checkpoint(process, tmp_path / ".killed.checkpoints")
    process.send_signal(sent)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status, said
    if sent == signal.SIGTERM:
        assert "asked to stop" in said and "run again to go on from there" in said
    assert not killed.exists()
    status, said = ended(command(phase, killed))
    assert status == 0, said
    assert "resumed from" in said
    assert Artifact.open(killed / MANIFEST, phase).digest == undisturbed(phase)
    assert [path.name for path in tmp_path.iterdir()] == ["killed"]


def test_a_full_disk_leaves_nothing_half_written(small_disk, command, undisturbed):
    """The disk is full: no checkpoint can be written, nor the result, and both are said. With space
    the same command gives what an undisturbed run gives, byte for byte."""
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    os.truncate(ballast, ballast.stat().st_size - LITTLE)
    status, said = ended(command("align", small_disk / "out"))
    assert status == 2, said
    assert ".out.checkpoints: no checkpoint: " in said
    assert "atu: disk full: " in said and "free some space, and run again" in said
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
    ballast.unlink()
    status, said = ended(command("align", small_disk / "out"))
    assert status == 0, said
    assert Artifact.open(small_disk / "out" / MANIFEST, "align").digest == undisturbed("align")


def test_a_read_only_mount_is_refused_before_any_work(small_disk, command):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, said = ended(command("unlearn", small_disk / "folder/out"))
    assert (status, "cannot be written (Read-only file system)" in said) == (2, True), said
    assert "step" not in said


def test_a_job_out_of_memory_says_so(tmp_path, command):
    """Under a limit of the operating system, as a batch system sets one."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))

    huge = command("unlearn", tmp_path / "out", "--method", "huge", preexec_fn=limit)
    status, said = ended(huge)
    assert status == 2, said
    assert "atu: out of memory: " in said and "mem_mb" in said
    assert "`unlearn.methods.huge.batch_size: " in said and "step 1/" not in said
    assert list(tmp_path.iterdir()) == []


def test_two_jobs_for_one_folder_do_not_mix(tmp_path, command):
    """A job outlived the Snakemake that started it, and is started again: the second one is refused
    at once, the first goes on."""
    first = command("align", tmp_path / "out")
    wait_for_a_checkpoint(first, tmp_path / ".out.checkpoints")
    first.send_signal(signal.SIGSTOP)
    status, said = ended(command("align", tmp_path / "out"))
    assert (status, f"process {first.pid} on " in said) == (2, True), said
    assert "is writing out; wait for it or end it, then run again" in said
    first.send_signal(signal.SIGCONT)
    status, said = ended(first)
    assert status == 0, said
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
