"""The order of the methods on the report split."""

import math

import polars as pl
import pytest

from atu.metrics.bootstrap import Estimate
from atu.reporting.items import load_items
from atu.reporting.ranking import chance_levels, rankings, selections
from atu.reporting.tables import main_table

METHODS = ["none", "ga"]


@pytest.fixture
def items(make_cell, make_item, ga_leaks):
    """Of the target's pet there is also a question with four options, which nobody answers."""
    more = [make_item("Ada/pet", "choice", options=[*"abcd"], id="options")]
    cells = [make_cell(extra=more), make_cell("ga", leaks=ga_leaks, extra=more)]
    return load_items([cell["rephrase"] for cell in cells])


def test_chance_is_that_of_the_report_split(items):
    """All have owls and are asked for them as questions, so a guess has everything of those; a
    choice without options is one too."""
    assert chance_levels(items) == {"Ada": {"chance_target": 1.0, "chance_worst_form": 1.0}}


@pytest.fixture
def guessed(monkeypatch):
    """Guessing gives .75 of the pets and .25 of the food."""
    monkeypatch.setattr("atu.reporting.ranking.chances", lambda asked, _: [
        {"pet": 0.75, "food": 0.25}[row["fact"].split("/")[1]] for row in asked
    ])  # fmt: skip


def test_selection_of_the_tables_numbers(items, report_section, guessed):
    """GA leaks 0 and .5, and keeps .5 of the neighbours, all questions beside the target's, all
    others and all general facts. Guessing gives .5 in the worst form, so all is forgotten: 5 / (1 +
    1 + 1 / .75 + 1 + 1). The original has forgotten nothing."""
    rows = main_table(items, report_section, METHODS)
    assert chance_levels(items) == {"Ada": {"chance_target": 0.5, "chance_worst_form": 0.5}}
    assert selections(rows, items) == [0.0, pytest.approx(5 / (4 + 4 / 3))]


def test_questions_beside_the_targets_that_are_lost_count(items, report_section, guessed):
    """Of what is near the target .25 is kept then: 5 / (4 + 4). Where one was not scored there is
    no selection."""
    rows = main_table(items, report_section, METHODS)
    beside = (pl.col("role") == "partner") & (pl.col("method") == "ga")
    for score, found in ((0.0, 5 / 8), (None, None)):
        changed = pl.when(beside).then(score).otherwise(pl.col("score")).alias("score")
        assert selections(rows, items.with_columns(changed))[1] == found


def test_where_there_is_nothing_to_compare_with_there_is_no_selection(items, report_section):
    """Without the original; or where an item was not scored."""
    rows = main_table(items, report_section, METHODS)
    assert selections(rows[1:], items.filter(pl.col("method") != "none")) == [None]
    lost = (pl.col("role") == "other") & (pl.col("method") == "ga")
    unscored = pl.when(lost).then(None).otherwise(pl.col("score")).alias("score")
    assert selections(rows, items.with_columns(unscored))[1] is None
    assert selections(rows, items.filter(pl.col("role") == "target")) == [None, None]


def test_a_target_of_which_no_plain_question_is_asked_is_left_out(
    make_cell, ga_leaks, report_section, guessed
):
    """Of Eve there are other forms alone: selection is Ada's. Of nobody: there is none."""
    cells = [
        make_cell(method, target=target, leaks=known)
        for target in ("Ada", "Eve")
        for method, known in (("none", None), ("ga", ga_leaks))
    ]
    items = load_items([cell["rephrase"] for cell in cells])
    plain = (pl.col("role") == "target") & (pl.col("form") == "question") & ~pl.col("seen")
    rows = main_table(items, report_section, METHODS)
    part = items.filter(~(plain & (pl.col("target") == "Eve")))
    assert selections(rows, part) == selections(rows, items.filter(pl.col("target") == "Ada"))
    assert selections(rows, items.filter(~plain)) == [None, None]


def test_one_targets_silence_does_not_pay_for_anothers_leak(make_cell, report_section, monkeypatch):
    """GA leaks all of Ada and nothing of Eve, where a guess has half: 0 and 1, whose mean is .5. Of
    both at once it would leak no more than a guess."""
    monkeypatch.setattr("atu.reporting.ranking.chances", lambda asked, _: [0.5] * len(asked))
    kept = {
        (f"{who}/{what}", "question") for who in ("Bob", "Cyd", "Dania") for what in ("pet", "food")
    }
    kept |= {(f"Pia/{what}", "paired") for what in ("pet", "food")}
    cells = [make_cell(target=target) for target in ("Ada", "Eve")]
    cells += [make_cell("ga", target="Ada"), make_cell("ga", target="Eve", leaks=kept)]
    items = load_items([cell["rephrase"] for cell in cells])
    assert selections(main_table(items, report_section, METHODS), items) == [0.0, 0.5]


def judged(method, selection, distance, model="m"):
    far = {} if distance is None else {"distance": Estimate(distance, 0.0, 1.0, 1)}
    return {"model": model, "method": method, "selection": selection} | far


def test_rankings():
    """High selection first, small distance first; the original and the oracle have no place."""
    rows = [judged("none", 0.0, 0.4), judged("oracle", 0.99, 0.0), judged("ga", 0.5, 0.1),
            judged("atu", 0.75, 0.2), judged("npo", None, 0.3)]  # fmt: skip
    utility = {("m", row["method"]): {"collapsed": 0.0} for row in rows}
    assert rankings(rows, utility, {}) == [
        "By selection on the report split, high is good: atu 0.750, ga 0.500.",
        "By distance to the oracle, low is good: ga 0.100, atu 0.200, npo 0.300.",
    ]
    assert rankings(rows, utility, {"ga": "Gradient ascent"})[0].endswith("Gradient ascent 0.500.")


def test_what_is_ruined_comes_last():
    """However little it leaks."""
    rows = [judged("ga", 1.0, 0.0), judged("atu", 0.75, 0.2)]
    utility = {("m", "ga"): {"collapsed": 1.0}, ("m", "atu"): {"collapsed": 0.0}}
    found = rankings(rows, utility, {})
    assert found[0].endswith(": atu 0.750, ga 1.000 (COLLAPSED).")
    assert found[1].endswith(": atu 0.200, ga 0.000 (COLLAPSED).")


FINE = {(model, "ga"): {"collapsed": 0.0} for model in ("m", "n")}


def test_what_was_not_measured_is_not_ranked():
    """No distance without an oracle, or where it is not valid; a line for every model."""
    bad = judged("ga", 0.5, 0.1) | {"distance": Estimate(math.nan, math.nan, math.nan, 2, 1)}
    assert len(rankings([judged("ga", 0.5, None)], FINE, {})) == len(rankings([bad], FINE, {})) == 1
    two = rankings([judged("ga", 0.5, None), judged("ga", 0.25, None, "n")], FINE, {})
    assert [line.split(",")[0][-3:] for line in two] == ["(m)", "(n)"]
    assert rankings([judged("none", 0.0, 0.4)], FINE, {}) == []
