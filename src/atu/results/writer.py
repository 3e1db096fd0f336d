"""One writer per folder: a second process that would write it is refused.

This happens when a job outlives the Snakemake that submitted it and the next one submits it again.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from atu.errors import ArtifactError

WRITER = "process {} on {}"
"""What the lock file says of the process that holds it, and of its machine."""
_WRITER = re.compile(WRITER.format(r"(\d+)", "(.+)"))


def writer_of(folder: Path) -> str | None:
    """Who is writing `folder`, as its lock file says; None if nobody is.

    The lock itself is left alone: trying it would keep out a job that begins now. Of another
    machine's process nobody here knows whether it is alive: what the file says counts.
    """
    try:
        text = _lock_path(folder).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = _WRITER.fullmatch(text)
    if found is None or (found[2] == socket.gethostname() and not _alive(int(found[1]))):
        return None
    return text


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _lock_path(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[IO[str]]:
    """Hold the lock of `folder`, a file beside it, until the block ends; a process that inherits
    the open file holds it too.

    The lock is the kernel's (`flock`), so it ends with its process, however that ends; the lock
    file of a killed process does not count. On a file system without locks the block runs without
    one, with a message on stderr.

    Raises:
        ArtifactError: another process holds the lock.
        OSError: the lock file cannot be created.
    """
    path = _lock_path(folder)
    lock_file = _acquire(path)
    while lock_file is None:
        lock_file = _acquire(path)
    with lock_file:
        try:
            lock_file.truncate(0)
            lock_file.write(WRITER.format(os.getpid(), socket.gethostname()))
            lock_file.flush()
            yield lock_file
        finally:
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> IO[str] | None:
    """The locked file; None if its holder removed it between our opening and locking it."""
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
        print(f"{path}: continues without a lock: {error.strerror}", file=sys.stderr)
        return stream
    stream.close()
    return None
