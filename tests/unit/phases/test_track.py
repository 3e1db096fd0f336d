import json

import pytest

from atu.config.sections import Track
from atu.errors import HIDDEN, ArtifactError, TrackingError
from atu.phases import track
from atu.phases.track import (
    CELLS,
    VERDICTS,
    make_record,
    make_records,
    models_of,
    report_record,
    told,
    view_of,
)
from atu.reporting.names import FIGURES
from atu.reporting.privacy import REFERENCE_AUC
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.writer import only_writer
from atu.tracking.registry import Model

NAMES = {"none": "Original", "ga": "Gradient ascent", "npo_retain": "NPO retain"}
TRACK = Track(experiment="world", registered=[], copy_weights=False)
HEADLINES = """\
model,target,method,seed,target_questions,worst_form,neighbours,utility,distance,collapsed
m,Ada,none,0,1.0,1.0,0.875,0.5,,0
m,Ada,ga,0,0.28571,0.5,,0.25,,1
"""


@pytest.fixture
def report_on(store):
    """A function that writes a report's folder, made from these cells, with stand-ins for its
    figures, its table and its page."""

    def write(*cells, name="report", text="x"):
        files = {file: lambda path: path.write_text(text) for file in (*FIGURES, "report.html")} | {
            "table.md": lambda path: path.write_text("| 1 [0, 1] (2) |"),
            CELLS: lambda path: path.write_text(HEADLINES),
            VERDICTS: lambda path: path.write_text('{"m.ga": {"words": "leaks"}}'),
        }
        inputs = {f"{phase}/{n}": a for n, cell in enumerate(cells) for phase, a in cell.items()}
        return store(name, "report", {"experiment": "x"}, files=files, inputs=inputs)

    return write


@pytest.fixture
def mirrored(monkeypatch):
    """What reaches the store, which is not there: records, experiment and results of every call."""
    calls = []

    def mirror(*args):
        calls.append(args)
        return {"made": len(args[0]), "completed": 0, "kept": 0, "retired": 0}

    monkeypatch.setattr(track, "mirror", mirror)
    return calls


def test_a_record_holds_everything_of_its_cell(make_cell):
    record = make_record(make_cell("ga", memory=0.25), {"worst_form": 0.5, "collapsed": 0.0})
    assert record.cell == "m/Ada/ga/0"
    assert list(record.metrics)[:2] == ["2 worst form", "6 COLLAPSED"]
    assert record.items.name == "items.parquet"
    assert record.params == {
        "model": "m", "target": "Ada", "method": "ga", "seed": "0",
        "align.width": "8", "unlearn.method.loss": "ga",
    }  # fmt: skip
    assert record.metrics["align/layer_2.skill/held_out"] == 0.5
    assert record.metrics["unlearn/step/select"] == 4
    assert record.metrics["utility/generate/report"] == 0.9
    assert record.metrics["rephrase/target.worst.exact_match@own-2/report"] == 0.5
    assert record.metrics[f"privacy/{REFERENCE_AUC}/report"] == 0.25
    assert record.files == []


def test_a_name_cannot_hide_anything_in_a_run(make_cell):
    """Parameters refuse most hidden characters; a name may still hold a line separator."""
    record = make_record(make_cell("ga", target="A\u2028b"), {})
    assert record.params["target"] == r"A\u2028b"
    assert not HIDDEN.search(record.cell)


def test_the_report_is_a_run_of_its_own(report_on):
    """With the figures once, not in every run; the table is its description."""
    record = report_record(report_on())
    assert [path.name for path in record.files] == [*FIGURES, "report.html"]
    assert record.cell == record.name == "report" and record.description == r"| 1 \[0, 1] (2) |"
    assert report_record(report_on(name="same")).digest == record.digest
    assert report_record(report_on(name="other", text="y")).digest != record.digest


def test_a_record_holds_its_cells_attacks(make_cell):
    """Each under its own name, and the whole of every other phase."""
    record = make_record(make_cell("ga", attacks={"lens": 0.25, "context": 0.5}), {})
    assert record.metrics["attack/lens.score/report"] == 0.25
    assert record.metrics["attack/context.score/report"] == 0.5
    assert record.metrics["align/layer_2.skill/held_out"] == 0.5
    assert record.cell == "m/Ada/ga/0"


