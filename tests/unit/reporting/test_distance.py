"""The distance of methods to the oracle, from cells whose answers are known."""

import numpy as np
import polars as pl
import pytest

from atu.metrics.selection import NEAR
from atu.reporting.distance import distances, gap_rows, markdown_gaps
from atu.reporting.items import load_documents, load_items
from atu.reporting.tables import utility_means
from atu.results.items import SCORE

METHODS = ["none", "oracle", "ga"]
KNOWN = {(f"{who}/{what}", "question") for who in ("Bob", "Cyd") for what in ("pet", "food")} | {
    (f"Pia/{what}", "paired") for what in ("pet", "food")
}
ORACLE_KNOWS = KNOWN | {("Dania/pet", "question")}
"""All of neighbours and others, half of general facts, nothing of the target."""


@pytest.fixture
def measure(report_section):
    """A function that gives the distances of these cells."""

    def measured(cells, methods=METHODS, oracle="oracle", change=lambda items: items):
        items = change(load_items([cell["rephrase"] for cell in cells]))
        utility = [cell["utility"] for cell in cells]
        found = distances(
            items, load_documents(utility), utility_means(utility), report_section, methods, oracle
        )
        return {method: distance for (_, method), distance in found.items()}

    return measured


@pytest.fixture
def cells(make_cell, ga_leaks):
    return [
        make_cell(),
        make_cell("oracle", leaks=ORACLE_KNOWS, scores={"generate": 1.0}),
        make_cell("ga", leaks=ga_leaks),
    ]


def test_the_four_parts_of_one_target(cells, measure):
    """GA: nothing and .5 of the target where the oracle has nothing, .25; neighbours .5 of 1, and
    all beside the target: .25; all others; more general facts, 0, and generation .9 of 1, .1:
    .05. So .55 / 4. The original knows all: forgetting 1 and the same .05. `choice` does not
    count."""
    found = measure(cells)
    means = {method: distance.estimate.mean for method, distance in found.items()}
    assert means == {
        "none": pytest.approx(1.05 / 4), "oracle": 0.0, "ga": pytest.approx(0.55 / 4),
    }  # fmt: skip
    assert found["ga"].estimate.n == 1
    assert found["ga"].gaps == pytest.approx({
        "target": 0.0, "worst_form": 0.5, "neighbour": 0.5, "partner": 0.0, "other": 0.0,
        "general": 0.0, "task.generate": 0.1,
    })  # fmt: skip


def test_what_the_distances_are_made_of_is_written(cells, make_cell, measure):
    """In the order of the parts, by the names that people read; of two targets the mean, and a dash
    for who was not asked."""
    ga = {("m", "ga"): measure(cells)["ga"]}
    rows = [*gap_rows(ga), {"model": "m", "method": "npo", "target": 0.25}]
    head, _, first, second = markdown_gaps(rows, {"ga": "GA"}).splitlines()
    assert head.startswith(
        "| gap to the oracle | target questions | target, worst form | neighbours |"
    )
    assert head.endswith("| other people | general facts | generation |")
    assert first == "| GA | 0.000 | 0.500 | 0.500 | 0.000 | 0.000 | 0.000 | 0.100 |"
    assert second == "| npo | 0.250 | – | – | – | – | – | – |"
    assert markdown_gaps([], {}) == ""


def test_questions_beside_the_targets_are_near_it(cells, make_cell, ga_leaks, measure):
    """GA loses one of two as well: (.5 + .5) / 2 instead of .5 / 2 of what is near."""
    lost = make_cell("ga", where="lost", leaks=ga_leaks - {("Pia/pet", "paired")})
    kept, less = (measure([*cells[:2], ga])["ga"].estimate.mean for ga in (cells[2], lost))
    assert less - kept == pytest.approx(0.25 / 4)


def test_facts_are_drawn_where_there_is_one_target(cells, measure, report_section):
    """Two facts, of which one is known: half, none or all of the part, in about every other
    resample; where every fact has the same, always the same. All is drawn at once for all methods,
    so that a method differs from itself by nothing."""
    found = measure(cells)
    ga = found["ga"].estimate
    assert ga.low < ga.mean < ga.high
    assert found["oracle"].estimate.high == 0.0
    assert len(set(found["ga"].resampled.tolist())) > 3
    itself = found["ga"].minus(found["ga"], report_section)
    assert (itself.mean, itself.low, itself.high, itself.n) == (0.0, 0.0, 0.0, 1)
    gap = found["none"].minus(found["ga"], report_section)
    assert gap.mean == pytest.approx(0.5 / 4) and gap.low < gap.mean < gap.high


