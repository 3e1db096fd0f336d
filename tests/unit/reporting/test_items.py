"""Items of cells, estimates from them, and differences between two methods item by item."""

import math

import polars as pl
import pytest

from atu.metrics.bootstrap import Estimate, verdict
from atu.probes.prompts import ASIDE
from atu.reporting.items import (
    clusters,
    difference,
    estimate,
    load_attacks,
    load_items,
    of,
    worst,
    worst_note,
)
from atu.results.items import PROBABILITY, SCORE


@pytest.fixture
def scored(make_item):
    """A function that gives items with these scores by (target, fact): one question each, or one
    per score of a list."""

    def make(scores, column=SCORE):
        rows = []
        for (target, fact), values in scores.items():
            for number, value in enumerate(values if isinstance(values, list) else [values]):
                item = make_item(fact, **{column: value, "id": f"{fact}/{number}"})
                rows.append(item | {"target": target, "seed": 0})
        schema = {column: pl.Float64, "target": pl.String, "seed": pl.Int64}
        return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)

    return make


def facts(values, target="Ada"):
    return {(target, f"{target}/{number}"): value for number, value in enumerate(values)}


def test_only_the_report_split_is_loaded(make_cell, ga_leaks):
    """4 roles x 2 facts as questions, and 2 facts in each of the 7 other ways: 22 per cell."""
    cells = [make_cell(), make_cell("ga", leaks=ga_leaks)]
    items = load_items([cell["rephrase"] for cell in cells])
    assert items["split"].unique().to_list() == ["report"]
    assert items.group_by("method").len().sort("method").rows() == [("ga", 22), ("none", 22)]
    assert items.select("model", "target", "seed").unique().rows() == [("m", "Ada", 0)]


def test_items_of_attacks_carry_their_cell_and_their_attack(make_cell):
    cells = [make_cell(m, attacks={"lens": 1.0, "context": 0.0}) for m in ("none", "ga")]
    found = load_attacks([cell[f"attack/{a}"] for cell in cells for a in ("lens", "context")])
    assert set(found.select("method", "attack").unique().rows()) == {
        (method, attack) for method in ("none", "ga") for attack in ("lens", "context")
    }
    assert set(found.filter(pl.col("attack") == "lens")["score"]) == {1.0}


def test_no_attacks_are_no_items():
    assert load_attacks([]).is_empty()


def test_rows_are_of_their_model_and_method(make_cell):
    """The same method of another model is another row."""
    items = load_items([make_cell()["rephrase"], make_cell("ga")["rephrase"]])
    other = items.with_columns(model=pl.lit("l"))
    both = pl.concat([items, other])
    assert len(of(both, "m", "ga")) == 22
    assert of(both, "l", "ga").select("model", "method").unique().rows() == [("l", "ga")]


def test_targets_are_drawn_where_there_are_several(scored):
    """One target: its two facts are the clusters. Two targets: they are, and no fact is."""
    one = scored(facts([1.0, 0.0]))
    assert clusters(one) == ["Ada/0", "Ada/1"]
    two = scored(facts([1.0, 0.0]) | facts([1.0, 0.0], "Eve"))
    assert clusters(two) == ["Ada", "Ada", "Eve", "Eve"]


def test_the_interval_follows_the_clusters(scored, report_section):
    """Facts of one target scored 1 and 0 vary from draw to draw. Two targets of mean .5 each do
    not, whatever their facts scored; targets of mean 1 and 0 do."""
    one = estimate(scored(facts([1.0, 0.0])), report_section)
    assert (one.mean, one.low, one.high) == (0.5, 0.0, 1.0)
    alike = scored(facts([1.0, 0.0]) | facts([1.0, 0.0], "Eve"))
    narrow = estimate(alike, report_section)
    assert (narrow.mean, narrow.low, narrow.high, narrow.n) == (0.5, 0.5, 0.5, 4)
    apart = scored(facts([1.0, 1.0]) | facts([0.0, 0.0], "Eve"))
    wide = estimate(apart, report_section)
    assert (wide.mean, wide.low, wide.high) == (0.5, 0.0, 1.0)


