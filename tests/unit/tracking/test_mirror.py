"""The MLflow mirror, against a SQLite store in a temporary folder."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from mlflow import MlflowClient

from atu.errors import TrackingError
from atu.tracking import filling
from atu.tracking import mirror as tracking
from atu.tracking.mirror import CELL_TAG, DIGEST_TAG
from atu.tracking.records import RunRecord


@pytest.fixture(scope="module")
def client(tmp_path_factory, new_database):
    """One database for all tests of this file; each has its own experiment."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(new_database, folder / "store.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/store.db")
        yield MlflowClient()


@pytest.fixture
def mirror(tmp_path):
    """`tracking.mirror` for this test's results; returns what was not 0."""

    def run(records, name, results=tmp_path):
        done = tracking.mirror(records, name, results)
        return {key: count for key, count in done.items() if count}

    return run


@pytest.fixture(params=["database", "server"])
def way(request, monkeypatch):
    """Into the database's tables, or through the client, as to a server."""
    if request.param == "server":
        monkeypatch.setattr(filling, "is_database", lambda _: False)
    return request.param


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


def record(cell="m/Ada/ga/0", **own):
    values = {
        "params": {"seed": "0", "unlearn.steps": "4"},
        "metrics": {"unlearn/step/select": 4.0},
        "curves": [("unlearn.trace/loss", step, 1 / step) for step in (1, 2, 4)],
    }
    return RunRecord(cell, cell, **(values | own))


LONG = [("loss", step, 1 / (step + 1)) for step in range(1500)]
"""More than one batch of points."""


def test_a_run_shows_the_whole_record(client, experiment, tmp_path, mirror, way):
    name, runs = experiment
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"png")
    assert mirror([record(files=[figure])], name) == {"made": 1}
    run = runs()["m/Ada/ga/0"]
    assert run.info.status == "FINISHED" and run.info.run_name == "m/Ada/ga/0"
    assert run.info.end_time == run.info.start_time
    assert run.data.params == {"seed": "0", "unlearn.steps": "4"}
    assert run.data.metrics == {"unlearn/step select": 4.0, "unlearn.trace/loss": 0.25}
    history = client.get_metric_history(run.info.run_id, "unlearn.trace/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (4, 0.25)]
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["figure.png"]


ODD = [("a", 2, 1.0), ("a", 1, 3.0), ("a", 2, 0.5), ("b", 0, float("nan")), ("a", 2, 1.0)]
"""Out of order, twice the same, two values at one step, and no number."""


def test_both_ways_write_the_same(client, experiment, monkeypatch, mirror):
    """What the client reads of a run that went into the tables is what it reads of one that it has
    written itself, at MLflow's upgrade too."""
    name, runs = experiment
    mirror([record("direct", curves=ODD)], name)
    monkeypatch.setattr(filling, "is_database", lambda _: False)
    mirror([record("direct", curves=ODD), record("client", curves=ODD)], name)
    direct, through = (runs()[cell] for cell in ("direct", "client"))
    assert direct.data.metrics.pop("b") != through.data.metrics.pop("b")  # nan
    assert direct.data.metrics == through.data.metrics == {"unlearn/step select": 4.0, "a": 1.0}
    assert direct.data.params == through.data.params
    assert [
        [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "a")]
        for run in (direct, through)
    ] == [[(1, 3.0), (2, 0.5), (2, 1.0)]] * 2
    assert direct.info.status == through.info.status == "FINISHED"


def test_metrics_are_listed_as_they_are_given(experiment, mirror):
    """Headlines first: MLflow lists a run's metrics in the order in which they were written."""
    name, runs = experiment
    mirror([record(metrics={"9": 1.0, "1": 2.0, "5": 0.0}, curves=[("0", 1, 1.0)])], name)
    (run,) = runs().values()
    assert list(run.data.metrics) == ["9", "1", "5", "0"]


