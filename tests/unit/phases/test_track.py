import json

import pytest

from atu.artifacts import MANIFEST, Artifact
from atu.config import Track
from atu.phases import track
from atu.phases.report import FIGURES
from atu.phases.track import make_record
from atu.reporting.privacy import REFERENCE_AUC


@pytest.fixture
def reported(store):
    """A report's folder with stand-ins for its figures and its page."""
    files = {name: lambda path: path.write_text("x") for name in (*FIGURES, "report.html")}
    return store("report", "report", files=files)


@pytest.fixture
def mirrored(monkeypatch):
    """What reaches the store, which is not there: `(records, experiment)` of every call."""
    calls = []

    def mirror(records, experiment):
        calls.append((records, experiment))
        return {"made": len(records), "kept": 0, "retired": 0}

    monkeypatch.setattr(track, "mirror", mirror)
    return calls


def test_a_record_holds_everything_of_its_cell(make_cell, reported):
    record = make_record(make_cell("ga", memory=0.25), reported)
    assert record.cell == "m/Ada/ga/0"
    assert record.params == {
        "model": "m", "target": "Ada", "method": "ga", "seed": "0",
        "align.width": "8", "unlearn.methods.ga.loss": "ga",
    }  # fmt: skip
    assert record.metrics["align/layer_2.skill/held_out"] == 0.5
    assert record.metrics["unlearn/step/select"] == 4
    assert record.metrics["utility/generate/report"] == 0.9
    assert record.metrics["rephrase/target.worst.exact_match@own-1/report"] == 0.5
    assert record.metrics[f"privacy/{REFERENCE_AUC}/report"] == 0.25
    assert [path.name for path in record.files] == [*FIGURES, "report.html"]


def test_a_record_holds_its_cells_attacks(make_cell, reported):
    """Each under its own name, and the whole of every other phase."""
    record = make_record(make_cell("ga", attacks={"lens": 0.25, "context": 0.5}), reported)
    assert record.metrics["attack/lens.score/report"] == 0.25
    assert record.metrics["attack/context.score/report"] == 0.5
    assert record.metrics["align/layer_2.skill/held_out"] == 0.5
    assert record.cell == "m/Ada/ga/0"


def test_parameters_of_attacks_do_not_overwrite_each_other(make_cell, store, reported):
    """Both have a batch size."""
    cell = make_cell("ga")
    for name, size in (("lens", 8), ("context", 16)):
        cell[f"attack/{name}"] = store(
            f"a/{name}", "attack", {"attack": name}, params={"batch_size": size}
        )
    params = make_record(cell, reported).params
    assert params["attack/lens.batch_size"] == "8"
    assert params["attack/context.batch_size"] == "16"


def test_curves(make_cell, reported):
    """The trace by its running number, whatever the stage (steps 1 and 1 are points 1 and 2); the
    trajectory by its own step. Words, such as the stage's name, are no points."""
    curves = make_record(make_cell("ga"), reported).curves
    assert ("align.trace/loss", 1, 0.5) in curves and ("align.trace/loss", 2, 0.25) in curves
    assert ("unlearn.trace/loss", 2, 0.25) in curves
    assert ("unlearn.trajectory/exact_match_target", 4, 0.5) in curves
    assert not any(name.endswith(("/stage", "/step")) for name, *_ in curves)


def test_the_digest_follows_the_cell_and_the_report(make_cell, reported, store):
    """The same content elsewhere has the same digest; other content or another report has not."""
    digest = make_record(make_cell("ga"), reported).digest
    assert make_record(make_cell("ga", where="elsewhere"), reported).digest == digest
    others = [
        make_record(make_cell("ga", where="items", leaks=set()), reported),
        make_record(make_cell("ga", where="scores", scores={"fluency": 1.0}), reported),
        make_record(make_cell("ga", 1, where="seed"), reported),
        make_record(make_cell("ga", where="memory", memory=0.75), reported),
        make_record(make_cell("ga", where="lens", attacks={"lens": 0.0}), reported),
        make_record(make_cell("ga", where="lens1", attacks={"lens": 1.0}), reported),
    ]
    files = {name: lambda path: path.write_text("y") for name in (*FIGURES, "report.html")}
    others.append(make_record(make_cell("ga"), store("report2", "report", files=files)))
    assert len({digest, *(other.digest for other in others)}) == 8


@pytest.fixture
def tracked(tmp_path, make_cell, reported):
    """A function that tracks the original and GA and opens the receipt."""

    def run(where="track"):
        cells = [make_cell(method, attacks={"lens": 0.5}) for method in ("none", "ga")]
        manifest = tmp_path / where / MANIFEST
        track.run(manifest, Track(experiment="world"), report=reported, cells=cells)
        return Artifact.open(manifest, "track")

    return run


def test_every_cell_is_mirrored(mirrored, tracked):
    artifact = tracked()
    ((records, experiment),) = mirrored
    assert experiment == "world"
    assert [record.cell for record in records] == ["m/Ada/none/0", "m/Ada/ga/0"]
    receipt = json.loads(artifact.file("runs.json").read_text(encoding="utf-8"))
    assert receipt == {record.cell: record.digest for record in records}
    assert artifact.metrics() == {"track/runs/all": 2}
    assert set(artifact.manifest["inputs"]) == {"report"} | {
        f"{phase}/{number}"
        for phase in ("align", "unlearn", "rephrase", "utility", "privacy", "attack/lens")
        for number in (0, 1)
    }


def test_the_receipt_is_the_same_wherever_the_runs_went(mirrored, tracked):
    """It holds nothing of the store: tracked twice, the second time with nothing to do, it has the
    same bytes."""
    first, second = tracked("first"), tracked("second")
    assert (first.folder / MANIFEST).read_bytes() == (second.folder / MANIFEST).read_bytes()


def test_a_store_that_fails_leaves_no_receipt(monkeypatch, tmp_path, tracked):
    def fail(*_):
        raise ConnectionError("no store")

    monkeypatch.setattr(track, "mirror", fail)
    with pytest.raises(ConnectionError):
        tracked()
    assert not (tmp_path / "track").exists()
