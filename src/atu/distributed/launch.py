"""Starting several processes of one job on this machine, and ending them together.

They find each other by a file in a folder of their own and talk over the loopback interface alone:
nothing listens beyond it. torchrun starts them as well, also on several machines; it then says
where they meet.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atu.distributed.processes import STORE
from atu.errors import ConfigError

if TYPE_CHECKING:
    import torch

OPTION = "--processes"
REPORT = "failed-{rank}"
"""Beside the store: what a process that failed has to say."""
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
GRACE = 5.0
"""Seconds that the others have to end when one has failed: by themselves, then once interrupted."""
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def started() -> bool:
    """Whether this is one of several processes, of this module's or of torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def number() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ["RANK"]) if started() else 0


def wanted(option: int) -> int:
    """How many processes the job is to have, by the option or by whoever started this one.

    Raises:
        ConfigError: they disagree.
    """
    if not started():
        return max(option, 1)
    size = int(os.environ["WORLD_SIZE"])
    if option > 1 and option != size:
        raise ConfigError(OPTION, option, f"torchrun has started {size}; leave the option out")
    return size


def require_devices(wanted: int, place: torch.device) -> None:
    """Make sure that this machine has a GPU for every process on it.

    Raises:
        ConfigError: it has fewer.
    """
    if place.type != "cuda":
        return
    import torch

    here = int(os.environ.get("LOCAL_WORLD_SIZE", wanted))
    found = torch.cuda.device_count()
    if here > found:
        raise ConfigError(
            OPTION,
            here,
            f"needs as many GPUs, and this machine gives the job {found}; lower it (`gpu` of the "
            "rule, below set-resources in cluster/config.yaml), or ask for a machine with more",
        )


def run(command: Sequence[str], size: int) -> int:
    """Start `size` processes of a command here and wait for them; the exit status of the first that
    failed, 0 where none did. What that one had to say is printed once.

    The first process prints where this one prints; of the others only the end is shown, and only of
    one that died without a word.
    """
    with tempfile.TemporaryDirectory(prefix="atu-") as folder:
        place = Path(folder)
        with _forwarding() as children, contextlib.ExitStack() as files:
            for rank in range(size):
                log = files.enter_context(_log(place, rank).open("w")) if rank else None
                children.append(
                    subprocess.Popen(
                        command,
                        env=_environment(os.environ, place, rank, size),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
            failed = _wait(children, place)
        if not failed:
            return 0
        cause = _cause(place, list(failed))
        status = failed[cause]
        print(_said(place, cause, status, size), file=sys.stderr, flush=True)
        return status if status > 0 else 128 - status


def _environment(given: Mapping[str, str], place: Path, rank: int, size: int) -> dict[str, str]:
    """What a process needs to know; the user's own choice of interfaces stays."""
    interfaces = {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    return (
        interfaces
        | dict(given)
        | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            STORE: str(place / "store"),
        }
    )


def _log(place: Path, rank: int) -> Path:
    return place / f"process-{rank}.log"


def _report(place: Path, rank: int) -> Path:
    return place / REPORT.format(rank=rank)


@contextlib.contextmanager
def _forwarding() -> Iterator[list[subprocess.Popen[Any]]]:
    """Children to whom SIGTERM is passed on, and who do not outlive the block."""
    children: list[subprocess.Popen[Any]] = []

    def forward(_signal: int, _frame: Any) -> None:
        for child in children:
            child.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield children
    finally:
        signal.signal(signal.SIGTERM, before)
        for child in children:
            child.kill()
            child.wait()


def _wait(children: Sequence[subprocess.Popen[Any]], place: Path) -> dict[int, int]:
    """Until all have ended, or one has failed and the others had time to end; the status of those
    that failed by themselves. One that has reported has failed, though it may hang at its end: 1.
    """

    def ended(seconds: float) -> bool:
        """Whether all end within so many seconds."""
        deadline = time.monotonic() + seconds
        while any(child.poll() is None for child in children):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def failures() -> dict[int, int]:
        found = {}
        for rank, child in enumerate(children):
            status = child.poll()
            if status is None and _report(place, rank).is_file():
                status = 1
            if status:
                found[rank] = status
        return found

    while not ended(0.05) and not failures():
        pass
    ended(GRACE)
    failed = failures()
    # Who is left hangs in a call to the others; what it has begun to write it removes.
    for child in children:
        child.send_signal(signal.SIGINT)
    ended(GRACE)
    return failed


def _cause(place: Path, failed: Sequence[int]) -> int:
    """Which process the others failed with: one that was ended without a word, since each says what
    it failed with, its connection to another among that; else the first that said anything.
    """
    reports = [_report(place, rank) for rank in failed]
    for rank, report in zip(failed, reports, strict=True):
        if not report.is_file():
            return rank
    times = [report.stat().st_mtime_ns for report in reports]
    return failed[times.index(min(times))]


def _said(place: Path, failed: int, status: int, size: int) -> str:
    """What the process that failed reported; of one that could not, how it ended."""
    report = _report(place, failed)
    if report.is_file():
        return report.read_text(encoding="utf-8").rstrip()
    ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    text = f"atu: process {failed + 1} of {size} {ended}; the others were ended with it"
    log = _log(place, failed)
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.is_file() else ""
    return f"{tail.rstrip()}\n{text}".lstrip()


def reported(message: str) -> bool:
    """Whether the launcher prints what went wrong: `message`, or what another process failed with,
    of which the failure here is a consequence.
    """
    if STORE not in os.environ:
        return False
    report = _report(Path(os.environ[STORE]).parent, number())
    report.write_text(message, encoding="utf-8")
    return True


def die_with_parent() -> None:
    """Have the system end this process with the launcher that started it, however that ends (Linux
    alone).
    """
    if STORE in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
