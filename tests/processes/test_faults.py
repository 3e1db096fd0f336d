"""Faults around a local Snakemake: killed, started twice, results that cannot be written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trees import copy_tree

FULL = "results/miniature/pretrain/llama_tiny/full/manifest.json"


@pytest.fixture
def clone(tmp_path, mini_values):
    """A tree in which nothing has run; what it started is ended with it."""
    long = mini_values | {"pretrain": mini_values["pretrain"] | {"steps": 200}}
    made = copy_tree(tmp_path / "clone", long)
    yield made
    for number in jobs_in(made.folder):
        os.kill(number, signal.SIGKILL)


def jobs_in(folder):
    """Numbers of the processes that are jobs in a folder: forked by a server, whose words they
    have."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "cwd").readlink() == folder:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[1:3] == [b"-m", b"atu.distributed.forkserver"]:
                    status = (entry / "status").read_text(encoding="utf-8")
                    parents[int(entry.name)] = int(status.split("PPid:")[1].split()[0])
        except OSError:
            continue
    return [number for number, parent in parents.items() if parent in parents]


def start(tree, *targets):
    """Snakemake in the background, in a session of its own; what it prints is in `said`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (tree.folder / "said").open("w") as said:
        return subprocess.Popen(
            ["snakemake", "--cores", "1", *targets], cwd=tree.folder, stdout=said, stderr=said,
            stdin=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | {"PATH": path, "ATU_CHECKPOINT_STEPS": "5"},
        )  # fmt: skip


def wait_for_a_checkpoint(process, tree):
    deadline = time.monotonic() + 180
    while not list(tree.folder.glob("results/miniature/pretrain/*/.full.checkpoints/[0-9]*")):
        assert process.poll() is None, (tree.folder / "said").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_snakemake_dies_and_its_job_lives_on(clone):
    """The folder stays locked. Unlocked too early, the job that lives on is not mixed with a second
    one: that is refused. When it has ended the same command goes on, from its checkpoint."""
    process = start(clone, FULL)
    wait_for_a_checkpoint(process, clone)
    process.kill()
    process.wait()
    (orphan,) = jobs_in(clone.folder)
    os.kill(orphan, signal.SIGSTOP)
    refused = clone.snakemake(FULL, check=False)
    assert refused.returncode != 0
    assert "--unlock" in refused.stdout
    clone.snakemake("--unlock")
    refused = clone.snakemake(FULL, check=False)
    assert refused.returncode != 0
    log = clone.folder / "logs/miniature/pretrain/llama_tiny/full.log"
    assert f"process {orphan} on " in log.read_text()
    os.kill(orphan, signal.SIGKILL)
    clone.snakemake(FULL)
    assert "resumed from" in log.read_text()
    assert not list(clone.folder.glob("results/**/.*.partial"))


def test_a_second_snakemake_is_refused(clone):
    """And leaves the first alone."""
    process = start(clone, FULL)
    wait_for_a_checkpoint(process, clone)
    (job,) = jobs_in(clone.folder)
    os.kill(job, signal.SIGSTOP)
    second = clone.snakemake(FULL, check=False)
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.stdout
    os.kill(job, signal.SIGCONT)
    assert process.wait(300) == 0, (clone.folder / "said").read_text()


def test_a_read_only_mount_is_refused_before_any_job(clone):
    results = clone.folder / "results"
    results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", results]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no right to mount a file system here: {made.stderr.strip()}")
    try:
        done = clone.snakemake("--dry-run", check=False)
    finally:
        subprocess.run(["umount", results], check=True)
    assert done.returncode != 0
    assert "cannot be written" in done.stdout
