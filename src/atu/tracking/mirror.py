"""The MLflow mirror: one run per cell, re-created from results alone, idempotent.

Results are the source of truth. A run has the digest of its content as a tag. Mirroring again keeps
a finished run with the same digest, completes an interrupted one, replaces one whose content has
changed and retires one whose cell has left the grid. Retired runs are only marked as deleted in
MLflow and can be restored.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atu.errors import TrackingError
from atu.tracking.connection import (
    artifacts,
    connected,
    is_database,
    is_default,
    mask,
    tracking_uri,
)
from atu.tracking.filling import TABLES, fill
from atu.tracking.records import CELL_TAG, RunRecord
from atu.tracking.registry import Model, register

DIGEST_TAG, RESULTS_TAG = "atu.digest", "atu.results"
PAGE = 1000
"""Runs per page of a listing."""
AT_ONCE = 50
"""Runs that are written together."""


def mirror(
    records: list[RunRecord],
    experiment: str,
    results: Path,
    tags: Mapping[str, str] = {},
    models: Mapping[str, Model] = {},
) -> dict[str, int]:
    """Update the store with `records`, those of the folder `results`.

    Returns how many runs were made, completed, kept and retired (their cells have no record; runs
    that mirror no cell are left alone). A run is replaced only once the new one is complete. Runs
    are created in reverse order, because the store lists the newest first.

    Args:
        tags: of the experiment, such as how MLflow shows it.
        models: those to register, by cell; see `registry`.

    Raises:
        TrackingError: the store fails, or the experiment mirrors another results folder.
    """
    counts = {"made": 0, "completed": 0, "kept": 0, "retired": 0}
    with connected() as client:
        experiment_id = _experiment(client, experiment, results, tags)
        before = _runs_by_cell(client, experiment_id)
        chosen = []
        for record in reversed(records):
            run = _best(before.get(record.cell, []), record.digest)
            if run is None:
                counts["made"] += 1
                run = _create_run(client, experiment_id, record)
            else:
                counts["kept" if _finished(run) else "completed"] += 1
                _relabel(client, run, record)
            chosen.append((run, record))
        empty = [(run, record) for run, record in chosen if not _finished(run)]
        for at in range(0, len(empty), AT_ONCE):
            fill(client, empty[at : at + AT_ONCE])
        for run, record in chosen:
            if record.cell in models:
                register(client, run, record, models[record.cell])
        # A request that was sent twice has made a run that the first listing lacks.
        found = [before, _runs_by_cell(client, experiment_id, "status = 'RUNNING'")]
        _delete_others(client, {run.info.run_id for run, _ in chosen}, found)
        counts["retired"] = len(before.keys() - {record.cell for record in records})
    return counts


def _experiment(client: Any, name: str, results: Path, tags: Mapping[str, str]) -> str:
    """The experiment's id; a missing experiment is created, a deleted one restored."""
    from mlflow.exceptions import MlflowException

    owner = f"{_user()}:{results.resolve()}"
    existing = client.get_experiment_by_name(name)
    if existing is None:
        location = artifacts() if is_database(tracking_uri()) else None
        try:
            return client.create_experiment(name, location, {RESULTS_TAG: owner, **tags})
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
    for key, value in tags.items():
        if existing.tags.get(key) != value:
            client.set_experiment_tag(existing.experiment_id, key, value)
    return existing.experiment_id


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name
        return "unknown"


def _runs_by_cell(client: Any, experiment_id: str, where: str = "") -> dict[str, list[Any]]:
    """Every run that mirrors a cell, finished or not."""
    by_cell: dict[str, list[Any]] = {}
    page = None
    while True:
        runs = client.search_runs([experiment_id], where, max_results=PAGE, page_token=page)
        for run in runs:
            if CELL_TAG in run.data.tags:
                by_cell.setdefault(run.data.tags[CELL_TAG], []).append(run)
        page = runs.token
        if not page:
            return by_cell


def _delete_others(client: Any, kept: set[str], found: Sequence[Mapping[str, list[Any]]]) -> None:
    listed = {run.info.run_id for by_cell in found for runs in by_cell.values() for run in runs}
    for run_id in listed - kept:
        client.delete_run(run_id)


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
        **_labels(record),
        **(TABLES if record.items else {}),
    }
    return client.create_run(experiment_id, tags=tags, run_name=record.name)


def _labels(record: RunRecord) -> dict[str, str]:
    """What depends on the other runs too, as tags."""
    labels = {
        "mlflow.runName": record.name,
        "mlflow.runColor": record.colour,
        "mlflow.note.content": record.description,
    }
    return {key: value for key, value in labels.items() if value}


def _relabel(client: Any, run: Any, record: RunRecord) -> None:
    for key, value in _labels(record).items():
        if run.data.tags.get(key) != value:
            client.set_tag(run.info.run_id, key, value)
