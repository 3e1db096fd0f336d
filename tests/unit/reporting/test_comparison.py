"""One method against every other, item by item, and what it is called."""

import polars as pl
import pytest

from atu.reporting.comparison import (
    COMPARED,
    by_target,
    comparison_table,
    markdown_comparison,
)
from atu.reporting.distance import distances
from atu.reporting.items import load_documents, load_items
from atu.reporting.tables import utility_means
from atu.results.items import SCORE


def unscored(items, fact, method):
    """The items, those of one fact and method without a score."""
    chosen = (pl.col("fact") == fact) & (pl.col("method") == method)
    value = pl.when(chosen).then(None).otherwise(pl.col(SCORE))
    return items.with_columns(value.alias(SCORE))


@pytest.fixture
def compared(make_cell, report_section):
    """A function that compares GA, which answers `ours`, with NPO, which answers `theirs`, and with
    the oracle, which answers as NPO; the original stands aside."""

    def compare(ours, theirs, change=lambda items: items, methods=("none", "oracle", "ga", "npo")):
        leaks = {"none": None, "oracle": theirs, "ga": ours, "npo": theirs}
        cells = [make_cell(method, leaks=found) for method, found in leaks.items()]
        items = change(load_items([cell["rephrase"] for cell in cells]))
        utility = [cell["utility"] for cell in cells]
        far = distances(
            items,
            load_documents(utility),
            utility_means(utility),
            report_section,
            methods,
            "oracle",
        )
        return comparison_table(items, report_section, methods, "oracle", far)

    return compare


ASKED = {(f"{who}/{what}", "question") for who in ("Ada", "Bob", "Cyd") for what in ("pet", "food")}


LESS = "answers less than the oracle (over-suppressed)"


def verdicts(row):
    return {key: row[f"{key}_verdict"] for key in COMPARED}


def test_the_method_is_compared_with_every_other_item_by_item(compared):
    """GA answers nothing, NPO and the oracle everything: it leaks less than NPO, which is no merit,
    answers less than the oracle, and keeps less. Not with itself, and not with the original, which
    did not forget. The distance of GA, 1 in all but the task's 1/8, is above NPO's 0."""
    oracle, npo = compared(set(), None)
    assert (oracle["method"], npo["method"]) == ("oracle", "npo")
    for row in (oracle, npo):
        assert {row[key].mean for key in COMPARED} == {-1.0}
    kept = "keeps less than the oracle"
    assert verdicts(oracle) == {
        "target": LESS, "worst_form": LESS, "neighbour": kept, "other": kept,
    }  # fmt: skip
    assert verdicts(npo) == {
        "target": "leaks less", "worst_form": "leaks less", "neighbour": "worse", "other": "worse",
    }  # fmt: skip
    assert "distance" not in oracle
    assert (npo["distance"].mean, npo["distance_verdict"]) == (0.875, "worse")


def test_answering_more_than_the_oracle_is_leaking_and_keeping(compared):
    oracle, npo = compared(None, set())
    assert verdicts(oracle) == dict.fromkeys(
        ("target", "worst_form"), "leaks more than the oracle"
    ) | (dict.fromkeys(("neighbour", "other"), "keeps more than the oracle"))
    assert verdicts(npo) == dict.fromkeys(("target", "worst_form"), "leaks more") | (
        dict.fromkeys(("neighbour", "other"), "better")
    )


def test_an_interval_with_0_in_it_is_no_difference(compared):
    """One of two facts differs: drawn twice it is 1, not drawn it is 0."""
    oracle, npo = compared(ASKED - {("Ada/pet", "question"), ("Bob/pet", "question")}, ASKED)
    assert oracle["target"].mean == -0.5 and oracle["target"].high == 0.0
    assert set(verdicts(oracle).values()) == {"as the oracle"}
    assert set(verdicts(npo).values()) == {"no difference"}


def test_an_item_not_scored_is_no_difference(compared):
    """GA forgot all of the target and of the neighbours, but one question of each was not scored:
    nothing is claimed of them, and what was scored keeps its verdict."""
    oracle, npo = compared(
        set(), None, lambda items: unscored(unscored(items, "Ada/pet", "ga"), "Bob/pet", "npo")
    )
    for row in (oracle, npo):
        assert not row["target"].valid and row["target_verdict"] == "no difference"
    assert (npo["other_verdict"], oracle["other_verdict"]) == (
        "worse",
        "keeps less than the oracle",
    )
    assert npo["neighbour_verdict"] == npo["distance_verdict"] == "no difference"
    assert oracle["neighbour_verdict"] == "keeps less than the oracle"


@pytest.mark.parametrize("method", ["ga", "npo"])
def test_methods_that_were_asked_other_items_are_not_compared(compared, method):
    """Whichever of the two lacks a question."""
    lost = (pl.col("method") == method) & (pl.col("fact") == "Bob/pet")
    with pytest.raises(ValueError, match=r"neighbour: .* have different items"):
        compared(set(), None, lambda items: items.filter(~lost))


def test_several_targets_are_counted_and_written(make_cell, report_section):
    """NPO answers as the oracle, GA nothing of what is kept, in one of two targets: farther there.
    Of one target, and of the oracle, nothing is counted."""
    about = {
        t: {(f"{t}/{w}", f) for w in ("pet", "food") for f in ("question", "cloze")}
        for t in ("Ada", "Eve")
    }
    cells = [
        make_cell(
            method,
            target=target,
            leaks=set() if (method, target) == ("ga", "Eve") else ASKED - about["Ada"],
        )
        for target in about
        for method in ("oracle", "npo", "ga")
    ]
    items = load_items([cell["rephrase"] for cell in cells])
    utility = [cell["utility"] for cell in cells]
    methods = ("oracle", "npo", "ga")
    far = distances(
        items, load_documents(utility), utility_means(utility), report_section, methods, "oracle"
    )
    rows = comparison_table(items, report_section, methods, "oracle", far)
    assert [by_target(row) for row in rows] == [
        "",
        "of 2 targets by themselves nearer in 0, farther in 1",
    ]
    text = markdown_comparison(rows, {"target": "asked", "distance": "far"}, {"ga": "GA"}, "ga")
    head, _, oracle, npo = text.splitlines()
    assert head == "| GA minus | asked | far | each target by itself |"
    assert oracle.endswith("| – | – |") and npo.endswith("nearer in 0, farther in 1 |")
    assert f"| {rows[1]['distance'].mean:.3f} [" in npo
    assert markdown_comparison([], {}, {}, "ga") == ""


def test_no_comparison_without_its_method(compared):
    assert compared(set(), None, methods=("none", "oracle", "npo")) == []
