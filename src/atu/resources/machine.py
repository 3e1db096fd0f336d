"""How much memory a job may still take on this machine, in bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

SLURM_MB = "SLURM_MEM_PER_NODE"
"""The job's memory on this node in MB; absent or 0 where SLURM does not limit it."""


def free_bytes(
    device: torch.device,
    root: Path = Path("/"),
    environment: Mapping[str, str] = os.environ,
) -> int | None:
    """Free memory of the device; on a CPU the least that the machine, the process's cgroup and
    SLURM leave. None where the system does not report it.

    Args:
        root: where /proc and /sys are.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    limits = [_available(root), *_cgroup_rooms(root), _slurm_room(root, environment)]
    return min((limit for limit in limits if limit is not None), default=None)


def _available(root: Path) -> int | None:
    """Linux's estimate of the memory available without swapping."""
    return _kilobytes(root / "proc/meminfo", "MemAvailable:")


def _kilobytes(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _cgroup_rooms(root: Path) -> list[int]:
    """Limit minus usage of every limited cgroup of the process, version 2 and 1. Cached files count
    as usage, but are evicted when memory is needed.
    """
    rooms = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, kinds, place = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if kinds else "")
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if kinds
            else ("memory.max", "memory.current")
        )
        inner = base / place.lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(base):
                break
            limit, usage = (_text(folder / name).strip() for name in names)
            if limit.isdecimal() and usage.isdecimal():
                rooms.append(int(limit) - int(usage) + _cached(folder))
    return rooms


def _cached(cgroup: Path) -> int:
    """Bytes of files cached by a cgroup and its children; version 1 counts children in `total_`."""
    lines = (line.split() for line in _text(cgroup / "memory.stat").splitlines())
    stat = {name: int(value) for name, value in lines}
    kinds = ("inactive_file", "active_file")
    return sum(stat.get(f"total_{kind}", stat.get(kind, 0)) for kind in kinds)


def _slurm_room(root: Path, environment: Mapping[str, str]) -> int | None:
    """The job's memory minus that of this process."""
    megabytes = environment.get(SLURM_MB, "")
    if not megabytes.isdecimal() or int(megabytes) == 0:
        return None
    return int(megabytes) * 2**20 - (_kilobytes(root / "proc/self/status", "VmRSS:") or 0)


def size(count: float) -> str:
    """Bytes for people: 1.5 GB, 412 MB, 0.3 MB."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines of text with columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]