def test_wordings_of_a_fact_are_one_draw(scored, report_section):
    """With one fact the interval has no width, whatever its wordings scored."""
    same = estimate(scored({("Ada", "f"): [1.0, 0.0]}), report_section)
    assert (same.mean, same.low, same.high, same.n) == (0.5, 0.5, 0.5, 2)


def test_an_item_without_a_score_makes_the_estimate_invalid(scored, report_section):
    found = estimate(scored(facts([1.0, None, 0.0, 1.0])), report_section)
    assert not found.valid
    assert (found.n, found.n_scored) == (4, 3)
    assert str(found) == "INVALID (3 of 4 scored)"


def test_no_items_are_an_invalid_estimate(scored, report_section):
    found = estimate(scored(facts([1.0])).clear(), report_section)
    assert not found.valid and found.n_scored == 0
    assert math.isnan(found.mean)


def test_a_difference_is_taken_item_by_item(scored, report_section):
    """1 - 0, 1 - 1, .5 - 0, .5 - 1: mean .25. The order of the second side does not matter."""
    first = scored(facts([1.0, 1.0, 0.5, 0.5]))
    second = scored(facts([0.0, 1.0, 0.0, 1.0]))
    found = difference(first, second, report_section, "x")
    assert (found.mean, found.n) == (0.25, 4)
    assert difference(first, second.reverse(), report_section, "x") == found
    assert difference(second, first, report_section, "x").mean == -0.25


def test_pairing_takes_out_what_both_share(scored, report_section):
    """Items are far apart, the methods .125 from each other in every one: the paired interval has
    no width, where the two separate ones overlap."""
    hard = [0.0, 0.25, 0.5, 0.75]
    first = scored(facts([value + 0.125 for value in hard]))
    second = scored(facts(hard))
    found = difference(first, second, report_section, "x")
    assert (found.mean, found.low, found.high) == (0.125, 0.125, 0.125)
    separate = [estimate(side, report_section) for side in (first, second)]
    assert separate[0].low < separate[1].high


def test_a_difference_draws_targets_where_there_are_several(scored, report_section):
    """Both targets differ by .5 in the mean, one fact of each by 1 and the other by 0."""
    first = scored(facts([1.0, 0.0]) | facts([0.0, 1.0], "Eve"))
    second = scored(facts([0.0, 0.0]) | facts([0.0, 0.0], "Eve"))
    found = difference(first, second, report_section, "x")
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    (one, other) = (side.filter(pl.col("target") == "Ada") for side in (first, second))
    alone = difference(one, other, report_section, "x")
    assert (alone.low, alone.high) == (0.0, 1.0)


def test_seeds_are_other_items(scored, report_section):
    """The same question of two seeds is paired within each seed: 1 - 0 and 0 - 1 give 0."""
    first, second = (
        pl.concat([scored(facts(one)), scored(facts(two)).with_columns(seed=pl.lit(1, pl.Int64))])
        for one, two in (([1.0], [0.0]), ([0.0], [1.0]))
    )
    found = difference(first, second, report_section, "x")
    assert (found.mean, found.n) == (0.0, 2)


