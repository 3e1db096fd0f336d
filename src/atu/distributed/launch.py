"""Starting the ranks of one job on this machine, and ending them together.

torch starts and watches them (`torch.distributed.elastic.multiprocessing`, as torchrun does). What
torchrun adds, the agent where ranks meet, is left out: its TCPStore listens on every interface,
whatever endpoint it is given. Here ranks meet by a file and talk over the loopback interface alone.
torchrun itself starts ranks on several machines; it then says where they meet.
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
"""Environment variable, set by torch: where a rank that fails says why."""
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
POLL = 0.1
"""Seconds between two looks at the ranks."""
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def started() -> bool:
    """Whether this is one of several ranks, of this module's or of torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def number() -> int:
    """The rank that the environment gives this process; 0 for one alone."""
    return int(os.environ["RANK"]) if started() else 0


def wanted(option: int) -> int:
    """How many ranks the job is to have, by the option or by whoever started this one.

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
    """Make sure that this machine has a GPU for every rank on it.

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
    """Start `size` ranks of a command here and wait for them; the exit status of the first that
    failed, 0 where none did. What that one had to say is printed once; the others are asked to
    stop, and killed after 30 seconds.

    Rank 0 prints where this process prints; of the others only the end is shown, and only of one
    that died without a word.
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
        except SignalException as asked:  # Ctrl-C, a terminal that closed
            ranks.close(asked.sigval)
            return 128 + asked.sigval
        if not result or not result.failures:
            return 0
        first, failure = next(iter(result.failures.items()))
        status = failure.exitcode
        print(_said(ranks, first, status), file=sys.stderr, flush=True)
        return status if status > 0 else 128 - status


def _environment(folder: Path, rank: int, size: int) -> dict[str, str]:
    """What a rank needs to know; the user's own choice of interfaces stays."""
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
    """Pass SIGTERM on and wait: torch's own handler would kill ranks that still write a
    checkpoint.
    """

    def forward(number: int, _frame: object) -> None:
        for handler in ranks.subprocess_handlers.values():  # type: ignore[attr-defined]
            handler.proc.send_signal(number)

    signal.signal(signal.SIGTERM, forward)


def _said(ranks: PContext, rank: int, status: int) -> str:
    """What the rank that failed reported; of one that could not, how it ended."""
    report = Path(ranks.error_files[rank])
    if report.is_file():
        return json.loads(report.read_text(encoding="utf-8"))["message"].rstrip()
    ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    text = f"atu: rank {rank} of {ranks.nprocs} {ended}; the others were ended with it"
    log = ranks.stderrs[rank]
    tail = Path(log).read_text(encoding="utf-8", errors="replace")[-2000:] if log else ""
    return f"{tail.rstrip()}\n{text}".lstrip()


def reported(message: str, *, maybe_consequence: bool = False) -> bool:
    """Whether the launcher prints what went wrong: `message`, or what another rank failed with, of
    which the failure here is a consequence.

    Args:
        maybe_consequence: a lost connection to a rank that died looks so. The launcher takes the
            first that it sees end for the cause: this one ends later.
    """
    if STORE not in os.environ:
        return False
    report = {"message": message, "timestamp": int(time.time())}
    Path(os.environ[ERROR_FILE]).write_text(json.dumps(report), encoding="utf-8")
    if maybe_consequence:
        time.sleep(10 * POLL)
    return True


def die_with_parent() -> None:
    """Have the system end this process with the launcher that started it, however that ends (Linux
    alone).
    """
    if STORE in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
