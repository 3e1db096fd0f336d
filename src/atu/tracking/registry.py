"""Unlearned models in MLflow's registry, each with its card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atu.tracking.records import CELL_TAG, HEADLINE, RunRecord

CONTENT_TAG = "atu.unlearn"


@dataclass(frozen=True)
class Model:
    """An unlearned model that is to be registered."""

    name: str
    """In the registry; its cells are versions."""
    folder: Path
    content: str
    """sha256 of the manifest that lists the weights."""
    copied: bool
    """Whether the store gets a copy of the folder; else the version says where it is."""


def card(record: RunRecord) -> str:
    """What is said of a model, as Markdown: its run's name, headlines and description."""
    shown = [(name, record.metrics[name]) for name in HEADLINE.values() if name in record.metrics]
    rows = [f"| {name[2:]} | {value:.3g} |" for name, value in shown]
    return "\n".join([f"## {record.name}", "", "| | |", "|---|---|", *rows, "", record.description])


def register(client: Any, run: Any, record: RunRecord, model: Model) -> None:
    """Make this run's model the one version of its cell; a version that is this already stays."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run_id = run.info.run_id
    source = f"{run.info.artifact_uri}/model" if model.copied else model.folder.resolve().as_uri()
    there = False
    for version in client.search_model_versions(f"name = '{model.name}'"):
        if version.tags.get(CELL_TAG) == record.cell:
            same = (version.run_id, version.source, version.tags.get(CONTENT_TAG))
            if same == (run_id, source, model.content):
                client.update_model_version(model.name, version.version, card(record))
                there = True
            else:
                client.delete_model_version(model.name, version.version)
    if not there:
        if model.copied:
            client.log_artifacts(run_id, str(model.folder), "model")
        tags = {CELL_TAG: record.cell, CONTENT_TAG: model.content}
        client.create_model_version(model.name, source, run_id, tags=tags, description=card(record))
