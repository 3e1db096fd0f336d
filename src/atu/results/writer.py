"""One writer for a folder: a second process that would write the same one is refused.

It happens when a job outlives the Snakemake that submitted it and the next one submits it again.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from atu.errors import ArtifactError


@contextmanager
def only_writer(folder: Path) -> Iterator[IO[str]]:
    """Hold the lock of `folder`, a file beside it, until the block ends; a process that is given
    the open file holds it too.

    The lock is the kernel's (`flock`), so it ends with its process, however that dies; a lock file
    that a killed process left does not count. Where the file system knows no locks the block runs
    without, with a word on stderr.

    Raises:
        ArtifactError: another process holds the lock.
        OSError: the lock file cannot be made.
    """
    path = folder.parent / f".{folder.name}.lock"
    held = _acquire(path)
    while held is None:
        held = _acquire(path)
    with held:
        try:
            held.truncate(0)
            held.write(f"process {os.getpid()} on {socket.gethostname()}")
            held.flush()
            yield held
        finally:
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> IO[str] | None:
    """The locked file; None if whoever held it removed it between our opening and locking it."""
    stream = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
            return stream
    except FileNotFoundError:
        pass
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read() or "another process"
        stream.close()
        raise ArtifactError(
            f"{path.parent}: {holder} is writing {path.name[1:].removesuffix('.lock')}; "
            "wait for it or end it, then run again"
        ) from None
    except OSError as error:
        print(f"{path}: goes on without a lock: {error.strerror}", file=sys.stderr)
        return stream
    stream.close()
    return None
