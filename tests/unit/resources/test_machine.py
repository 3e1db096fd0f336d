"""What is free, on machines written by hand."""

import pytest

from atu.resources.machine import free_bytes

GB = 2**30


@pytest.fixture
def machine(tmp_path):
    """A function that writes files below a root, by path."""

    def write(**files):
        texts = {"proc/meminfo": "MemTotal: 9\nMemAvailable:    8388608 kB\n"} | files.pop("at", {})
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_what_linux_says(machine):
    """8388608 kB are 8 GB."""
    assert free_bytes("cpu", machine(), {}) == 8 * GB


def test_a_system_that_does_not_say(tmp_path):
    assert free_bytes("cpu", tmp_path, {}) is None


def test_the_cgroup_leaves_less(machine):
    """5 GB of 6 are left here, and above it 3 of 10; `max` limits nothing."""
    root = machine(at={
        "proc/self/cgroup": "0::/job/step\n",
        "sys/fs/cgroup/job/step/memory.max": f"{6 * GB}\n",
        "sys/fs/cgroup/job/step/memory.current": f"{GB}\n",
        "sys/fs/cgroup/job/memory.max": f"{10 * GB}\n",
        "sys/fs/cgroup/job/memory.current": f"{7 * GB}\n",
        "sys/fs/cgroup/memory.max": "max\n",
    })  # fmt: skip
    assert free_bytes("cpu", root, {}) == 3 * GB


def test_version_1_of_cgroups(machine):
    root = machine(at={
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/job\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{4 * GB}\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{2 * GB}\n",
    })  # fmt: skip
    assert free_bytes("cpu", root, {}) == 2 * GB


@pytest.mark.parametrize(("given", "left"), [("2048", 1), ("0", 8), ("", 8), ("many", 8)])
def test_slurm_leaves_less(machine, given, left):
    """2048 MB less the 1 GB that the process holds; 0 is no limit."""
    root = machine(at={"proc/self/status": "VmRSS:\t1048576 kB\n"})
    assert free_bytes("cpu", root, {"SLURM_MEM_PER_NODE": given}) == left * GB
