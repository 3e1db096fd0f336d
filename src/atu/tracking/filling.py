"""Filling a run: its points and parameters, its files, its table of answers.

MLflow's client makes an object of every point that it writes into a database, and takes a quarter
of a millisecond for each, of which a run has thousands. A database therefore gets the rows of a run
at once, through MLflow's own tables. A server gets them through the client.
"""

from __future__ import annotations

import json
import tempfile
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


def fill(client: Any, run: Any, record: RunRecord) -> None:
    """Write everything; the run becomes FINISHED only when it is complete.

    The timestamp of every point is the run's start, so that logging a point again changes nothing:
    the store keeps equal points once.
    """
    for path in record.files:
        client.log_artifact(run.info.run_id, str(path))
    if record.items:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / ANSWERS
            table.write_text(json.dumps(answers(record.items)), encoding="utf-8")
            client.log_artifact(run.info.run_id, str(table))
    points = [(metric_name(key), 0, value) for key, value in record.metrics.items()]
    points += [(metric_name(key), step, value) for key, step, value in record.curves]
    params = {key: value[:VALUE] for key, value in record.params.items()}
    write = _insert if is_database(tracking_uri()) else _log
    write(client, run, points, params)


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


def _insert(
    client: Any, run: Any, points: list[tuple[str, int, float]], params: dict[str, str]
) -> None:
    """Into the tables, in one transaction: of a run that was broken off there is nothing."""
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun

    store, own = client._tracking_client.store, {"run_uuid": run.info.run_id}
    now = run.info.start_time
    equal_once = dict.fromkeys((k, step, *store.sanitize_metric_value(v)) for k, step, v in points)
    rows = [
        own | {"key": key, "step": step, "is_nan": is_nan, "value": value, "timestamp": now}
        for key, step, is_nan, value in equal_once
    ]
    last: dict[str, dict[str, Any]] = {}
    for row in rows:  # MLflow lists a run's metrics in the order of this table
        before = last.setdefault(row["key"], row)
        if (row["step"], row["value"]) > (before["step"], before["value"]):
            last[row["key"]] = row
    given = [own | {"key": key, "value": value} for key, value in params.items()]
    written = ((SqlMetric, rows), (SqlLatestMetric, [*last.values()]), (SqlParam, given))
    ended = {"status": "FINISHED", "end_time": now}
    with store.ManagedSessionMaker(read_only=False) as session:
        for table, values in written:
            if values:
                session.execute(sqlalchemy.insert(table), values)
        session.execute(sqlalchemy.update(SqlRun).filter_by(**own).values(ended))
