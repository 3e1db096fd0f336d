"""The MLflow mirror, against a SQLite store in a temporary folder."""

import dataclasses

import pytest

from atu import tracking
from atu.metrics.registry import registry
from atu.tracking import CELL_TAG, DIGEST_TAG, RunRecord, flatten, metric_name, mirror, tracking_uri


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"a": {"b": {"c": 1}}, "d": "x"}, [("a.b.c", "1"), ("d", "x")]),
        ({"a": [1, 2], "b": None, "c": True}, [("a", "[1, 2]"), ("b", "null"), ("c", "true")]),
        ({"rate": 0.001, "empty": {}}, [("rate", "0.001")]),
    ],
)
def test_flatten(values, expected):
    """Keys joined by dots, strings as they are, everything else as JSON."""
    assert list(flatten(values)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rephrase/target_question_n/report", "rephrase/target_question_n/report"),
        ("cosine_quantile_0.5", "cosine_quantile_0.5"),
        ("a b-c", "a b-c"),
        ("a:b=c,d", "a_b_c_d"),
        (
            "report/m.ga.target.exact_match@own-1/report",
            "report/m.ga.target.exact_match_own-1/report",
        ),
        ("attack/lens.layer 2: cosine/report", "attack/lens.layer 2_ cosine/report"),
    ],
)
def test_metric_name(name, expected):
    assert metric_name(name) == expected


def test_no_two_metrics_share_a_name_in_mlflow():
    """An id's `@` is replaced; the store refuses the same key twice."""
    ids = list(registry())
    assert len({metric_name(name) for name in ids}) == len(ids) > 40


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "sqlite:///mlflow/mlflow.db"), ("", "sqlite:///mlflow/mlflow.db"), ("x://y", "x://y")],
)
def test_tracking_uri(monkeypatch, value, expected):
    if value is None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    assert tracking_uri() == expected


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """One database for all tests of this file; each has its own experiment."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/store.db")
        from mlflow import MlflowClient

        yield MlflowClient()


@pytest.fixture
def experiment(client, request):
    """The experiment's name and a function that lists its runs by cell."""
    name = request.node.name

    def runs():
        found = client.get_experiment_by_name(name)
        listed = client.search_runs([found.experiment_id])
        assert len({run.data.tags[CELL_TAG] for run in listed}) == len(listed)
        return {run.data.tags[CELL_TAG]: run for run in listed}

    return name, runs


def record(cell="m/Ada/ga/0", digest="d1", **own):
    values = {
        "params": {"seed": "0", "unlearn.steps": "4"},
        "metrics": {"unlearn/step/select": 4.0},
        "curves": [("unlearn.trace/loss", step, 1 / step) for step in (1, 2, 4)],
    }
    return RunRecord(cell, cell, digest, **(values | own))


