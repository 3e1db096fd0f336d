"""The connection to the MLflow store: its address, time limits and error messages.

Results do not depend on the store, so a failing store costs only the mirror: every failure is a
`TrackingError` after a bounded wait, never a hung job, and no message shows a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from atu.errors import TrackingError

DEFAULT_STORE = Path("mlflow")
BOUNDS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "PGCONNECT_TIMEOUT": "10",
}
"""Defaults in seconds and counts. With MLflow's defaults a server that accepts connections but
never answers blocks a job for a quarter of an hour; with these, three times 20 seconds plus
pauses."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
PASSWORDS = (re.compile(r"://[^:@]*:(.*)@"), re.compile(r"[?&]\w*password=([^&]*)"))
"""Secrets in a URI, including those that should have been percent-encoded but were not."""
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
REASON = 300
"""Maximum characters of the store's message in ours."""


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite database in `mlflow/`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE}/mlflow.db"


def is_default() -> bool:
    """Whether the store is the project's own, which nobody else writes to."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def is_database(uri: str) -> bool:
    """Whether MLflow writes to this database directly, without a server."""
    return uri.startswith(DATABASES)


def artifacts() -> str:
    """Where the files of runs go if no server keeps them."""
    return (DEFAULT_STORE / "artifacts").resolve().as_uri()


def mask(text: str) -> str:
    """The text with every password of the tracking URI and the environment replaced by `***`."""
    secrets = [secret for pattern in PASSWORDS for secret in pattern.findall(tracking_uri())]
    secrets += [os.environ.get(name, "") for name in SECRETS]
    for secret in sorted({*secrets, *map(unquote, secrets)} - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


@contextmanager
def connected() -> Iterator[Any]:
    """An `MlflowClient` for the store.

    Raises:
        TrackingError: the store is unreachable, refuses, disconnects or takes too long, at once or
            while the client is used.
    """
    for name, value in BOUNDS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Otherwise MLflow prints the address of every run, with the password of the URI.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = tracking_uri()
    try:
        if is_database(uri):
            _reach_database(uri)
        yield MlflowClient(tracking_uri=uri)
    except (MlflowException, SQLAlchemyError, OSError, ValueError, ImportError) as error:
        raise TrackingError(mask(f"MLflow at {uri}: {_reason(error)}; {_repair(error)}")) from None


def _reach_database(uri: str) -> None:
    """Connect once: MLflow would try ten times, for more than 100 seconds."""
    from sqlalchemy import create_engine, inspect, make_url

    url = make_url(uri)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url)
    inspect(engine).get_table_names()
    engine.dispose()


def _reason(error: BaseException) -> str:
    """The first line of the error message; of nested network errors the innermost."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    inner = re.search(r"\(Caused by (.*)\)", lines[0])
    return (inner[1] if inner else lines[0])[:REASON]


def _repair(error: BaseException) -> str:
    if is_default():
        return f"move {DEFAULT_STORE}/ away and run again: only track runs, and makes it anew"
    if isinstance(error, ModuleNotFoundError):
        return f"install it (for {error.name}: docs/tracking.md); then run again: only track runs"
    return "start the server, or unset MLFLOW_TRACKING_URI; then run again: only track runs"
