"""Where the MLflow store is, and what is said when it fails: bounded, and without a password."""

import os
import socket
import threading

import pytest
from servers import Proxy, free_port, until

from atu.errors import TrackingError
from atu.tracking import connection
from atu.tracking.connection import BOUNDS, connected, is_database, mask, tracking_uri

QUICK = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """A folder of its own; what `connected` sets is undone."""
    monkeypatch.chdir(tmp_path)
    for name in (*BOUNDS, *connection.SECRETS, "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def quick(monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def refused(monkeypatch):
    """A function that asks a store for an experiment and gives the error's message."""

    def ask(uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(TrackingError) as caught, connected() as client:
            client.get_experiment_by_name("x")
        return str(caught.value)

    return ask


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "sqlite:///mlflow/mlflow.db"), ("", "sqlite:///mlflow/mlflow.db"), ("x://y", "x://y")],
)
def test_tracking_uri(monkeypatch, value, expected):
    if value is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    assert tracking_uri() == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///a.db", True), ("postgresql://h/d", True), ("postgresql+psycopg2://h/d", True),
        ("http://h", False), ("https://h", False), ("databricks", False),
    ],
)  # fmt: skip
def test_is_database(uri, expected):
    assert is_database(uri) is expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://h:5000/p", "http://h:5000/p"),
        ("http://bob:pw@h:5000", "http://bob:***@h:5000"),
        ("http://:pw@h", "http://:***@h"),
        ("http://bob:p@w@h", "http://bob:***@h"),
        ("http://bob:p/w@h", "http://bob:***@h"),
        ("postgresql://u:p%40w@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h/d?user=u&password=pw", "postgresql://h/d?user=u&password=***"),
        ("postgresql://u@h/d?sslpassword=pw&x=1", "postgresql://u@h/d?sslpassword=***&x=1"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_mask(monkeypatch, uri, expected):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert mask(uri) == expected


def test_mask_knows_decoded_passwords_and_those_of_the_environment(monkeypatch):
    """p%40w is p@w to whoever connects; the longer of two secrets is replaced first."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:p%40w@h/d")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "abc")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abcd")
    assert mask("no entry for p@w, abc, abcd") == "no entry for ***, ***, ***"


def test_a_server_that_is_not_there(refused, quick):
    """The message names the address and the repair, and shows no password; MLflow's does."""
    address = f"127.0.0.1:{free_port()}"
    message = refused(f"http://bob:hunter2@{address}")
    assert message.startswith(f"MLflow at http://bob:***@{address}: ")
    assert "Connection refused" in message and "hunter2" not in message
    assert message.endswith(
        "start the server, or unset MLFLOW_TRACKING_URI; then run again: only track runs"
    )
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="hunter2"):
        MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"]).get_experiment("1")


@pytest.fixture
def silent():
    """A server that accepts and never answers: its port, and the connections it has accepted."""
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            while True:
                try:
                    accepted.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], accepted
        listener.shutdown(socket.SHUT_RDWR)
    for connected_socket in accepted:
        connected_socket.close()


def test_a_server_that_never_answers_is_asked_three_times(refused, quick, silent):
    port, accepted = silent
    assert "timed out" in refused(f"http://127.0.0.1:{port}")
    times = 1 + int(QUICK["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    until(lambda: len(accepted) >= times, "the last connection")
    assert len(accepted) == times


@pytest.mark.parametrize(
    ("status", "content"),
    [(404, b"<html>no such page</html>"), (200, b"<html>hello</html>"), (401, b"who are you?")],
)
def test_a_server_that_is_not_mlflow(refused, quick, status, content):
    with Proxy(0, lambda number, pass_on: (status, content, "text/html")) as proxy:
        message = refused(proxy.uri)
    assert message.startswith(f"MLflow at {proxy.uri}: ") and "only track runs" in message


def test_bounds_are_set_unless_the_user_did(monkeypatch):
    """The whole wait is known: three times 20 seconds for a server that never answers."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with connected():
        set_now = {name: os.environ[name] for name in BOUNDS}
    assert set_now == BOUNDS | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES as RETRIES

    assert RETRIES.get() == int(BOUNDS[RETRIES.name]) == 2


def test_a_database_that_is_none_is_asked_once(monkeypatch, tmp_path):
    """Of the tree's own store the repair is another: nobody set a variable."""
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/mlflow.db").write_text("no database " * 99)
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    with pytest.raises(TrackingError, match="not a database; move mlflow/ away"), connected():
        raise AssertionError("connected")
    assert slept == []


def test_a_missing_driver_is_named(monkeypatch, refused):
    monkeypatch.setitem(__import__("sys").modules, "psycopg2", None)
    message = refused("postgresql://u:hunter2@127.0.0.1/d")
    assert "psycopg2" in message and "docs/tracking.md" in message and "hunter2" not in message


def test_a_mistake_of_ours_is_not_the_stores(monkeypatch):
    """Only what stores raise is reported as theirs."""
    with pytest.raises(KeyError), connected():
        raise KeyError("ours")
