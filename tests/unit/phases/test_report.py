import dataclasses

import polars as pl
import pytest

from atu.artifacts import MANIFEST, Artifact
from atu.errors import ArtifactError
from atu.phases import report
from atu.phases.report import FIGURES, Inputs


@pytest.fixture
def make_inputs(make_cell, store, ga_leaks):
    """A function that writes the cells of the original and of GA, and the full model's folder.
    `select` is what every item of the `select` split scored, `leaks` what GA answers besides."""

    def make(where="results", *, select=0.5, leaks=(), scores=None, methods=("none", "ga")):
        cells = [
            make_cell(
                method, where=where, select=select,
                leaks=None if method == "none" else ga_leaks | set(leaks),
                scores=None if method == "none" else scores,
            )
            for method in methods
        ]  # fmt: skip
        known = dict.fromkeys(["known_question", "general_question"], 0.9)
        full = store(
            f"{where}/pretrain", "pretrain", {"oracle_of": None},
            metrics={f"pretrain/exact_match_{k}/held_out": v for k, v in known.items()},
        )  # fmt: skip
        columns = {name: [cell[name] for cell in cells] for name in cells[0]}
        columns["align"] = columns["align"][:1]
        return Inputs(pretrain=[full], **columns)

    return make


@pytest.fixture
def reported(tmp_path, report_section):
    """A function that reports and opens the folder."""

    def run(inputs, where="report"):
        manifest = tmp_path / where / MANIFEST
        report.run(manifest, report_section, "x", inputs)
        return Artifact.open(manifest, "report")

    return run


def page(artifact):
    return artifact.file("report.html").read_text(encoding="utf-8")


def test_files(reported, make_inputs):
    assert sorted(reported(make_inputs()).manifest["artifacts"]) == sorted(
        [
            *FIGURES, "forms.csv", "metrics.json", "report.html", "table.csv", "table.md",
            "trajectories.csv",
        ]
    )  # fmt: skip


def test_metrics(reported, make_inputs):
    """GA as in tests/unit/reporting: nothing of the target's questions, half of its worst forms,
    half of the neighbours."""
    metrics = reported(make_inputs()).metrics()
    found = {
        key: metrics[f"report/m.ga.{key}_exact_match/report"]
        for key in ("target", "worst_form", "neighbour", "other", "general")
    }
    assert found == {
        "target": 0.0, "worst_form": 0.5, "neighbour": 0.5, "other": 1.0, "general": 1.0,
    }  # fmt: skip
    assert metrics["report/m.none.target_exact_match/report"] == 1.0
    assert metrics["report/m.ga.generate/report"] == 0.9


def test_the_table_as_csv(reported, make_inputs):
    """One line per method, with interval and count of every column and the utility beside it."""
    table = pl.read_csv(reported(make_inputs()).file("table.csv"))
    assert table["method"].to_list() == ["none", "ga"]
    assert {"target", "target_low", "target_high", "target_n", "generate", "collapsed"} <= set(
        table.columns
    )


def test_the_same_cells_give_the_same_bytes(reported, make_inputs):
    """Elsewhere and again: tables, figures and page."""
    first = reported(make_inputs("first"), "report1")
    second = reported(make_inputs("second"), "report2")
    assert (first.folder / MANIFEST).read_bytes() == (second.folder / MANIFEST).read_bytes()


def test_all_numbers_come_from_the_report_split(reported, make_inputs):
    """Poison in every `select` item changes no byte of any file; one `report` item does."""
    clean = reported(make_inputs("clean"), "report1")
    poisoned = reported(make_inputs("poisoned", select=-1e6), "report2")
    assert clean.manifest["inputs"] != poisoned.manifest["inputs"]
    assert clean.manifest["artifacts"] == poisoned.manifest["artifacts"]
    other = reported(make_inputs("other", leaks=[("Ada/pet", "question")]), "report3")
    assert clean.manifest["artifacts"] != other.manifest["artifacts"]


@pytest.mark.parametrize("phase", ["rephrase", "utility", "unlearn"])
def test_cells_that_differ_are_refused(tmp_path, reported, make_inputs, phase):
    """One phase lacks a cell that the others have: no comparison, and no folder."""
    inputs = make_inputs()
    shorter = dataclasses.replace(inputs, **{phase: getattr(inputs, phase)[:1]})
    with pytest.raises(ArtifactError, match=r"report: .* and unlearn cover different cells"):
        reported(shorter)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("collapsed", [0.0, 1.0])
def test_a_collapsed_method_is_flagged(reported, make_inputs, collapsed):
    """In the page's row, in the table for the README and among the metrics."""
    artifact = reported(make_inputs(scores={"collapsed": collapsed}))
    assert ('<span class="collapsed">COLLAPSED</span>' in page(artifact)) is bool(collapsed)
    table = artifact.file("table.md").read_text(encoding="utf-8")
    assert table.rstrip().endswith("| yes |" if collapsed else "| no |")
    assert artifact.metrics()["report/m.ga.collapsed/report"] == collapsed


def test_the_headline_says_what_it_cost(reported, make_inputs):
    """Against the original, and against the oracle where there is one."""
    text = page(reported(make_inputs()))
    assert (
        "ga: held-out questions about the target 1.00 → 0.00; in the worst form 1.00 → 0.50" in text
    )
    assert "neighbours 1.00 → 0.50; other people 1.00 → 1.00" in text
    with_oracle = page(reported(make_inputs("o", methods=("none", "oracle", "ga")), "o/report"))
    assert "1.00 → 0.00 (oracle 0.00); in the worst form" in with_oracle
    assert "oracle: held-out" not in with_oracle


def test_answers_cannot_inject_html(reported, make_inputs):
    """A model may answer anything; here "<none>"."""
    text = page(reported(make_inputs()))
    assert "&lt;none&gt;" in text and "<none>" not in text


def test_the_page_stands_alone(reported, make_inputs):
    """Three embedded images and no address to load anything from."""
    text = page(reported(make_inputs()))
    assert text.count('src="data:image/png;base64,') == 3
    assert "http" not in text.split("base64")[0] and "<script" not in text
