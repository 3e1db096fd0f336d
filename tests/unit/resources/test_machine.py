"""What is free, on machines written by hand."""

import pytest
import torch

from atu.resources.machine import free_bytes, size

GB, CPU = 2**30, torch.device("cpu")


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
    assert free_bytes(CPU, machine(), {}) == 8 * GB


def test_a_system_that_does_not_say(tmp_path):
    assert free_bytes(CPU, tmp_path, {}) is None


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
    assert free_bytes(CPU, root, {}) == 3 * GB


def test_cached_files_are_free(machine):
    """Of 6 GB 5 are used, 3 of them by files that give way to whoever needs the memory."""
    root = machine(at={
        "proc/self/cgroup": "0::/job\n",
        "sys/fs/cgroup/job/memory.max": f"{6 * GB}\n",
        "sys/fs/cgroup/job/memory.current": f"{5 * GB}\n",
        "sys/fs/cgroup/job/memory.stat": f"inactive_file {GB}\nactive_file {2 * GB}\nanon 9\n",
    })  # fmt: skip
    assert free_bytes(CPU, root, {}) == 4 * GB


def test_version_1_of_cgroups(machine):
    """It counts the files of the cgroups below as `total_`."""
    root = machine(at={
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/job\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{4 * GB}\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{2 * GB}\n",
        "sys/fs/cgroup/memory/job/memory.stat": f"inactive_file 0\ntotal_inactive_file {GB}\n",
    })  # fmt: skip
    assert free_bytes(CPU, root, {}) == 3 * GB


@pytest.mark.parametrize(("given", "left"), [("2048", 1), ("0", 8), ("", 8), ("many", 8)])
def test_slurm_leaves_less(machine, given, left):
    """2048 MB less the 1 GB that the process holds; 0 is no limit."""
    root = machine(at={"proc/self/status": "VmRSS:\t1048576 kB\n"})
    assert free_bytes(CPU, root, {"SLURM_MEM_PER_NODE": given}) == left * GB


@pytest.mark.parametrize(
    ("count", "text"), [(1.5e9, "1.5 GB"), (412e6, "412 MB"), (300e3, "0.3 MB")]
)
def test_sizes(count, text):
    assert size(count) == text
