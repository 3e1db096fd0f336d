"""The fork server: a job forked is the job that was started, and nothing outlives who wants it.

The servers here import no library, and the job is Python code in a variable of its environment.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atu.distributed import forkserver

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")

SERVER = """
import os, sys, threading
from atu.distributed import forkserver
forkserver.LIBRARIES = ()
forkserver.FREE |= {"JOB"}
forkserver.runpy.run_module = lambda *_args, **_named: exec(os.environ["JOB"], {})
if os.environ.get("THREAD"):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
forkserver.serve(sys.argv[1])
"""
CLIENT = """
import sys
from atu.distributed.forkserver import hand_over
status = hand_over()
sys.exit("alone" if status is None else status)
"""


class Served:
    """A server, and clients that ask it."""

    def __init__(self, folder, **environment):
        self.address = f"{folder}/jobs"
        self.environment = os.environ | {forkserver.ADDRESS: self.address} | environment
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
        )
        assert self.server.stdout.readline() == b"ready\n"

    def ask(self, job, *arguments, cwd=None, **environment):
        return subprocess.Popen(
            [sys.executable, "-c", CLIENT, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=self.environment | {"JOB": job} | environment,
        )

    def end(self):
        self.server.kill()
        self.server.wait()
        self.server.stdin.close()
        self.server.stdout.close()

    def result(self, client):
        output, errors = client.communicate(timeout=30)
        return client.returncode, output, errors


@pytest.fixture
def served(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    served = Served(folder)
    yield served
    served.end()


def gone(process):
    """Whether a process ends within seconds."""
    for _ in range(200):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


WAITS = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def test_a_job_is_what_was_asked_for(served, tmp_path):
    job = (
        "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['TMP'], input());"
        "print(os.environ.get('ATU_FORK_SERVER'), file=sys.stderr); sys.exit(3)"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, "one", "two words"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=served.environment | {"JOB": job, "TMP": "/elsewhere"},
    )
    output, errors = client.communicate("read\n", timeout=30)
    assert output == f"['one', 'two words'] {tmp_path} /elsewhere read\n"
    assert (client.returncode, errors) == (3, "None\n")


def test_jobs_run_beside_each_other(served):
    first = served.ask(WAITS)
    first.stdout.readline()
    assert served.result(served.ask("print('second')")) == (0, "second\n", "")
    assert first.poll() is None
    first.kill()
    first.communicate()


def test_an_exception_is_shown_and_is_status_1(served):
    status, _, errors = served.result(served.ask("1 / 0"))
    assert status == 1
    assert errors.endswith("ZeroDivisionError: division by zero\n")


def test_another_environment_is_not_served(served):
    assert served.result(served.ask("print('served')"))[1] == "served\n"
    declined = served.result(served.ask("print('served')", OMP_NUM_THREADS="7"))
    assert declined == (1, "", "alone\n")


def test_a_server_with_threads_does_not_fork(tmp_path):
    served = Served(tmp_path, THREAD="1")
    assert served.result(served.ask("print('served')")) == (1, "", "alone\n")
    served.end()


def test_a_client_whose_server_is_gone_is_alone(served):
    served.server.kill()
    served.server.wait()
    assert served.result(served.ask("print('served')")) == (1, "", "alone\n")


def test_a_client_that_asks_for_nothing_is_left(served):
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.connect(served.address)
    assert served.result(served.ask("print('served')"))[1] == "served\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_job(served, number):
    job = (
        f"import signal, sys, time; signal.signal({int(number)}, lambda *_: sys.exit(9));"
        # In short sleeps: a signal just before a sleep is handled after it.
        "print('ready', flush=True); [time.sleep(0.05) for _ in range(1200)]"
    )
    client = served.ask(job)
    client.stdout.readline()
    client.send_signal(number)
    assert served.result(client)[0] == 9


def test_a_job_that_a_signal_ended(served):
    """128 + 9, as a shell says it."""
    client = served.ask(WAITS)
    os.kill(int(client.stdout.readline()), signal.SIGKILL)
    assert served.result(client)[0] == 137


def test_a_job_ends_with_its_client(served):
    client = served.ask(WAITS)
    job = int(client.stdout.readline())
    client.kill()
    client.communicate()
    assert gone(job)


def test_a_job_ends_with_its_server(served):
    client = served.ask(WAITS)
    job = int(client.stdout.readline())
    # Served after the first client was told of its job.
    served.result(served.ask("print('second')"))
    served.server.kill()
    served.server.wait()
    status, _, errors = served.result(client)
    assert (status, gone(job)) == (1, True)
    assert errors.startswith("atu: the server of the job's process has ended")


def test_the_server_ends_after_who_started_it_and_the_last_job(served, tmp_path):
    client = served.ask("print('begun', flush=True); import time; time.sleep(1); print('whole')")
    client.stdout.readline()
    served.server.stdin.close()
    assert served.result(client) == (0, "whole\n", "")
    assert served.server.wait(timeout=30) == 0
    assert not (tmp_path / "server").exists()


def test_start_names_the_server_to_jobs_and_only_its_owner_enters(tmp_path):
    """Started and ended by one process, as by Snakemake."""
    code = (
        "import os, subprocess, sys; from atu.distributed import forkserver; forkserver.start();"
        "folder = os.path.dirname(os.environ['ATU_FORK_SERVER']);"
        "print(folder, oct(os.stat(folder).st_mode))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    folder, mode = done.stdout.split()
    assert (done.returncode, mode) == (0, "0o40700")
    assert not Path(folder).exists()
