import polars as pl
import pytest

from atu.metrics.bootstrap import Estimate
from atu.reporting.items import load_items
from atu.reporting.robustness import Shown
from atu.reporting.tables import (
    COLUMNS,
    flatten,
    form_table,
    interval,
    main_table,
    markdown_robustness,
    markdown_table,
    markdown_transposed,
    shown_perplexity,
    task_score,
    trajectory_table,
    utility_means,
    valid_scores,
)
from atu.results.items import SCORE

METHODS = ["none", "ga"]
INVALID = Estimate(0.5, 0.25, 0.75, 4, 3)


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


def unscored(items, fact, method):
    """The items, those of one fact and method without a score."""
    chosen = (pl.col("fact") == fact) & (pl.col("method") == method)
    value = pl.when(chosen).then(None).otherwise(pl.col(SCORE))
    return items.with_columns(value.alias(SCORE))


def test_main_table(items, report_section):
    """The original knows all. GA: no question about the target, but of its two facts one leaks as a
    cloze, so the worst form is (1 + 0) / 2, where the items' mean is 1 / 8. Seen wordings, which GA
    answers, do not count."""
    rows = main_table(items, report_section, METHODS)
    assert means(rows, "method") == {
        ("none",): dict.fromkeys(COLUMNS, 1.0),
        ("ga",): {
            "target": 0.0, "worst_form": 0.5, "neighbour": 0.5, "other": 1.0, "general": 1.0,
        },
    }  # fmt: skip
    assert {row[key].n for row in rows for key in COLUMNS} == {2}


def test_a_role_that_the_benchmark_does_not_have_is_no_column(items, report_section):
    rows = main_table(items.filter(pl.col("role") != "general"), report_section, METHODS)
    assert all("general" not in row and row["target"].valid for row in rows)
    assert "general" not in markdown_table(rows, {("m", m): UTILITY for m in METHODS}, {}, {})


def test_a_role_that_one_method_was_not_asked_is_invalid_and_no_crash(items, report_section):
    lost = (pl.col("role") == "general") & (pl.col("method") == "ga")
    rows = main_table(items.filter(~lost), report_section, METHODS)
    valid = {row["method"]: row["general"].valid for row in rows}
    assert valid == {"none": True, "ga": False}
    assert "INVALID" in markdown_table(rows, {("m", m): UTILITY for m in METHODS}, {}, {})


def test_form_table(items, report_section):
    """Per form, over held-out wordings; forms that no probe has are left out."""
    rows = form_table(items, report_section, METHODS)
    found = {key: value["estimate"] for key, value in means(rows, "method", "form").items()}
    forms = ("question, seen", "question", "cloze", "choice", "two_hop", "alias", "paired")
    assert found == {("none", form): 1.0 for form in forms} | {
        ("ga", "question, seen"): 1.0, ("ga", "question"): 0.0, ("ga", "cloze"): 0.5,
        ("ga", "choice"): 0.0, ("ga", "paired"): 0.0, ("ga", "two_hop"): 0.0, ("ga", "alias"): 0.0,
    }  # fmt: skip
    shown = {row["form"]: row["shown"] for row in rows}
    assert (shown["choice"], shown["question, seen"]) == ("multiple choice", "question, seen")


def test_seeds_are_pooled(make_cell, report_section, ga_leaks):
    """Neighbours over two seeds: 1, 1 and 1, 0: 3 of 4 items. The worst form is taken per seed:
    (1 + 1 + 1 + 0) / 4, not the worst of both seeds."""
    cells = [make_cell("ga", 0), make_cell("ga", 1, leaks=ga_leaks)]
    (row,) = main_table(load_items([c["rephrase"] for c in cells]), report_section, ["ga"])
    assert (row["neighbour"].mean, row["neighbour"].n) == (0.75, 4)
    assert (row["worst_form"].mean, row["worst_form"].n) == (0.75, 4)