def test_a_run_shows_the_whole_record(client, experiment, tmp_path):
    name, runs = experiment
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"png")
    assert mirror([record(files=[figure])], name) == {"made": 1, "kept": 0, "retired": 0}
    run = runs()["m/Ada/ga/0"]
    assert run.info.status == "FINISHED" and run.info.run_name == "m/Ada/ga/0"
    assert run.data.params == {"seed": "0", "unlearn.steps": "4"}
    assert run.data.metrics["unlearn/step/select"] == 4.0
    history = client.get_metric_history(run.info.run_id, "unlearn.trace/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (4, 0.25)]
    assert [f.path for f in client.list_artifacts(run.info.run_id, "report")] == [
        "report/figure.png"
    ]


def test_ids_of_metrics_and_names_of_attacks_arrive(experiment):
    """The store refuses some letters in names of metrics and parameters."""
    name, runs = experiment
    metrics = {"privacy/target.tofu_truth_ratio@paper-1/report": 0.5, "attack/a.layer 2: x": 0.25}
    mirror([record(metrics=metrics, params={"attack/lens.attacks.lens.k": "4"})], name)
    (run,) = runs().values()
    assert run.data.metrics["privacy/target.tofu_truth_ratio_paper-1/report"] == 0.5
    assert run.data.metrics["attack/a.layer 2_ x"] == 0.25
    assert run.data.params == {"attack/lens.attacks.lens.k": "4"}


def test_mirrored_twice_it_has_the_same_runs_once(experiment):
    name, runs = experiment
    records = [record(f"m/Ada/{method}/0") for method in ("ga", "npo")]
    assert mirror(records, name) == {"made": 2, "kept": 0, "retired": 0}
    first = {cell: run.info.run_id for cell, run in runs().items()}
    assert mirror(records, name) == {"made": 0, "kept": 2, "retired": 0}
    assert {cell: run.info.run_id for cell, run in runs().items()} == first
    assert set(first) == {"m/Ada/ga/0", "m/Ada/npo/0"}


def test_a_changed_cell_replaces_its_run_and_no_other(experiment):
    name, runs = experiment
    same = record("m/Ada/npo/0")
    mirror([record(), same], name)
    before = {cell: run.info.run_id for cell, run in runs().items()}
    changed = record(digest="d2", metrics={"unlearn/step/select": 2.0})
    assert mirror([changed, same], name) == {"made": 1, "kept": 1, "retired": 0}
    after = runs()
    assert after["m/Ada/ga/0"].data.tags[DIGEST_TAG] == "d2"
    assert after["m/Ada/ga/0"].data.metrics["unlearn/step/select"] == 2.0
    assert after["m/Ada/ga/0"].info.run_id != before["m/Ada/ga/0"]
    assert after["m/Ada/npo/0"].info.run_id == before["m/Ada/npo/0"]


def test_an_unfinished_run_is_replaced(client, experiment, tmp_path):
    """A job that was stopped while it wrote leaves a run with the right digest and not all of its
    content: it is RUNNING, and does not count."""
    name, runs = experiment
    with pytest.raises(OSError, match="missing"):
        mirror([record(files=[tmp_path / "missing.png"])], name)
    (unfinished,) = runs().values()
    assert unfinished.info.status == "RUNNING" and unfinished.data.tags[DIGEST_TAG] == "d1"
    assert mirror([record()], name) == {"made": 1, "kept": 0, "retired": 0}
    (finished,) = runs().values()
    assert finished.info.status == "FINISHED"
    assert finished.info.run_id != unfinished.info.run_id


def test_a_second_finished_run_of_a_cell_is_deleted(client, experiment):
    """Two mirrors that ran at once may both have written it."""
    name, runs = experiment
    mirror([record()], name)
    tracking._write(client, client.get_experiment_by_name(name).experiment_id, record())
    assert mirror([record()], name) == {"made": 0, "kept": 1, "retired": 0}
    assert len(runs()) == 1


def test_a_cell_that_left_the_grid_is_retired(client, experiment):
    """And a run that mirrors no cell stays: it is somebody else's."""
    name, runs = experiment
    mirror([record(), record("m/Ada/npo/0")], name)
    gone = runs()["m/Ada/npo/0"].info.run_id
    foreign = client.create_run(client.get_experiment_by_name(name).experiment_id).info.run_id
    assert mirror([record()], name) == {"made": 0, "kept": 1, "retired": 1}
    assert client.get_run(gone).info.lifecycle_stage == "deleted"
    assert client.get_run(foreign).info.lifecycle_stage == "active"
    client.delete_run(foreign)
    assert set(runs()) == {"m/Ada/ga/0"}


def test_more_runs_than_a_page_are_found(monkeypatch, experiment):
    """The store lists a thousand at a time; here two."""
    name, _ = experiment
    records = [record(f"m/Ada/{i}/0") for i in range(5)]
    mirror(records, name)
    monkeypatch.setattr(tracking, "PAGE", 2)
    assert mirror(records, name) == {"made": 0, "kept": 5, "retired": 0}


def test_long_records_are_logged_in_batches(client, experiment):
    """MLflow takes 100 parameters and 1000 metrics at once; 250 and 2100 arrive whole, a value of
    more than 6000 characters is cut."""
    name, runs = experiment
    params = {f"p{i}": "x" * 7000 for i in range(250)}
    curves = [("loss", step, float(step)) for step in range(2100)]
    mirror([dataclasses.replace(record(), params=params, curves=curves)], name)
    (run,) = runs().values()
    assert len(run.data.params) == 250 and set(map(len, run.data.params.values())) == {6000}
    assert run.data.metrics["loss"] == 2099.0
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 2100
