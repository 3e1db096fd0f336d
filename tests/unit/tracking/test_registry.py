"""Unlearned models in the registry, against a SQLite store in a temporary folder."""

import dataclasses
import shutil

import pytest
from mlflow import MlflowClient

from atu.tracking.mirror import mirror
from atu.tracking.records import RunRecord
from atu.tracking.registry import Model, card

RECORD = RunRecord(
    "m/Ada/ga/0", "GA", metrics={"2 worst form": 0.25, "align/x": 1.0}, description="leaks"
)
CARD = "## GA\n\n| | |\n|---|---|\n| worst form | 0.25 |\n\nleaks"


@pytest.fixture
def client(tmp_path, monkeypatch, new_database):
    shutil.copy(new_database, tmp_path / "store.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    return MlflowClient()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "results/model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return Model("world.m.ga", folder, "1", False)


def tracked(client, tmp_path, model, record=RECORD):
    """The versions in the registry after a mirror of this record."""
    mirror([record], "x", tmp_path / "results", {}, {record.cell: model})
    return client.search_model_versions(f"name = '{model.name}'")


def test_a_model_is_a_version_with_a_card(client, tmp_path, model):
    """It says where the weights are, belongs to its run, and nothing is copied."""
    (version,) = tracked(client, tmp_path, model)
    run = client.get_run(version.run_id)
    assert version.source == model.folder.as_uri() and version.description == CARD == card(RECORD)
    assert run.info.run_name == "GA" and client.list_artifacts(version.run_id) == []


def test_weights_are_copied_when_asked(client, tmp_path, model):
    (version,) = tracked(client, tmp_path, dataclasses.replace(model, copied=True))
    assert [f.path for f in client.list_artifacts(version.run_id, "model")] == ["model/config.json"]
    assert version.source.endswith(f"{version.run_id}/artifacts/model")


def test_a_version_stays_while_its_weights_do(client, tmp_path, model):
    """Other words change its card; other weights make another version, and the old one goes."""
    (first,) = tracked(client, tmp_path, model)
    renamed = dataclasses.replace(RECORD, description="forgets")
    (same,) = tracked(client, tmp_path, model, renamed)
    assert same.version == first.version and same.description.endswith("forgets")
    (other,) = tracked(client, tmp_path, dataclasses.replace(model, content="2"), renamed)
    assert other.version != first.version


def test_every_cell_has_a_version(client, tmp_path, model):
    tracked(client, tmp_path, model)
    second = dataclasses.replace(RECORD, cell="m/Ada/ga/1")
    assert len(tracked(client, tmp_path, model, second)) == 2
