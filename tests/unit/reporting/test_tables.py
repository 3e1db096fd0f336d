import polars as pl
import pytest

from atu.metrics.bootstrap import Estimate
from atu.reporting.tables import (
    COLUMNS,
    estimate,
    example_answers,
    flatten,
    form_table,
    load_items,
    main_table,
    markdown_table,
    trajectory_table,
    utility_means,
)

METHODS = ["none", "ga"]


@pytest.fixture
def cells(make_cell, ga_leaks):
    return [make_cell(), make_cell("ga", leaks=ga_leaks)]


@pytest.fixture
def items(cells):
    return load_items([cell["rephrase"] for cell in cells])


def means(rows, *keys):
    """Rows of estimates as numbers: `{keys of the row: {column: mean}}`."""
    return {
        tuple(row[key] for key in keys): {
            key: value.mean for key, value in row.items() if isinstance(value, Estimate)
        }
        for row in rows
    }


def test_only_the_report_split_is_loaded(items):
    """4 roles x 2 facts as questions, the target's 2 also seen and as cloze: 12 per cell."""
    assert items["split"].unique().to_list() == ["report"]
    assert items.group_by("method").len().sort("method").rows() == [("ga", 12), ("none", 12)]
    assert items.select("model", "target", "seed").unique().rows() == [("m", "Ada", 0)]


def test_main_table(items, report_section):
    """The original knows all. GA: no question about the target, but of its two facts one leaks as a
    cloze, so the worst form is (1 + 0) / 2, where the items' mean is 1 / 4. Seen wordings, which GA
    answers, do not count."""
    rows = main_table(items, report_section, METHODS)
    assert means(rows, "method") == {
        ("none",): dict.fromkeys(COLUMNS, 1.0),
        ("ga",): {
            "target": 0.0, "worst_form": 0.5, "neighbour": 0.5, "other": 1.0, "general": 1.0,
        },
    }  # fmt: skip
    assert {row[key].n for row in rows for key in COLUMNS} == {2}


def test_form_table(items, report_section):
    """Per form, over held-out wordings; forms that no probe has are left out."""
    rows = form_table(items, report_section, METHODS)
    found = {key: value["estimate"] for key, value in means(rows, "method", "form").items()}
    assert found == {
        ("none", "question, seen"): 1.0, ("none", "question"): 1.0, ("none", "cloze"): 1.0,
        ("ga", "question, seen"): 1.0, ("ga", "question"): 0.0, ("ga", "cloze"): 0.5,
    }  # fmt: skip


def test_seeds_are_pooled(make_cell, report_section, ga_leaks):
    """Neighbours over two seeds: 1, 1 and 1, 0: 3 of 4 items. The worst form is taken per seed:
    (1 + 1 + 1 + 0) / 4, not the worst of both seeds."""
    cells = [make_cell("ga", 0), make_cell("ga", 1, leaks=ga_leaks)]
    (row,) = main_table(load_items([c["rephrase"] for c in cells]), report_section, ["ga"])
    assert (row["neighbour"].mean, row["neighbour"].n) == (0.75, 4)
    assert (row["worst_form"].mean, row["worst_form"].n) == (0.75, 4)


def test_facts_are_the_clusters(items, report_section):
    """Two wordings of one fact are one draw: with one fact the interval has no width, whatever the
    items say. The same fact of another target is another cluster."""
    same = items.head(2).with_columns(fact=pl.lit("f"), exact_match=pl.Series([1.0, 0.0]))
    narrow = estimate(same, report_section, "x")
    assert (narrow.mean, narrow.low, narrow.high) == (0.5, 0.5, 0.5)
    other = same.with_columns(target=pl.Series(["Ada", "Eve"]))
    wide = estimate(other, report_section, "x")
    assert (wide.mean, wide.low, wide.high) == (0.5, 0.0, 1.0)


def test_flatten_gives_four_columns_per_estimate():
    frame = flatten([{"method": "ga", "target": Estimate(0.5, 0.25, 0.75, 4)}])
    assert frame.to_dicts() == [
        {"method": "ga", "target": 0.5, "target_low": 0.25, "target_high": 0.75, "target_n": 4}
    ]


def test_utility_is_averaged_and_one_collapse_is_enough(make_cell):
    """Generation (.9 + .1) / 2 = .5 over two seeds; one of them collapsed, so the method did."""
    cells = [make_cell("ga"), make_cell("ga", 1, scores={"generate": 0.1, "collapsed": 1.0})]
    found = utility_means([cell["utility"] for cell in [*cells, make_cell()]])
    assert set(found) == {("m", "ga"), ("m", "none")}
    assert found["m", "ga"]["generate"] == pytest.approx(0.5)
    assert (found["m", "ga"]["collapsed"], found["m", "none"]["collapsed"]) == (1.0, 0.0)


def test_trajectory_table(cells):
    """The original has its point at step 0, GA another after 4 steps, at 1 - 4/8."""
    table = trajectory_table([cell["unlearn"] for cell in cells])
    assert table.select("method", "step", "exact_match_target").rows() == [
        ("none", 0, 1.0), ("ga", 0, 1.0), ("ga", 4, 0.5),
    ]  # fmt: skip


def test_examples_put_the_methods_side_by_side(items):
    """One held-out wording per fact, its answers in the order of the methods."""
    examples = example_answers(items, METHODS, count=8)
    assert examples == [
        {
            "query": f"Ada/{fact} as question?",
            "answer": "owl",
            "outputs": [("none", "owl"), ("ga", "<none>")],
        }
        for fact in ("pet", "food")
    ]
    assert example_answers(items, METHODS, count=1) == examples[:1]


def test_markdown(cells, items, report_section):
    """As many cells in every line as in its head; every mean with its interval and n."""
    rows = main_table(items, report_section, METHODS)
    text = markdown_table(rows, utility_means([cell["utility"] for cell in cells]))
    lines = text.splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| `none` | ") and lines[2].endswith("| 0.90 | no |")
    assert lines[3].split(" | ")[1] == f"{rows[1]['target']} (2)"