def test_parameters_of_attacks_do_not_overwrite_each_other(make_cell, store):
    """Both have a batch size, and so has what each attack itself is called with."""
    cell = make_cell("ga")
    for name, size in (("lens", 8), ("context", 16)):
        params = {"batch_size": size, "attacks": {name: {"batch_size": 2 * size}}}
        cell[f"attack/{name}"] = store(f"a/{name}", "attack", {"attack": name}, params=params)
    params = make_record(cell, {}).params
    assert params["attack/lens.batch_size"] == "8"
    assert params["attack/lens.attack.batch_size"] == "16"
    assert params["attack/context.batch_size"] == "16"
    assert params["attack/context.attack.batch_size"] == "32"


def test_methods_share_the_names_of_their_parameters(make_cell):
    """So that the loss is one column of the list of runs; several entries keep their names."""
    params = [make_record(make_cell(method), {}).params for method in ("ga", "npo")]
    assert [p["unlearn.method.loss"] for p in params] == ["ga", "npo"]
    both = {"phase": "unlearn", "params": {"methods": {"ga": {}, "npo": {}}}}
    assert track.comparable(both) == both["params"]


def test_curves(make_cell):
    """The trace by its running number, whatever the stage (steps 1 and 1 are points 1 and 2); the
    trajectory by its own step, under the headline's name where it is one. Words, such as the
    stage's name, are no points."""
    curves = make_record(make_cell("ga"), {}).curves
    assert ("unlearn.trace/loss", 1, 0.5) in curves and ("unlearn.trace/loss", 2, 0.25) in curves
    assert ("trajectory/target questions", 4, 0.5) in curves
    assert ("trajectory/score_other", 4, 0.5) in curves
    assert not any(name.endswith(("/stage", "/step")) for name, *_ in curves)


def test_an_alignment_is_shown_where_it_was_read(make_cell, store):
    """All cells of a seed have the folder, and it would be one curve many times."""
    cell = make_cell("ga")
    assert not any(name.startswith("align") for name, *_ in make_record(cell, {}).curves)
    cell["unlearn"] = store("own", "unlearn", inputs={"align": cell["align"]})
    assert ("align.trace/loss", 2, 0.25) in make_record(cell, {}).curves


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rephrase/target.worst.exact_match@own-2/report", True),
        ("rephrase/target.worst.exact_match@own-2/select", False),
        ("unlearn/step/select", True),
        ("align/layer_2.skill/held_out", True),
        ("rephrase/target.question.n/report", False),
        ("utility/generate_n/report", False),
        ("privacy/all.plan/report", True),
    ],
)
def test_what_a_run_shows(name, shown):
    """Of what chose the checkpoint the choice alone, and no number of items."""
    assert told(name) is shown


def test_the_digest_follows_the_cell_and_nothing_else(make_cell):
    """The same content elsewhere has the same digest, whatever the report says of other cells; of
    other content it differs."""
    digest = make_record(make_cell("ga"), {}).digest
    assert make_record(make_cell("ga", where="elsewhere"), {}).digest == digest
    others = [
        make_record(make_cell("ga", where="scores", scores={"fluency": 1.0}), {}),
        make_record(make_cell("ga", 1, where="seed"), {}),
        make_record(make_cell("ga", where="memory", memory=0.75), {}),
        make_record(make_cell("ga", where="lens", attacks={"lens": 0.0}), {}),
        make_record(make_cell("ga", where="lens1", attacks={"lens": 1.0}), {}),
    ]
    assert len({digest, *(other.digest for other in others)}) == 6


@pytest.fixture
def cells(make_cell):
    return [make_cell(method, attacks={"lens": 0.5}) for method in ("none", "ga")]


@pytest.fixture
def tracked(tmp_path, cells, report_on):
    """A function that tracks the original and GA and opens the receipt; `report` is made from them
    unless given."""

    def run(where="track", report=None):
        manifest = tmp_path / where / MANIFEST
        track.run(manifest, TRACK, report=report or report_on(*cells), cells=cells, names=NAMES)
        return Artifact.open(manifest, "track")

    return run


def test_every_cell_and_the_report_are_mirrored(mirrored, tracked, tmp_path):
    artifact = tracked()
    ((records, experiment, results, view, models),) = mirrored
    assert view == view_of(records) and models == {}
    assert (experiment, results) == ("world", tmp_path)
    assert [record.cell for record in records] == ["report", "m/Ada/none/0", "m/Ada/ga/0"]
    receipt = json.loads(artifact.file("runs.json").read_text(encoding="utf-8"))
    assert receipt == {record.cell: record.digest for record in records}
    assert artifact.metrics() == {"track/runs/all": 3}
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