@pytest.mark.parametrize("score", [SCORE, PROBABILITY])
@pytest.mark.parametrize(
    "change",
    [
        lambda items: items.head(2),
        lambda items: pl.concat([items, items.tail(1).with_columns(id=pl.lit("new"))]),
        lambda items: items.with_columns(id=pl.lit("other/") + pl.col("id")),
        lambda items: items.with_columns(target=pl.lit("Eve")),
        lambda items: items.with_columns(seed=pl.lit(1, pl.Int64)),
        lambda items: items.clear(),
    ],
    ids=["fewer", "more", "others", "another target", "another seed", "none"],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_other_items_are_refused(scored, report_section, change, swapped, score):
    """Whichever side has them, and whatever was scored."""
    items = scored(facts([1.0, 0.0, 0.5]), score)
    sides = (items, change(items))
    with pytest.raises(ValueError, match=r"target: .* have different items"):
        difference(*(sides[::-1] if swapped else sides), report_section, "target", score)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_difference_with_an_item_not_scored_supports_no_claim(scored, report_section, swapped):
    """Three items differ by 1, the fourth was not scored on one side."""
    sides = (scored(facts([1.0, 1.0, 1.0, 1.0])), scored(facts([0.0, 0.0, 0.0, None])))
    found = difference(*(sides[::-1] if swapped else sides), report_section, "x")
    assert (found.valid, found.n, found.n_scored) == (False, 4, 3)
    assert verdict(found, higher_is_better=True) == "no difference"
    assert verdict(found, higher_is_better=False) == "no difference"


@pytest.mark.parametrize(
    ("interval", "higher", "lower"),
    [
        ((0.1, 0.4), "better", "worse"),
        ((-0.4, -0.1), "worse", "better"),
        ((-0.1, 0.4), "no difference", "no difference"),
        ((0.0, 0.4), "no difference", "no difference"),
        ((-0.4, 0.0), "no difference", "no difference"),
        ((0.0, 0.0), "no difference", "no difference"),
    ],
)
def test_better_only_where_the_interval_excludes_0(interval, higher, lower):
    found = Estimate(sum(interval) / 2, *interval, 10)
    assert verdict(found, higher_is_better=True) == higher
    assert verdict(found, higher_is_better=False) == lower


def test_the_worst_form_is_taken_per_target_seed_and_fact(make_item):
    """Ada/pet: question 0, cloze 1: 1. The same fact for another seed and for another target is
    another row; the row's `id` is the fact."""
    rows = [
        make_item("f", "question", hit=0.0) | {"target": "Ada", "seed": 0},
        make_item("f", "cloze", hit=1.0) | {"target": "Ada", "seed": 0},
        make_item("f", "question", hit=0.0) | {"target": "Ada", "seed": 1},
        make_item("f", "cloze", hit=0.0) | {"target": "Eve", "seed": 0},
    ]
    found = worst(pl.DataFrame(rows, infer_schema_length=None))
    assert found.select("target", "seed", "fact", "id", SCORE).rows() == [
        ("Ada", 0, "f", "f", 1.0), ("Ada", 1, "f", "f", 0.0), ("Eve", 0, "f", "f", 0.0),
    ]  # fmt: skip


def test_a_fact_with_a_form_that_was_not_scored_has_no_worst_form(make_item, report_section):
    """The missing form may be the one that leaks: neither a 0 nor a fact less."""
    rows = [
        make_item("Ada/pet", "question", hit=0.0),
        make_item("Ada/pet", "cloze", hit=None),
        make_item("Ada/food", "question", hit=1.0),
        make_item("Ada/job", "question", hit=None),
    ]
    items = pl.DataFrame([row | {"target": "Ada", "seed": 0} for row in rows])
    found = estimate(worst(items), report_section)
    assert (found.n, found.n_scored) == (3, 1)


def test_a_fact_with_too_few_wordings_is_left_out(make_item, report_section):
    """Of two: Ada/pet 0 and 1, so 1; Ada/food has one wording, and one that stands aside; of
    Ada/job one of two is unscored. The note says so."""
    rows = [
        make_item("Ada/pet", "question", hit=0.0),
        make_item("Ada/pet", "cloze", hit=1.0),
        make_item("Ada/food", "question", hit=1.0),
        make_item("Ada/job", "question", hit=None),
        make_item("Ada/job", "cloze", hit=1.0),
    ]
    aside = make_item("Ada/food", "alias", hit=1.0, worst_of=ASIDE)
    rows = [aside, *(row | {"worst_of": 2} for row in rows)]
    items = pl.DataFrame([row | {"target": "Ada", "seed": 0} for row in rows])
    assert worst(items).select("fact", SCORE).rows() == [("Ada/job", None), ("Ada/pet", 1.0)]
    assert worst_note(items) == (
        "Worst form: per fact, the expected worst of 2 of its wordings; of 3 facts, asked in 1 to "
        "2 wordings each (median 2), 1 have fewer and are left out."
    )
    all_forms = items[1:].with_columns(worst_of=pl.lit(None, pl.Int64))
    assert worst_note(all_forms) == (
        "Worst form: per fact, the form in which it leaks most; 3 facts, asked in 1 to 2 wordings "
        "each (median 2)."
    )


def test_the_worst_form_of_nothing_is_an_empty_table(make_item, report_section):
    empty = pl.DataFrame([make_item() | {"target": "Ada", "seed": 0}]).clear()
    assert worst(empty).is_empty()
    assert not estimate(worst(empty), report_section).valid
