"""The MLflow mirror: one run per cell, made again from results alone, the same twice.

`metrics.json` is the truth. A run carries the digest of the cell's manifests as a tag; collecting
again leaves a run with the same digest alone, replaces one whose cell has changed and retires one
whose cell has left the grid. Retired runs are deleted as MLflow deletes: they can be restored.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_STORE = Path("mlflow")
CELL_TAG, DIGEST_TAG = "atu.cell", "atu.digest"
PAGE = 1000
"""Runs that the store lists at once."""


@dataclass(frozen=True)
class RunRecord:
    """Everything that one MLflow run shows."""

    cell: str
    name: str
    """What the list of runs shows; it is cut on the right, so the method stands first."""
    digest: str
    params: dict[str, str]
    metrics: dict[str, float]
    curves: list[tuple[str, int, float]]
    """`(name, step, value)`."""
    files: list[Path] = field(default_factory=list)


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite database in `mlflow/`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE}/mlflow.db"


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`{"a": {"b": 1}}` as `("a.b", "1")`, lists as JSON."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def metric_name(name: str) -> str:
    """A name MLflow takes: letters, digits, `_`, `-`, `.`, space and `/`."""
    return re.sub(r"[^\w\-. /]", "_", name)


def mirror(records: list[RunRecord], experiment: str) -> dict[str, int]:
    """Bring the store up to date with `records`; returns how many runs were made, kept and retired
    (of cells that are in no record; runs that are no mirror of a cell are left alone).

    The database is created once, before anything writes to it: two processes that create it at
    the same time break each other.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    uri = tracking_uri()
    if uri.startswith(f"sqlite:///{DEFAULT_STORE}/"):
        DEFAULT_STORE.mkdir(exist_ok=True)
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else _create(client, uri, experiment)
    mirrored = _runs_by_cell(client, experiment_id)
    made = kept = 0
    for record in records:
        if _up_to_date(client, mirrored.pop(record.cell, []), record.digest):
            kept += 1
        else:
            _write(client, experiment_id, record)
            made += 1
    gone = [run for runs in mirrored.values() for run in runs]
    for run in gone:
        client.delete_run(run.info.run_id)
    return {"made": made, "kept": kept, "retired": len(gone)}


def _runs_by_cell(client: Any, experiment_id: str) -> dict[str, list[Any]]:
    """Every run that mirrors a cell, finished or not."""
    found: dict[str, list[Any]] = {}
    page = None
    while True:
        runs = client.search_runs([experiment_id], max_results=PAGE, page_token=page)
        for run in runs:
            if CELL_TAG in run.data.tags:
                found.setdefault(run.data.tags[CELL_TAG], []).append(run)
        page = runs.token
        if not page:
            return found


def _create(client: Any, uri: str, experiment: str) -> str:
    location = None
    if uri.startswith("sqlite"):
        location = (DEFAULT_STORE / "artifacts").resolve().as_uri()
    return client.create_experiment(experiment, artifact_location=location)


def _up_to_date(client: Any, runs: list[Any], digest: str) -> bool:
    """Whether one of a cell's runs is finished and has this content; its others are deleted."""
    good = [
        run
        for run in runs
        if run.data.tags.get(DIGEST_TAG) == digest and run.info.status == "FINISHED"
    ]
    for run in runs:
        if run not in good[:1]:
            client.delete_run(run.info.run_id)
    return bool(good)


def _write(client: Any, experiment_id: str, record: RunRecord) -> None:
    """One run, logged in batches; it is FINISHED only when everything is in it."""
    from mlflow.entities import Metric, Param

    tags = {CELL_TAG: record.cell, DIGEST_TAG: record.digest}
    run = client.create_run(experiment_id, tags=tags, run_name=record.name)
    run_id = run.info.run_id
    now = run.info.start_time
    final = [Metric(metric_name(k), v, now, 0) for k, v in record.metrics.items()]
    curve = [Metric(metric_name(name), v, now, step) for name, step, v in record.curves]
    params = [Param(key, value[:6000]) for key, value in record.params.items()]
    for at in range(0, max(len(params), 1), 100):
        client.log_batch(run_id, params=params[at : at + 100])
    metrics = final + curve
    for at in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[at : at + 1000])
    for path in record.files:
        client.log_artifact(run_id, str(path), artifact_path="report")
    client.set_terminated(run_id)
