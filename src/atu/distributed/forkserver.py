"""A server that has imported the large libraries and forks one process per job.

Most of a small job's time is the import of torch and transformers: more than three seconds. Where
Snakemake runs jobs on the CPU of this machine, it starts a server (`start`). `python -m atu` then
hands its job over to a process that the server forks (`hand_over`), with the same arguments,
environment, folder and standard streams. Each job has a process of its own, so jobs stay isolated.
The server imports only libraries; a job imports this package itself, as it does without a server.

Without a server, or if the server has another environment, the job runs in the process that was
started. Only a socket listens, in a folder that only its owner can enter. The server ends after the
process that started it; a job ends with its server and with its client.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADDRESS = "ATU_FORK_SERVER"
"""The environment variable that holds the path of the server's socket."""
LIBRARIES = (
    "torch", "transformers.modeling_utils", "transformers.generation",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama", "pydantic", "scipy.stats", "typer",
)  # fmt: skip
"""Imports of most jobs. None may start a thread when it is imported, as polars does: a process with
threads must not be forked, and `_serves` refuses to."""
FREE = {"_", "PWD", "OLDPWD", "SHLVL", "TMP", "TMPDIR", "TEMP", "TEMPDIR"}
"""Environment variables that no library reads during import: jobs may differ in them."""
PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that a client forwards to its job."""
FORWARD_WITHIN = 1.0
"""Seconds after which a signal is passed on at the latest."""
PATIENCE = 10.0
"""Seconds within which a client must send its request."""
WIDTH = 8
"""Bytes of a number: a request's length, a job's process, its exit status."""
THREADS = Path("/proc/self/task")


def start() -> None:
    """Start a server for the jobs of this process. It imports libraries at the first job."""
    if not hasattr(os, "pidfd_open"):
        return
    folder = tempfile.mkdtemp(prefix="atu-")
    address = f"{folder}/jobs"
    command = [sys.executable, "-m", "atu.distributed.forkserver", address]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None and server.stdout is not None
    if server.stdout.readline():
        os.environ[ADDRESS] = address
    atexit.register(server.communicate)


def hand_over() -> int | None:
    """Let a server run this process's job; returns the job's exit status, or None if no server
    takes it.
    """
    if ADDRESS not in os.environ:
        return None
    request = {
        "arguments": sys.argv,
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "python": sys.executable,
    }
    content = json.dumps(request).encode()
    # Signals wait until it is known which process runs the job.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    with socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
        server.connect(os.environ[ADDRESS])
        socket.send_fds(server, [len(content).to_bytes(WIDTH, "big")], [0, 1, 2])
        server.sendall(content)
        job = int.from_bytes(_read(server, WIDTH), "big")
        if job:
            return _attend(server, job)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    return None


def _attend(server: socket.socket, job: int) -> int:
    """Forward signals to the job until it ends; returns its exit status."""

    def forward(number: int, _frame: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(job, number)

    for number in PASSED_ON:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    with contextlib.suppress(OSError):
        # A signal that comes just before a wait does not end it; Python handles it afterwards.
        while not select.select([server], [], [], FORWARD_WITHIN)[0]:
            pass
        reply = _read(server, WIDTH)
        if reply:
            status = int.from_bytes(reply, "big", signed=True)
            return status if status >= 0 else 128 - status
    print("atu: the server of the job's process has ended, and the job with it", file=sys.stderr)
    return 1


def _read(source: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes; none if the other side closes before."""
    content = b""
    while len(content) < count:
        part = source.recv(count - len(content))
        if not part:
            return b""
        content += part
    return content