def test_answers_are_a_table(client, experiment, tmp_path, mirror):
    """Of the `report` split, with hidden characters as people may see them; no number is none."""
    name, runs = experiment
    rows = {"query": ["Q?", "R?", "S?"], "output": ["a\u202e", "b", "c"], "answer": ["A", "B", "C"],
        "score": [1.0, None, 0.0], "form": ["cloze"] * 3, "role": ["target"] * 3,
        "split": ["report", "report", "select"]}  # fmt: skip
    pl.DataFrame(rows).write_parquet(tmp_path / "items.parquet")
    mirror([record(items=tmp_path / "items.parquet")], name)
    (run,) = runs().values()
    path = Path(client.download_artifacts(run.info.run_id, "answers.json"))
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "columns": ["question", "answer", "gold", "score", "form", "role"],
        "data": [
            ["Q?", r"a\u202e", "A", 1.0, "cloze", "target"],
            ["R?", "b", "B", None, "cloze", "target"],
        ],
    }
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "answers.json", "type": "table"}
    ]


def test_ids_of_metrics_and_names_of_attacks_arrive(experiment, mirror):
    """The store refuses some letters in names of metrics and parameters."""
    name, runs = experiment
    metrics = {"privacy/target.tofu_truth_ratio@paper-1/report": 0.5, "attack/a.layer 2: x": 0.25}
    mirror([record(metrics=metrics, params={"attack/lens.attacks.lens.k": "4"})], name)
    (run,) = runs().values()
    assert run.data.metrics["privacy/target.tofu_truth_ratio_paper-1"] == 0.5
    assert run.data.metrics["attack/a.layer 2_ x"] == 0.25
    assert run.data.params == {"attack/lens.attacks.lens.k": "4"}


def test_mirrored_twice_it_has_the_same_runs_once(experiment, mirror):
    name, runs = experiment
    records = [record(f"m/Ada/{method}/0") for method in ("ga", "npo")]
    assert mirror(records, name) == {"made": 2}
    first = {cell: run.info.run_id for cell, run in runs().items()}
    assert mirror(records, name) == {"kept": 2}
    assert {cell: run.info.run_id for cell, run in runs().items()} == first
    assert set(first) == {"m/Ada/ga/0", "m/Ada/npo/0"}


def test_a_changed_cell_replaces_its_run_and_no_other(experiment, mirror):
    name, runs = experiment
    same = record("m/Ada/npo/0")
    mirror([record(), same], name)
    before = {cell: run.info.run_id for cell, run in runs().items()}
    changed = record(metrics={"unlearn/step/select": 2.0})
    assert mirror([changed, same], name) == {"made": 1, "kept": 1}
    after = runs()
    assert after["m/Ada/ga/0"].data.tags[DIGEST_TAG] == changed.digest
    assert after["m/Ada/ga/0"].data.metrics["unlearn/step select"] == 2.0
    assert after["m/Ada/ga/0"].info.run_id != before["m/Ada/ga/0"]
    assert after["m/Ada/npo/0"].info.run_id == before["m/Ada/npo/0"]


def points(client, run):
    """Every point of a run, in no order."""
    return Counter(
        (key, point.step, point.value)
        for key in client.get_run(run.info.run_id).data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    )


@pytest.mark.parametrize("upto", [0, 1, 2, 3])
def test_a_run_that_was_broken_off_is_completed(client, experiment, monkeypatch, mirror, upto):
    """Of the server's four calls `upto` come through. The run is RUNNING and does not count as
    whole; the next time the same run gets the rest, and nothing twice."""
    name, runs = experiment
    monkeypatch.setattr(filling, "is_database", lambda _: False)
    left = [upto]

    def breaking(real):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise ConnectionError("gone")
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for method in ("log_batch", "set_terminated"):
            patch.setattr(MlflowClient, method, breaking(getattr(MlflowClient, method)))
        with pytest.raises(TrackingError, match="gone"):
            mirror([record(curves=LONG)], name)
    (unfinished,) = runs().values()
    assert unfinished.info.status == "RUNNING"
    assert mirror([record(curves=LONG)], name) == {"completed": 1}
    (finished,) = runs().values()
    assert finished.info.status == "FINISHED"
    assert finished.info.run_id == unfinished.info.run_id
    expected = [("loss", step, value) for _, step, value in LONG]
    assert points(client, finished) == Counter([("unlearn/step select", 0, 4.0), *expected])