def test_too_much_here_and_too_little_there_do_not_cancel(make_cell, measure):
    """The oracle has half of the target's questions of both. GA has none of Ada's and all of Eve's:
    .5 each, and in the worst form too: .5 / 4. An interval over targets, of no width."""

    def known(method, *facts):
        target = facts[0].split("/")[0] if facts else "Ada"
        leaks = {(fact, "question") for fact in facts} | KNOWN
        return make_cell(method, target=target, leaks=leaks)

    cells = [
        known("oracle", "Ada/pet"), known("oracle", "Eve/pet"),
        known("ga"), known("ga", "Eve/pet", "Eve/food"),
    ]  # fmt: skip
    found = measure(cells, ["oracle", "ga"])["ga"].estimate
    assert (found.mean, found.low, found.high, found.n) == (0.125, 0.125, 0.125, 2)


def test_every_target_stands_for_itself_too(make_cell, measure, ga_leaks, report_section):
    """GA answers more than the original's half in one target only: over both the interval draws
    targets, of each its facts. Of one target there is nothing of the kind."""

    def cells(target, leaks):
        return [
            make_cell("oracle", target=target, leaks=KNOWN),
            make_cell("none", target=target),
            make_cell("ga", target=target, leaks=leaks),
        ]

    both = measure([*cells("Ada", KNOWN), *cells("Eve", None)], ["none", "oracle", "ga"])
    each = both["ga"].each_minus(both["none"], report_section)
    assert list(each) == ["Ada", "Eve"]
    assert each["Ada"].high < 0 and each["Eve"].mean == each["Eve"].high == 0
    assert np.mean([e.mean for e in each.values()]) == pytest.approx(
        both["ga"].minus(both["none"], report_section).mean
    )
    alone = measure(cells("Ada", KNOWN), ["none", "oracle", "ga"])
    assert alone["ga"].each_minus(alone["none"], report_section) == {}


def test_without_an_oracle_there_is_no_distance(cells, measure):
    """Whatever the original or chance may be."""
    assert measure([cells[0], cells[2]], ["none", "ga"]) == {}
    assert measure(cells, oracle=None) == {}


def test_an_item_that_was_not_scored_leaves_no_distance(cells, measure, report_section):
    """Of the oracle: none of any method, and no difference of two."""

    def unscored(items):
        chosen = (pl.col("fact") == "Bob/pet") & (pl.col("method") == "oracle")
        return items.with_columns(pl.when(chosen).then(None).otherwise(pl.col(SCORE)).alias(SCORE))

    found = measure(cells, change=unscored)
    assert not found["ga"].estimate.valid and not found["none"].estimate.valid
    assert not found["ga"].minus(found["none"], report_section).valid


def test_what_a_target_is_not_asked_is_no_part_of_its_cell(cells, measure):
    """Nobody is asked about what is near: (.25 + 0 + .05) / 3. Where GA alone is not, it is not
    known."""
    near = pl.col("role").is_in(NEAR)
    nobody = measure(cells, change=lambda items: items.filter(~near))
    assert nobody["ga"].estimate.mean == pytest.approx(0.1)
    lost = (pl.col("role") == "neighbour") & (pl.col("method") == "ga")
    assert not measure(cells, change=lambda items: items.filter(~lost))["ga"].estimate.valid


def test_an_invalid_task_is_nobodys_part(make_cell, measure, ga_leaks):
    """The oracle's generation was cut: general facts alone are utility: (.25 + .25 + 0) / 4."""
    cut = {"generate": 0.1, "generate_truncated": 9.0, "generate_invalid": 1.0}
    cells = [
        make_cell("oracle", leaks=ORACLE_KNOWS, scores=cut),
        make_cell("ga", leaks=ga_leaks, scores={"generate_truncated": 0.0, "generate_invalid": 0}),
    ]
    assert measure(cells, ["oracle", "ga"])["ga"].estimate.mean == pytest.approx(0.5 / 4)
