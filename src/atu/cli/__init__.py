"""The command line: `atu <phase>`, one subcommand per phase, and tools for people.

Heavy libraries are imported inside the commands, so that `atu --help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import NoReturn

from atu.cli import jobs, look, tools  # noqa: F401  (they register their commands)
from atu.cli.options import app
from atu.distributed import launch, processes
from atu.errors import AtuError, ResourceError, StoppedError, visible

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; errors a user can cause are one message and exit code 2."""
    launch.die_with_launcher()
    try:
        _run()
    except BaseException as error:
        _part(error)
        raise


def _part(error: BaseException) -> None:
    """Leave the process group, if there is one. A rank that failed ends on the spot: whatever
    Python still does at its end (destructors of connections, threads) may wait for the others, who
    wait for it.
    """
    status = error.code if isinstance(error, SystemExit) else 1
    if not status:
        processes.leave()
    elif processes.world_size() > 1:
        if not isinstance(error, SystemExit):
            traceback.print_exception(error)
        elif not isinstance(status, int):
            print(status, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def _run() -> None:
    try:
        app()
    except StoppedError as error:
        _end(f"atu: {error}", 128 + signal.SIGTERM)
    except AtuError as error:
        _end(f"atu: {error}", 2)
    except Exception as error:
        known = ResourceError.of(error)
        if known is not None:
            _end(f"atu: {known}", 2)
        if not launch.reported(traceback.format_exc(), maybe_consequence=True):
            raise
        sys.exit(1)


def _end(message: str, status: int) -> NoReturn:
    """Say why, once, and end; whatever a message quotes, a terminal only shows it."""
    message = visible(message)
    if not launch.reported(message):
        print(message, file=sys.stderr)
    sys.exit(status)