def test_of_a_run_that_was_broken_off_a_database_has_nothing(
    client, experiment, monkeypatch, mirror
):
    """All rows come in one transaction: when the parameters fail, the points are gone too."""
    name, runs = experiment
    real = filling._rows

    def breaking(session, table, *rows):
        if table.__tablename__ == "params":
            raise ConnectionError("gone")
        real(session, table, *rows)

    with monkeypatch.context() as patch:
        patch.setattr(filling, "_rows", breaking)
        with pytest.raises(TrackingError, match="gone"):
            mirror([record(curves=LONG)], name)
    (unfinished,) = runs().values()
    assert unfinished.info.status == "RUNNING" and points(client, unfinished) == Counter()
    assert mirror([record(curves=LONG)], name) == {"completed": 1}
    (finished,) = runs().values()
    assert finished.info.status == "FINISHED" and len(points(client, finished)) == 1501


def test_a_run_that_was_broken_off_with_other_content_is_replaced(client, experiment, mirror):
    name, runs = experiment
    mirror([record("m/Ada/npo/0")], name)
    experiment_id = client.get_experiment_by_name(name).experiment_id
    old = tracking._create_run(client, experiment_id, record(params={"seed": "1"}))
    assert mirror([record(), record("m/Ada/npo/0")], name) == {"made": 1, "kept": 1}
    assert runs()["m/Ada/ga/0"].info.run_id != old.info.run_id


