"""Real processes that are killed: what they leave, and what the next one makes of it."""

import copy
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from atu.artifacts import MANIFEST, Artifact

LONG = 60
"""Steps: enough to be killed among them, few enough to wait for."""


@pytest.fixture(scope="module")
def command(tmp_path_factory, mini_values, chain):
    """A function that starts `atu <phase>` on the miniature, with more steps, towards a folder."""
    values = copy.deepcopy(mini_values)
    values["pretrain"]["steps"] = values["align"]["steps"] = LONG
    values["unlearn"]["methods"]["ga"] |= {"steps": LONG, "evaluations": 2, "learning_rate": 1e-5}
    params = tmp_path_factory.mktemp("faults") / "params.yaml"
    params.write_text(yaml.safe_dump(values), encoding="utf-8")
    inputs = {
        "pretrain": ["--model", "llama_tiny", "--shared", chain.shared],
        "align": [
            "--seed", "0", "--lm", chain.full, "--embedded", chain.embed,
            "--prepared", chain.prepared,
        ],
        "unlearn": [
            "--method", "ga", "--seed", "0", "--lm", chain.full, "--prepared", chain.prepared,
        ],
    }  # fmt: skip

    def start(phase, out):
        given = [str(x.folder / MANIFEST) if isinstance(x, Artifact) else x for x in inputs[phase]]
        return subprocess.Popen(
            [sys.executable, "-m", "atu", phase, "--params", str(params), *given,
             "--out", str(out / MANIFEST)],
            stderr=subprocess.PIPE, text=True,
            env=os.environ | {"ATU_CHECKPOINT_STEPS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return start


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
def test_a_killed_job_leaves_no_result_and_goes_on(tmp_path, command, phase, sent, status):
    """SIGTERM is answered with a checkpoint and an exit of its own; SIGKILL with nothing. The next
    process resumes, and its folder is that of an undisturbed run, byte for byte."""
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    process = command(phase, killed)
    wait_for_a_checkpoint(process, tmp_path / ".killed.checkpoints")
    process.send_signal(sent)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status, said
    if sent == signal.SIGTERM:
        assert "asked to stop" in said and "run again to go on from there" in said
    assert not killed.exists()
    for where in (killed, undisturbed):
        process = command(phase, where)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert ("resumed from" in said) is (where == killed)
    digests = {Artifact.open(where / MANIFEST, phase).digest for where in (killed, undisturbed)}
    assert len(digests) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "undisturbed"]
