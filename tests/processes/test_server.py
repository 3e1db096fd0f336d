"""The mirror through a real MLflow server, which dies at every request once and is slow."""

import shutil
import sqlite3
from collections import Counter

import pytest
from servers import BrokenOffError, MlflowServer, Proxy

from atu.errors import TrackingError
from atu.tracking import filling
from atu.tracking.mirror import mirror
from atu.tracking.records import RunRecord

CURVE = [("loss", step, 1 / step) for step in range(1, 9)]
POINTS = 5
"""At once: the curve is logged in two batches."""


@pytest.fixture(scope="module")
def server(tmp_path_factory, new_database):
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(new_database, folder / "store.db")
    server = MlflowServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def proxy(server):
    """One address for all tests: MLflow remembers where an experiment's files go."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def plain(monkeypatch, proxy):
    """No request is sent again unless a test says so, and the proxy passes all on."""
    for name in ("MAX_RETRIES", "BACKOFF_FACTOR", "BACKOFF_JITTER"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    monkeypatch.setattr(filling, "POINTS", POINTS)
    proxy.script()


@pytest.fixture
def collect(proxy, tmp_path):
    """A function that mirrors one run; what was not 0. `script` is the proxy's, meanwhile."""
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"png")
    record = RunRecord("m/Ada/ga/0", "ga", {"seed": "0"}, {"score": 0.5}, CURVE, [figure])

    def collect(name, script=None):
        proxy.script(script)
        return {key: n for key, n in mirror([record], name, tmp_path).items() if n}

    return collect


def runs(server, name):
    """Each active run's status, number of parameters and points, and files, from the database."""
    with sqlite3.connect(server.folder / "store.db") as database:
        rows = database.execute(
            "select run_uuid, status, artifact_uri from runs join experiments using (experiment_id)"
            " where experiments.name = ? and runs.lifecycle_stage = 'active'",
            [name],
        ).fetchall()
        found = []
        for run, status, where in rows:
            params, metrics = (
                database.execute(f"select * from {table} where run_uuid = ?", [run]).fetchall()
                for table in ("params", "metrics")
            )
            folder = server.folder / "mlartifacts" / where.removeprefix("mlflow-artifacts:/")
            files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
            found.append((status, len(params), len(metrics), files))
    return found


WHOLE = [("FINISHED", 1, 1 + len(CURVE), [b"png"])]


def test_collected_twice_there_is_the_same_run_once(server, proxy, collect):
    """Two searches and the experiment tell that there is nothing to do; a run of two batches costs
    seven requests more."""
    assert collect("twice") == {"made": 1}
    assert runs(server, "twice") == WHOLE
    assert len(proxy.requests) <= 1 + 3 + 7
    assert collect("twice") == {"kept": 1}
    assert runs(server, "twice") == WHOLE
    assert len(proxy.requests) == 3


@pytest.mark.parametrize("heard", [False, True], ids=["before it is heard", "before its answer"])
def test_whichever_request_the_server_dies_at_nothing_is_lost_or_doubled(
    server, proxy, collect, heard
):
    """All of them, one after another: each time the collector says so, and the next completes."""
    collect(f"{heard}-counted")
    total = len(proxy.requests)
    seen = Counter()
    for fatal in range(total):

        def die(number, pass_on, fatal=fatal):
            if number == fatal and heard:
                pass_on()
            if number >= fatal:
                raise BrokenOffError
            return pass_on()

        name = f"{heard}-{fatal}"
        with pytest.raises(TrackingError, match=f"MLflow at {proxy.uri}: .*; start the server"):
            collect(name, die)
        assert len(proxy.requests) == fatal + 1
        left = [status for status, *_ in runs(server, name)] or ["nothing"]
        assert len(left) == 1
        seen[left[0]] += 1
        done = {"nothing": "made", "RUNNING": "completed", "FINISHED": "kept"}[left[0]]
        assert collect(name) == {done: 1}
        assert runs(server, name) == WHOLE
    assert seen.total() == total and seen["nothing"] >= 3 and seen["RUNNING"] >= 4
    assert seen["FINISHED"] >= 1


def test_a_run_whose_answer_came_too_late_is_there_once(monkeypatch, server, proxy, collect):
    """The server makes it, the collector does not hear of it, asks again and gets a second one."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    made = []

    def answer(number, pass_on):
        got = pass_on()
        if proxy.requests[number].endswith("runs/create"):
            made.append(number)
            if len(made) == 1:
                raise BrokenOffError
        return got

    assert collect("slow", answer) == {"made": 1}
    assert len(made) == 2
    assert runs(server, "slow") == WHOLE


def test_no_address_is_printed(collect, capfd):
    """MLflow shows a run's address when it ends, and with it a password that stands in the URI."""
    assert collect("printed") == {"made": 1}
    assert "http" not in "".join(capfd.readouterr())


def test_a_server_killed_and_started_again(server, proxy, collect):
    """SIGKILL of the server itself and its workers, in the middle; it comes back at its address."""

    def kill(number, pass_on):
        if proxy.requests[number].endswith("log-batch"):
            server.kill()
        return pass_on()

    with pytest.raises(TrackingError, match="start the server"):
        collect("killed", kill)
    server.start()
    assert collect("killed") == {"completed": 1}
    assert runs(server, "killed") == WHOLE