def test_a_request_that_was_sent_twice_leaves_one_run(client, experiment, monkeypatch, mirror):
    """A slow server may make a run whose answer came too late, and one more when asked again."""
    name, runs = experiment
    real = MlflowClient.create_run

    def twice(*args, **kwargs):
        real(*args, **kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_run", twice)
    assert mirror([record()], name) == {"made": 1}
    (run,) = runs().values()
    assert run.info.status == "FINISHED"


def test_a_second_finished_run_of_a_cell_is_deleted(client, experiment, mirror):
    """Two mirrors that ran at once may both have written it."""
    name, runs = experiment
    mirror([record()], name)
    experiment_id = client.get_experiment_by_name(name).experiment_id
    client.set_terminated(tracking._create_run(client, experiment_id, record()).info.run_id)
    assert mirror([record()], name) == {"kept": 1}
    assert len(runs()) == 1


def test_more_runs_than_are_written_at_once(monkeypatch, experiment, mirror):
    name, runs = experiment
    monkeypatch.setattr(tracking, "AT_ONCE", 2)
    mirror([record(f"m/Ada/{i}/0", metrics={"1": float(i)}) for i in range(5)], name)
    assert {run.data.metrics["1"] for run in runs().values()} == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert {run.info.status for run in runs().values()} == {"FINISHED"}


def test_labels_follow_without_a_new_run(experiment, mirror):
    """Names and verdicts depend on the other runs; the run and its address stay."""
    name, runs = experiment
    mirror([record(description="leaks", colour="#000000")], name)
    (first,) = runs().values()
    renamed = dataclasses.replace(record(), name="GA · seed 0", description="forgets")
    assert mirror([renamed], name) == {"kept": 1}
    (run,) = runs().values()
    assert run.info.run_id == first.info.run_id and run.info.run_name == "GA · seed 0"
    assert run.data.tags["mlflow.note.content"] == "forgets"
    assert run.data.tags["mlflow.runColor"] == "#000000"


def test_an_experiment_has_the_tags_of_its_view(client, experiment, mirror, tmp_path):
    """From the first time on; another view replaces them, and nothing else."""
    name, _ = experiment
    for view in ({"a": "1", "b": "1"}, {"a": "2"}):
        tracking.mirror([record()], name, tmp_path, view)
        tags = client.get_experiment_by_name(name).tags
        assert {"b": "1"} | view == {key: tags[key] for key in ("a", "b")}


def test_a_cell_that_left_the_grid_is_retired(client, experiment, mirror):
    """And a run that mirrors no cell stays: it is somebody else's."""
    name, runs = experiment
    mirror([record(), record("m/Ada/npo/0")], name)
    gone = runs()["m/Ada/npo/0"].info.run_id
    foreign = client.create_run(client.get_experiment_by_name(name).experiment_id).info.run_id
    assert mirror([record()], name) == {"kept": 1, "retired": 1}
    assert client.get_run(gone).info.lifecycle_stage == "deleted"
    assert client.get_run(foreign).info.lifecycle_stage == "active"
    client.delete_run(foreign)
    assert set(runs()) == {"m/Ada/ga/0"}


def test_more_runs_than_a_page_are_found(monkeypatch, experiment, mirror):
    """The store lists a thousand at a time; here two."""
    name, _ = experiment
    records = [record(f"m/Ada/{i}/0") for i in range(5)]
    mirror(records, name)
    monkeypatch.setattr(tracking, "PAGE", 2)
    assert mirror(records, name) == {"kept": 5}


def test_long_records_are_logged_in_batches(client, experiment, mirror, way):
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


def test_whose_run_it_is_is_shown(monkeypatch, experiment, mirror):
    name, runs = experiment
    monkeypatch.setattr(tracking.getpass, "getuser", lambda: "ada")
    mirror([record(description="| a |")], name)
    (run,) = runs().values()
    assert run.info.user_id == run.data.tags["mlflow.user"] == "ada"
    assert run.data.tags["mlflow.note.content"] == "| a |"


def test_a_user_without_a_name(monkeypatch, experiment, mirror):
    """Containers run under numbers that no name belongs to."""
    name, runs = experiment

    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(tracking.getpass, "getuser", nobody)
    mirror([record()], name)
    assert [run.data.tags["mlflow.user"] for run in runs().values()] == ["unknown"]


def test_the_first_record_stands_on_top(client, experiment, mirror):
    """The list begins with the newest run."""
    name, _ = experiment
    mirror([record(f"m/Ada/{i}/0") for i in range(3)], name)
    listed = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert [run.info.run_name for run in listed] == [f"m/Ada/{i}/0" for i in range(3)]


def test_an_experiment_is_one_folders_mirror(experiment, mirror, tmp_path):
    """Else two people with the same parameters would retire each other's runs for ever."""
    name, runs = experiment
    mirror([record()], name)
    with pytest.raises(
        TrackingError, match=r"mirrors \w+:.*, not \w+:.*/other, .*track.experiment"
    ):
        mirror([record("m/Bob/ga/0")], name, tmp_path / "other")
    assert set(runs()) == {"m/Ada/ga/0"}


def test_an_experiment_without_an_owner_is_taken(client, experiment, mirror):
    name, runs = experiment
    client.create_experiment(name)
    assert mirror([record()], name) == {"made": 1}
    assert set(runs()) == {"m/Ada/ga/0"}


def test_a_deleted_experiment_comes_back(client, experiment, mirror):
    """With its runs: nothing is written twice."""
    name, runs = experiment
    mirror([record()], name)
    client.delete_experiment(client.get_experiment_by_name(name).experiment_id)
    assert mirror([record()], name) == {"kept": 1}
    assert set(runs()) == {"m/Ada/ga/0"}


def test_an_experiment_that_somebody_else_just_made(monkeypatch, experiment, mirror):
    """Looked for in vain, and there when it is to be made."""
    name, runs = experiment
    mirror([record()], name)
    real = MlflowClient.get_experiment_by_name
    answers = [lambda *_: None, real]
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", lambda *args: answers.pop(0)(*args))
    assert mirror([record()], name) == {"kept": 1}
    monkeypatch.undo()
    assert set(runs()) == {"m/Ada/ga/0"}
