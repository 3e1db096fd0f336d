"""Filling a run: its points and parameters, its files, its table of answers.

MLflow's client makes an object of every point that it writes into a database, and takes a quarter
of a millisecond for each, of which a run has thousands. A database therefore gets the rows of many
runs at once, through MLflow's own tables. A server gets them through the client.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from atu.errors import visible
from atu.results.tables import read_frame
from atu.tracking.connection import is_database, tracking_uri
from atu.tracking.records import WHOLE, RunRecord, metric_name

PARAMS, POINTS, VALUE = 100, 1000, 6000
"""Limits of the store: parameters and points per call, characters of a parameter's value."""
ANSWERS = "answers.json"
TABLES = {"mlflow.loggedArtifacts": json.dumps([{"path": ANSWERS, "type": "table"}])}
"""The tag by which MLflow knows that a file is a table."""
COLUMNS = {
    "question": "query", "answer": "output", "gold": "answer", "score": "score", "form": "form",
    "role": "role",
}  # fmt: skip
"""The table's columns and those of items. MLflow lays runs side by side by the first column, and
shows what the second says."""
POINT = ("key", "timestamp", "step", "run_uuid", "value", "is_nan")
PARAM = ("key", "value", "run_uuid")
"""Columns of MLflow's tables."""
Content = tuple[Any, list[tuple[str, int, float]], dict[str, str]]
"""A run, its points and its parameters."""


def fill(client: Any, runs: Sequence[tuple[Any, RunRecord]]) -> None:
    """Write everything of these runs; one becomes FINISHED only when it is complete.

    The timestamp of every point is the run's start, so that logging a point again changes nothing:
    the store keeps equal points once.
    """
    contents = []
    for run, record in runs:
        _keep(run, record)
        points = [(metric_name(key), 0, value) for key, value in record.metrics.items()]
        points += [(metric_name(key), step, value) for key, step, value in record.curves]
        params = {key: value[:VALUE] for key, value in record.params.items()}
        contents.append((run, points, params))
    if is_database(tracking_uri()):
        _insert(client, contents)
    else:
        for content in contents:
            _log(client, *content)


def _keep(run: Any, record: RunRecord) -> None:
    """The files; the client itself would ask the store where they go, once for every run."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place = get_artifact_repository(run.info.artifact_uri, tracking_uri=tracking_uri())
    for path in record.files:
        place.log_artifact(str(path))
    if record.items:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / ANSWERS
            table.write_text(json.dumps(answers(record.items)), encoding="utf-8")
            place.log_artifact(str(table))


def answers(items: Path) -> dict[str, Any]:
    """The answers of the `report` split as MLflow reads a table: `columns`, and rows of `data`."""
    frame = read_frame(items).filter(pl.col("split") == WHOLE).select(COLUMNS.values())
    return {
        "columns": list(COLUMNS),
        "data": [[visible(v) if isinstance(v, str) else v for v in row] for row in frame.rows()],
    }


def _log(
    client: Any, run: Any, points: list[tuple[str, int, float]], params: dict[str, str]
) -> None:
    """Through the client, in batches."""
    from mlflow.entities import Metric, Param

    run_id, now = run.info.run_id, run.info.start_time
    given = [Param(key, value) for key, value in params.items()]
    metrics = [Metric(key, value, now, step) for key, step, value in points]
    for at in range(0, len(given), PARAMS):
        client.log_batch(run_id, params=given[at : at + PARAMS])
    for at in range(0, len(metrics), POINTS):
        client.log_batch(run_id, metrics=metrics[at : at + POINTS])
    client.set_terminated(run_id, end_time=now)


def _insert(client: Any, contents: list[Content]) -> None:
    """Into the tables, in one transaction: of runs that were broken off there is nothing.

    Points are sorted as their table's key is, so that those of many runs change few pages of a
    large database.
    """
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun

    store = client._tracking_client.store
    points, latest, params, ended = set(), [], [], []
    for run, given, own in contents:
        run_id, now = run.info.run_id, run.info.start_time
        last: dict[str, tuple[int, float, bool]] = {}
        for key, step, value in given:
            is_nan, number = store.sanitize_metric_value(value)
            points.add((key, now, step, run_id, number, is_nan))
            last[key] = max(last.get(key, (0, -math.inf, False)), (step, number, is_nan))
        latest += [(key, now, step, run_id, *of) for key, (step, *of) in last.items()]
        params += [(key, value, run_id) for key, value in own.items()]
        ended.append({"run": run_id, "now": now})
    ending = sqlalchemy.update(SqlRun.__table__).where(
        SqlRun.__table__.c.run_uuid == sqlalchemy.bindparam("run")
    )
    with store.ManagedSessionMaker(read_only=False) as session:
        _rows(session, SqlMetric, POINT, sorted(points))
        _rows(session, SqlLatestMetric, POINT, latest)  # MLflow lists metrics as they come here
        _rows(session, SqlParam, PARAM, params)
        session.execute(
            ending.values(status="FINISHED", end_time=sqlalchemy.bindparam("now")), ended
        )


def _rows(session: Any, table: Any, columns: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
    if rows:
        values = [dict(zip(columns, row, strict=True)) for row in rows]
        session.execute(table.__table__.insert(), values)