def test_several_targets_are_the_clusters_of_every_column(make_cell, report_section):
    """Half of each target's two facts are known: .5 with an interval of no width over targets,
    where a single target gives one over facts."""
    known = {(f"{name}/pet", "question") for name in ("Ada", "Eve", "Bob", "Cyd", "Dania")}
    cells = [make_cell("ga", target=target, leaks=known) for target in ("Ada", "Eve")]
    items = load_items([cell["rephrase"] for cell in cells])
    (both,) = main_table(items, report_section, ["ga"])
    (one,) = main_table(items.filter(pl.col("target") == "Ada"), report_section, ["ga"])
    for key in COLUMNS:
        assert (both[key].mean, both[key].low, both[key].high, both[key].n) == (0.5, 0.5, 0.5, 4)
        assert (one[key].mean, one[key].low, one[key].high, one[key].n) == (0.5, 0.0, 1.0, 2)


def test_flatten_gives_five_columns_per_estimate():
    frame = flatten([{"method": "ga", "target": Estimate(0.5, 0.25, 0.75, 4)}])
    assert frame.to_dicts() == [
        {
            "method": "ga", "target": 0.5, "target_low": 0.25, "target_high": 0.75, "target_n": 4,
            "target_n_scored": 4,
        }
    ]  # fmt: skip


@pytest.mark.parametrize("order", [1, -1])
def test_flatten_writes_no_number_that_is_not_valid(order):
    """An empty cell with both counts, beside a valid row; whichever comes first."""
    rows = [{"m": "ga", "x": INVALID}, {"m": "npo", "x": Estimate(1.0, 0.5, 1.0, 4)}][::order]
    text = flatten(rows).write_csv()
    lines = {line.split(",")[0]: line for line in text.splitlines()}
    assert lines["ga"] == "ga,,,,4,3"
    assert lines["npo"] == "npo,1.0,0.5,1.0,4,4"


def test_flatten_of_nothing():
    assert flatten([]).write_csv().strip() == ""


def test_utility_is_averaged_and_one_collapse_is_enough(make_cell):
    """Generation (.9 + .1) / 2 = .5 over two seeds; one of them collapsed, so the method did."""
    cells = [make_cell("ga"), make_cell("ga", 1, scores={"generate": 0.1, "collapsed": 1.0})]
    found = utility_means([cell["utility"] for cell in [*cells, make_cell()]])
    assert set(found) == {("m", "ga"), ("m", "none")}
    assert found["m", "ga"]["generate"] == pytest.approx(0.5)
    assert (found["m", "ga"]["collapsed"], found["m", "none"]["collapsed"]) == (1.0, 0.0)


def test_one_invalid_task_is_enough(make_cell):
    """Of two seeds one cut too many prompts: the mean over both would hide it."""
    how = {"choice_truncated": 4.0, "choice_invalid": 1.0}
    fine = {"choice_truncated": 0.0, "choice_invalid": 0.0}
    cells = [make_cell("ga", scores=fine), make_cell("ga", 1, scores=how)]
    scores = utility_means([cell["utility"] for cell in cells])["m", "ga"]
    assert (scores["choice_truncated"], scores["choice_invalid"]) == (2.0, 1.0)
    assert task_score(scores, "choice") == "INVALID" and task_score(scores, "generate") == "0.90"
    assert valid_scores(scores)["choice"] is None and valid_scores(scores)["generate"] == 0.9


@pytest.mark.parametrize(
    ("value", "shown"), [(3.127, "3.13"), (999_999.0, "999999.00"), (1e6, "≥ 1e+06")]
)
def test_a_ruined_models_perplexity_is_a_bound(value, shown):
    assert shown_perplexity(value) == shown


def test_trajectory_table(cells):
    """The original has its point at step 0, GA another after 4 steps, at 1 - 4/8."""
    table = trajectory_table([cell["unlearn"] for cell in cells])
    assert table.select("method", "step", "score_target").rows() == [
        ("none", 0, 1.0), ("ga", 0, 1.0), ("ga", 4, 0.5),
    ]  # fmt: skip


UTILITY = {"generate": 0.9, "collapsed": 0.0}