@dataclass
class Request:
    """The job that a client hands over."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    python: str
    streams: list[int]
    """Its standard input, output and error."""

    @classmethod
    def read(cls, client: socket.socket) -> Request:
        """The request that the client sends.

        Raises:
            OSError, ValueError: there is none in time.
        """
        client.settimeout(PATIENCE)
        length, streams, _flags, _address = socket.recv_fds(client, WIDTH, 3)
        content = _read(client, int.from_bytes(length, "big"))
        client.settimeout(None)
        return cls(**json.loads(content), streams=streams)

    @property
    def imports(self) -> tuple[dict[str, str], str]:
        """Environment and Python, on which imports may depend."""
        free = FREE | {ADDRESS}
        return {k: v for k, v in self.environment.items() if k not in free}, self.python

    def take_place(self, server: int) -> None:
        """Make this process, forked by `server`, the client's job."""
        from atu.distributed.launch import die_with_parent  # in the job: the server imports no atu

        die_with_parent()
        if os.getppid() != server:
            os._exit(1)
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, stream in enumerate(self.streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(self.folder)
        self.apply_environment()
        del os.environ[ADDRESS]
        tempfile.tempdir = None
        sys.argv[:] = self.arguments

    def apply_environment(self) -> None:
        """Give this process the client's environment."""
        os.environ.clear()
        os.environ.update(self.environment)


class Server:
    """Forks a process for every job until standard input and the last job have ended."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self._poll = select.poll()
        self._clients: dict[int, socket.socket] = {}
        """By the number of the job's process."""
        self._events: dict[int, Callable[[], Request | None]] = {}
        """The handler of each file descriptor's events."""
        self._imports: tuple[dict[str, str], str] | None = None
        self._stopping = False

    def run(self) -> Request | None:
        """None when all is done; in a forked process, its request."""
        self._watch(self.listener.fileno(), select.POLLIN, self._accept)
        self._watch(0, select.POLLIN, self._stop)
        while self._clients or not self._stopping:
            for descriptor, _ in self._poll.poll():
                request = self._events[descriptor]() if descriptor in self._events else None
                if request is not None:
                    return request
        return None

    def _watch(self, descriptor: int, mask: int, event: Callable[[], Request | None]) -> None:
        self._events[descriptor] = event
        self._poll.register(descriptor, mask)

    def _forget(self, descriptor: int) -> None:
        del self._events[descriptor]
        self._poll.unregister(descriptor)

    def _stop(self) -> None:
        self._stopping = True
        self._forget(0)

    def _accept(self) -> Request | None:
        """Fork a process, or tell the client to run the job itself."""
        client, _ = self.listener.accept()
        try:
            request = Request.read(client)
        except (OSError, ValueError, TypeError):
            client.close()
            return None
        job = os.fork() if self._serves(request) else None
        if job == 0:
            self._close()
            client.close()
            return request
        for stream in request.streams:
            os.close(stream)
        with contextlib.suppress(OSError):
            client.sendall((job or 0).to_bytes(WIDTH, "big"))
        if job is None:
            client.close()
        else:
            self._attend(job, client)
        return None

    def _serves(self, request: Request) -> bool:
        """Whether a fork of this server equals a process that the client starts."""
        if self._imports is None:
            self._imports = request.imports
            request.apply_environment()
            for name in LIBRARIES:
                importlib.import_module(name)
            # Keep the garbage collector from visiting, and so copying, the server's objects.
            gc.collect()
            gc.freeze()
        return self._imports == request.imports and len(list(THREADS.iterdir())) == 1

    def _attend(self, job: int, client: socket.socket) -> None:
        """Wait for the job's end, and for its client's."""
        self._clients[job] = client
        handle = os.pidfd_open(job)

        def ended() -> None:
            self._forget(handle)
            if client.fileno() in self._events:
                self._forget(client.fileno())
            status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
            with contextlib.suppress(OSError):
                client.sendall(status.to_bytes(WIDTH, "big", signed=True))
            os.close(handle)
            self._clients.pop(job).close()

        def abandoned() -> None:
            self._forget(client.fileno())
            os.kill(job, signal.SIGKILL)

        self._watch(handle, select.POLLIN, ended)
        # Without a mask only the end of the connection is an event.
        self._watch(client.fileno(), 0, abandoned)

    def _close(self) -> None:
        """Close the server's descriptors, in a forked process."""
        self.listener.close()
        for client in self._clients.values():
            client.close()
        for descriptor in self._events.keys() - {0}:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def serve(address: str) -> None:
    """Run a server; in a forked process, run the job as `python -m atu` does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = os.getpid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(128)
        print("ready", flush=True)
        request = Server(listener).run()
    if request is None:
        shutil.rmtree(Path(address).parent, ignore_errors=True)
    else:
        request.take_place(server)
        runpy.run_module("atu", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(sys.argv[1])