def test_what_the_store_did_is_said_without_the_password(mirrored, tracked, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://bob:hunter2@h")
    tracked()
    said = capfd.readouterr().err
    assert "3 runs written, 0 completed" in said and said.endswith("at http://bob:***@h\n")


def test_a_store_that_fails_leaves_no_receipt(monkeypatch, tmp_path, tracked):
    def fail(*_):
        raise TrackingError("no store")

    monkeypatch.setattr(track, "mirror", fail)
    with pytest.raises(TrackingError):
        tracked()
    assert not (tmp_path / "track").exists()


@pytest.mark.parametrize("phase", ["unlearn", "privacy", "attack/lens"])
def test_a_folder_that_the_report_does_not_know_is_not_mirrored(
    mirrored, tracked, cells, report_on, make_cell, phase
):
    """A job replaced it after the report was made: numbers of two states in one run."""
    older = [dict(cell) for cell in cells]
    older[1][phase] = make_cell("ga", 7, where="older", attacks={"lens": 0.25})[phase]
    with pytest.raises(
        ArtifactError, match=f"{cells[1][phase].folder}: not the one that .*/report"
    ):
        tracked(report=report_on(*older))
    assert mirrored == []


def test_a_trace_that_is_replaced_while_it_is_read_is_refused(mirrored, tracked, cells):
    """Half of it is no trace."""
    path = cells[1]["unlearn"].folder / "trace.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match=r"trace\.jsonl: truncated or altered"):
        tracked()
    assert mirrored == []


def test_two_at_once_are_refused(mirrored, tracked, tmp_path):
    """The second mirrors nothing; when the first is done it has its turn."""
    with only_writer(tmp_path / "track"):
        with pytest.raises(ArtifactError, match="is writing track; wait for it"):
            tracked()
        assert mirrored == []
    tracked()
    assert len(mirrored) == 1


def test_names_start_with_what_differs(make_cell, report_on):
    """The method, then its seed and target where there are several of them; never the one model."""
    one = [make_cell("none"), make_cell("npo_retain")]
    assert [r.name for r in make_records(report_on(*one), one, NAMES)] == [
        "report", "Original", "NPO retain",
    ]  # fmt: skip
    many = [make_cell("ga", 0), make_cell("ga", 1), make_cell("ga", 0, target="Bob\u202e")]
    assert [r.name for r in make_records(report_on(*many, name="many"), many, NAMES)][1:] == [
        "Gradient ascent · seed 0 · Ada", "Gradient ascent · seed 1 · Ada",
        r"Gradient ascent · seed 0 · Bob\u202e",
    ]  # fmt: skip


def test_headlines_come_from_the_report(cells, report_on):
    """To three digits, which is what a list of runs has room for; what has no number is left out.
    The verdict stands first in the description, then where the page is."""
    report = report_on(*cells)
    _, none, ga = make_records(report, cells, NAMES)
    assert ga.metrics["1 target questions"] == 0.286 and ga.metrics["6 COLLAPSED"] == 1
    assert {"3 neighbours", "5 distance"}.isdisjoint(ga.metrics)
    assert none.metrics["3 neighbours"] == 0.875
    where = f"/{report.folder.parent.name}/report.html"
    told = f"leaks\n\n[The page of all runs]({where}), if `make ui` serves this; else "
    assert ga.description.startswith(f"{told}`{report.folder}/report.html`, or")
    assert none.description.startswith("[The page") and none.colour != ga.colour


def test_the_view_is_that_of_these_runs(cells, report_on, make_cell):
    """Columns are the headlines that some run has; by target only where there are several."""
    tags = view_of(make_records(report_on(*cells), cells, NAMES))
    assert not any("5 distance" in tag or "groupBy" in tag for tag in tags.values())
    assert any("3 neighbours" in tag for tag in tags.values())
    two = [*cells, make_cell("ga", target="Bob")]
    tags = view_of(make_records(report_on(*two, name="two"), two, NAMES))
    assert [key for key, tag in tags.items() if "groupBy" in tag] == [
        "mlflow.sharedViewState.atu-headlines"
    ]


def test_models_are_registered_by_name_and_only_when_asked(cells, store):
    """One model per method, a version per cell; the whole folder is checked before."""
    files = {"model/weights": lambda path: path.write_bytes(b"w")}
    ga = store("weights", "unlearn", {"method": "ga"}, files=files)
    cells[1]["unlearn"] = ga
    asked = TRACK.model_copy(update={"registered": ["ga"]})
    assert models_of(TRACK, cells) == {}
    assert models_of(asked, cells) == {
        "m/Ada/ga/0": Model("world.m.ga", ga.folder / "model", ga.digest, False)
    }
    (ga.folder / "model/weights").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"altered.*make weights"):
        models_of(asked, cells)