def test_markdown(cells, items, report_section):
    """As many cells in every line as in its head; every mean with its interval and n."""
    rows = main_table(items, report_section, METHODS)
    text = markdown_table(rows, utility_means([cell["utility"] for cell in cells]), {}, {})
    lines = text.splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| none | ") and lines[2].endswith("| 0.90 | no |")
    assert lines[3].split(" | ")[1] == f"{rows[1]['target']} (2)"


def test_the_distance_to_the_oracle_is_the_last_number(items, report_section):
    """Where there is one; no column otherwise."""
    rows = main_table(items, report_section, METHODS)
    utility = {("m", m): UTILITY for m in METHODS}
    assert "oracle" not in markdown_table(rows, utility, {}, {})
    rows = [row | {"distance": Estimate(0.25, 0.125, 0.5, 1)} for row in rows]
    head, _, line, _ = markdown_table(rows, utility, {}, {}).splitlines()
    assert head.endswith("| distance to the oracle | COLLAPSED |")
    assert line.endswith("| 0.25 [0.12, 0.50] | no |")


def test_markdown_shows_what_is_not_valid(items, report_section):
    """In its cell; its mean is nowhere."""
    rows = main_table(unscored(items, "Ada/pet", "ga"), report_section, METHODS)
    lines = markdown_table(rows, {("m", m): UTILITY for m in METHODS}, {}, {}).splitlines()
    assert "INVALID" not in lines[2]
    assert lines[3].split(" | ")[1] == "INVALID (1 of 2 scored) (2)"


def test_markdown_shows_an_invalid_task(items, report_section):
    rows = main_table(items, report_section, METHODS)
    cut = UTILITY | {"generate_n": 6.0, "generate_truncated": 6.0, "generate_invalid": 1.0}
    utility = {("m", "none"): UTILITY | {"generate_n": 6.0}, ("m", "ga"): cut}
    lines = markdown_table(rows, utility, {}, {}).splitlines()
    assert lines[2].endswith("| 0.90 | no |") and lines[3].endswith("| INVALID | no |")


def test_notes_stand_below_the_table(cells, items, report_section):
    """Each in a paragraph of its own."""
    rows = main_table(items, report_section, METHODS)
    utility = utility_means([cell["utility"] for cell in cells])
    plain = markdown_table(rows, utility, {}, {})
    notes, names = {"ga": "is a test", "none": "too"}, {"ga": "Gradient ascent"}
    text = markdown_table(rows, utility, notes, names)
    assert text == plain.replace("| ga |", "| Gradient ascent |") + (
        "\nGradient ascent is a test.\n\nnone too.\n"
    )


SHOWN = [Shown("a", "one", False), Shown("b", "two", True)]
SURE = Estimate(0.5, 0.25, 0.75, 4)


def test_robustness_as_markdown():
    """A line per column with its n at the end; controls in italics; INVALID in place of a mean."""
    rows = [
        {"model": "m", "method": "none", "a": SURE, "b": SURE},
        {"model": "m", "method": "ga", "a": INVALID, "b": Estimate(0.0, 0.0, 0.0, 4)},
    ]
    assert markdown_robustness(rows, SHOWN, {}).splitlines() == [
        "| | none | ga | n |",
        "|---|---|---|---|",
        "| one | 0.50 | INVALID | 4 |",
        "| *two* | 0.50 | 0.00 | 4 |",
    ]


def test_intervals_as_markdown():
    """A number of whole cells has no interval; what a benchmark lacks has no line."""
    rows = [{"model": "m", "method": "ga", "a": SURE, "b": Estimate(0.5, 0.5, 0.5, 1)}]
    titles = {"a": "one", "b": "two", "c": "three"}
    assert markdown_transposed(rows, titles, interval, {}).splitlines()[2:] == [
        "| one | 0.50 [0.25, 0.75] | 4 |",
        "| two | 0.50 | 1 |",
    ]
    row = rows[0] | {"a": INVALID}
    assert "INVALID" in markdown_transposed([row], titles, interval, {})


def test_robustness_as_markdown_names_the_models_where_there_are_several():
    rows = [{"model": model, "method": "ga", "a": SURE, "b": SURE} for model in ("l", "m")]
    assert markdown_robustness(rows, SHOWN, {}).startswith("| | ga (l) | ga (m) | n |\n")
