"""What `make ui` starts listens on 127.0.0.1 alone unless another address is asked for."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from servers import free_port, until

ROOT = Path(__file__).parents[2]
MAKE = [
    "make",
    "--silent",
    "--file",
    str(ROOT / "Makefile"),
    "--old-file",
    ".venv/.installed",
    "ui",
]


def sockets(pid):
    """`(address, port)` of every socket of a process and its descendants that takes connections
    or datagrams from elsewhere.
    """
    parent = psutil.Process(pid)
    return {
        (socket.laddr.ip, socket.laddr.port)
        for process in (parent, *parent.children(recursive=True))
        for socket in process.net_connections(kind="inet")
        if socket.laddr and not socket.raddr
    }


def command_lines(pid):
    """As `ps` shows them, of a process and its descendants; those that just ended have none."""
    parent = psutil.Process(pid)
    found = []
    for process in (parent, *parent.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found


@pytest.fixture
def started(tmp_path, new_database):
    """A function that starts `make ui` with these variables."""
    (tmp_path / "mlflow").mkdir()
    shutil.copy(new_database, tmp_path / "mlflow/mlflow.db")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    processes = []

    def start(*given, **variables):
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        with (tmp_path / f"ui{len(processes)}.log").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [*MAKE, *given], cwd=tmp_path, env=environment | {"PATH": path} | variables,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address):
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_the_ui_listens_on_this_machine_alone(started):
    """And elsewhere only where UI_HOST says: the address is the one thing that differs."""
    port, other = free_port(), free_port()
    usual = started(f"UI_PORT={port}")
    asked = started(f"UI_PORT={other}", "UI_HOST=127.0.0.2")
    for process, address, where in ((usual, "127.0.0.1", port), (asked, "127.0.0.2", other)):
        until(lambda at=f"{address}:{where}": answers(at), "the UI")
        time.sleep(1)  # whatever else it starts has had time to
        assert sockets(process.pid) == {(address, where)}


def test_no_password_stands_on_a_command_line(started):
    """`ps` shows them to everybody."""
    uri = "postgresql://bob:hunter2@127.0.0.1:1/none"
    process = started(f"UI_PORT={free_port()}", MLFLOW_TRACKING_URI=uri)
    until(lambda: any("atu ui" in line for line in command_lines(process.pid)), "MLflow")
    assert not any("hunter2" in line for line in command_lines(process.pid))
