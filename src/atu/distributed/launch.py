"""Starting the ranks of one job on this machine, and ending them together.

torch starts and watches them (`torch.distributed.elastic.multiprocessing`, as in torchrun).
torchrun's rendezvous agent is left out: its TCPStore listens on every interface, whatever the
endpoint. Here ranks rendezvous through a file and communicate only over the loopback interface. On
several machines torchrun starts the ranks, and its rendezvous is used.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atu.distributed.processes import STORE
from atu.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch.distributed.elastic.multiprocessing import PContext

OPTION = "--processes"
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable, set by torch: the file in which a failing rank reports its error."""
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
POLL = 0.1
"""Seconds between two checks of the ranks."""
PR_SET_PDEATHSIG = 1


def started() -> bool:
    """Whether this is one of several ranks, started here or by torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def number() -> int:
    """The rank that the environment gives this process; 0 for a single process."""
    return int(os.environ["RANK"]) if started() else 0


def rank_count(option: int) -> int:
    """How many ranks the job has, by the option or by torchrun's environment.

    Raises:
        ConfigError: the two disagree.
    """
    if not started():
        return max(option, 1)
    size = int(os.environ["WORLD_SIZE"])
    if option > 1 and option != size:
        raise ConfigError(OPTION, option, f"torchrun has started {size}; leave the option out")
    return size


def require_devices(size: int, place: torch.device) -> None:
    """Make sure that this machine has a GPU for each of its ranks.

    Raises:
        ConfigError: there are fewer.
    """
    if place.type != "cuda":
        return
    import torch

    here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    available = torch.cuda.device_count()
    if here > available:
        raise ConfigError(
            OPTION,
            here,
            f"needs as many GPUs, and this machine gives the job {available}; lower it (`gpu` of "
            "the rule, below set-resources in cluster/config.yaml), or ask for a machine with more",
        )


def run(command: Sequence[str], size: int) -> int:
    """Start `size` ranks of a command here and wait for them; returns the exit status of the first
    that failed, or 0. Its error is printed once; the other ranks get SIGTERM, and SIGKILL after 30
    seconds.

    Rank 0 shares this process's output. The end of another rank's output is printed only if that
    rank died without reporting an error.
    """
    from torch.distributed.elastic.multiprocessing import (
        DefaultLogsSpecs,
        SignalException,
        Std,
        start_processes,
    )

    logging.getLogger("torch.distributed.elastic.multiprocessing").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="atu-") as folder:
        ranks = start_processes(
            "atu",
            command[0],
            args=dict.fromkeys(range(size), tuple(command[1:])),
            envs={rank: _environment(Path(folder), rank, size) for rank in range(size)},
            logs_specs=DefaultLogsSpecs(folder, dict.fromkeys(range(1, size), Std.ALL)),
        )
        _forward_sigterm(ranks)
        try:
            result = ranks.wait(period=POLL)
        except SignalException as interrupt:  # Ctrl-C, a terminal that closed
            ranks.close(interrupt.sigval)
            return 128 + interrupt.sigval
        if not result or not result.failures:
            return 0
        first, failure = next(iter(result.failures.items()))
        status = failure.exitcode
        print(_error_of(ranks, first, status), file=sys.stderr, flush=True)
        return status if status > 0 else 128 - status


def _environment(folder: Path, rank: int, size: int) -> dict[str, str]:
    """The environment of a rank; network interfaces that the user has set stay."""
    interfaces = {
        name: os.environ.get(name, LOOPBACK)
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    }
    return interfaces | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        STORE: f"file://{folder}/store",
    }


def _forward_sigterm(ranks: PContext) -> None:
    """Forward SIGTERM and wait: torch's handler would kill ranks that still write a checkpoint."""

    def forward(number: int, _frame: object) -> None:
        for handler in ranks.subprocess_handlers.values():  # type: ignore[attr-defined]
            handler.proc.send_signal(number)

    signal.signal(signal.SIGTERM, forward)


def _error_of(ranks: PContext, rank: int, status: int) -> str:
    """The error that the failed rank reported, or how it ended if it reported none."""
    report = Path(ranks.error_files[rank])
    if report.is_file():
        return json.loads(report.read_text(encoding="utf-8"))["message"].rstrip()
    ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    text = f"atu: rank {rank} of {ranks.nprocs} {ended}; the others were ended with it"
    log = ranks.stderrs[rank]
    tail = Path(log).read_text(encoding="utf-8", errors="replace")[-2000:] if log else ""
    return f"{tail.rstrip()}\n{text}".lstrip()


def reported(message: str, *, maybe_consequence: bool = False) -> bool:
    """Report an error to the launcher, if there is one; returns whether it will print the error,
    this one or that of the rank which caused it.

    Args:
        maybe_consequence: the error, such as a lost connection, may follow from another rank's
            death. The launcher takes the first rank that ends for the cause, so this one waits.
    """
    if STORE not in os.environ:
        return False
    report = {"message": message, "timestamp": int(time.time())}
    Path(os.environ[ERROR_FILE]).write_text(json.dumps(report), encoding="utf-8")
    if maybe_consequence:
        time.sleep(10 * POLL)
    return True


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends (only on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_launcher() -> None:
    """`die_with_parent` for a rank that the launcher of this module started."""
    if STORE in os.environ:
        die_with_parent()
