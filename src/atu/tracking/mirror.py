"""The MLflow mirror: one run per cell, re-created from results alone, idempotent.

Results are the source of truth. A run has the digest of its content as a tag. Mirroring again keeps
a finished run with the same digest, completes an interrupted one, replaces one whose content has
changed and retires one whose cell has left the grid. Retired runs are only marked as deleted in
MLflow and can be restored.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from atu.errors import TrackingError, visible
from atu.results.artifacts import sha256
from atu.tracking.connection import (
    DEFAULT_STORE,
    connected,
    is_database,
    is_default,
    mask,
    tracking_uri,
)

CELL_TAG, DIGEST_TAG, RESULTS_TAG = "atu.cell", "atu.digest", "atu.results"
PAGE = 1000
"""Runs per page of a listing."""
PARAMS, POINTS, VALUE = 100, 1000, 6000
"""Limits of the store: parameters and points per call, characters of a parameter's value."""


@dataclass(frozen=True)
class RunRecord:
    """The content of one MLflow run."""

    cell: str
    name: str
    """Shown in the list of runs, cut on the right, so the distinguishing part comes first."""
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curves: list[tuple[str, int, float]] = field(default_factory=list)
    """`(name, step, value)`."""
    files: list[Path] = field(default_factory=list)
    description: str = ""
    """Markdown at the top of the run's page."""

    @cached_property
    def digest(self) -> str:
        """sha256 of the content; file paths do not count, only names and bytes."""
        shown = asdict(self) | {"files": [(path.name, sha256(path)) for path in self.files]}
        return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`{"a": {"b": 1}}` as `("a.b", "1")`, lists as JSON; texts as a page may show them."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, visible(value) if isinstance(value, str) else json.dumps(value)


def metric_name(name: str) -> str:
    """A name that MLflow accepts: letters, digits, `_`, `-`, `.`, space and `/`."""
    return re.sub(r"[^\w\-. /]", "_", name)


def mirror(records: list[RunRecord], experiment: str, results: Path) -> dict[str, int]:
    """Update the store with `records`, those of the folder `results`.

    Returns how many runs were made, completed, kept and retired (their cells have no record; runs
    that mirror no cell are left alone). A run is replaced only once the new one is complete. Runs
    are created in reverse order, because the store lists the newest first.

    Raises:
        TrackingError: the store fails, or the experiment mirrors another results folder.
    """
    cells = {record.cell for record in records}
    counts = {"made": 0, "completed": 0, "kept": 0, "retired": 0}
    with connected() as client:
        experiment_id = _experiment(client, experiment, results)
        runs_of = _runs_by_cell(client, experiment_id)
        complete = set()
        for record in reversed(records):
            run = _best(runs_of.get(record.cell, []), record.digest)
            if run is None:
                counts["made"] += 1
                run = _create_run(client, experiment_id, record)
            else:
                counts["kept" if _finished(run) else "completed"] += 1
            if not _finished(run):
                _fill(client, run, record)
            complete.add(run.info.run_id)
        for cell, runs in _runs_by_cell(client, experiment_id).items():
            counts["retired"] += cell not in cells
            for run in runs:
                if run.info.run_id not in complete:
                    client.delete_run(run.info.run_id)
    return counts


def _experiment(client: Any, name: str, results: Path) -> str:
    """The experiment's id; a missing experiment is created, a deleted one restored."""
    from mlflow.exceptions import MlflowException

    owner = f"{_user()}:{results.resolve()}"
    existing = client.get_experiment_by_name(name)
    if existing is None:
        place = (DEFAULT_STORE / "artifacts").resolve().as_uri()
        location = place if is_database(tracking_uri()) else None
        try:
            return client.create_experiment(name, location, {RESULTS_TAG: owner})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        existing = client.get_experiment_by_name(name)
    recorded = existing.tags.get(RESULTS_TAG, owner)
    if recorded != owner and not is_default():
        raise TrackingError(
            f"MLflow at {mask(tracking_uri())}: experiment {name!r} mirrors {recorded}, not "
            f"{owner}, and would lose its runs; set track.experiment to a name of your own"
        )
    if existing.lifecycle_stage != "active":
        client.restore_experiment(existing.experiment_id)
    return existing.experiment_id


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name
        return "unknown"


def _runs_by_cell(client: Any, experiment_id: str) -> dict[str, list[Any]]:
    """Every run that mirrors a cell, finished or not."""
    by_cell: dict[str, list[Any]] = {}
    page = None
    while True:
        runs = client.search_runs([experiment_id], max_results=PAGE, page_token=page)
        for run in runs:
            if CELL_TAG in run.data.tags:
                by_cell.setdefault(run.data.tags[CELL_TAG], []).append(run)
        page = runs.token
        if not page:
            return by_cell


def _finished(run: Any) -> bool:
    return run.info.status == "FINISHED"


def _best(runs: list[Any], digest: str) -> Any:
    """A run with this content, preferably a finished one; None if there is none."""
    same = [run for run in runs if run.data.tags.get(DIGEST_TAG) == digest]
    return max(same, key=_finished, default=None)


def _create_run(client: Any, experiment_id: str, record: RunRecord) -> Any:
    tags = {
        CELL_TAG: record.cell,
        DIGEST_TAG: record.digest,
        "mlflow.user": _user(),
        "mlflow.source.name": "atu track",
    }
    if record.description:
        tags["mlflow.note.content"] = record.description
    return client.create_run(experiment_id, tags=tags, run_name=record.name)


def _fill(client: Any, run: Any, record: RunRecord) -> None:
    """Log everything in batches; the run becomes FINISHED only when it is complete.

    The timestamp of every point is the run's start, so that logging a point again changes nothing:
    the store keeps equal points once.
    """
    from mlflow.entities import Metric, Param

    run_id, now = run.info.run_id, run.info.start_time
    final = [Metric(metric_name(k), v, now, 0) for k, v in record.metrics.items()]
    curve = [Metric(metric_name(name), v, now, step) for name, step, v in record.curves]
    params = [Param(key, value[:VALUE]) for key, value in record.params.items()]
    for at in range(0, len(params), PARAMS):
        client.log_batch(run_id, params=params[at : at + PARAMS])
    metrics = final + curve
    for at in range(0, len(metrics), POINTS):
        client.log_batch(run_id, metrics=metrics[at : at + POINTS])
    for path in record.files:
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id)
