"""What is left of each name after requests for several, from items whose scores are given."""

import polars as pl
import pytest

from atu.metrics.bootstrap import Estimate
from atu.phases.rephrase import ITEMS
from atu.reporting.items import CELL
from atu.reporting.requests import RETAINED, of_request, requests_table
from atu.results.items import SCORE
from atu.untrusted.targets import Target, steps

TOGETHER = Target(("Ada", "Bea"))
FIRST, SECOND, THIRD = steps(["Ada", "Bea", "Cleo"])
KEYS = ("target", "worst_form", *RETAINED)


@pytest.fixture
def cell(make_item):
    """A function that gives the items of one cell from `{fact: {form: score}}` by role; what is
    asked besides, in seen wordings and on the `select` split, is answered rightly by all."""

    def make(target, about, kept=(), method="ga", seed=0, model="m"):
        rows = [
            make_item(fact, form, hit=hit, role=role)
            for role, facts in {"target": about, **dict(kept)}.items()
            for fact, forms in facts.items()
            for form, hit in forms.items()
        ]
        rows += [make_item(fact, seen=True, hit=1.0) for fact in about]
        own = dict(zip(CELL, (model, target.label, method, seed), strict=True))
        frame = pl.DataFrame(rows, schema=ITEMS, orient="row")
        return frame.with_columns(**{key: pl.lit(value) for key, value in own.items()})

    return make


def table(section, cells, methods, requests):
    """`{(model, request, method, name): means in the order of KEYS}`."""
    rows = requests_table(pl.concat(cells), section, methods, requests)
    return {
        (row["model"], row["request"], row["method"], row["name"]): tuple(
            row[key].mean for key in KEYS
        )
        for row in rows
    }


KEPT_ITEMS = {
    "neighbour": {"Bob/pet": {"question": 1.0, "cloze": 0.0}, "Bob/food": {"question": 0.0}},
    "other": {"Cyd/pet": {"question": 1.0, "choice": 0.0}},
    "partner": {"Pia/pet": {"paired": 1.0}},
    "general": {"Dania/flag": {"question": 0.0}},
}


def test_two_names_at_once(cell, report_section):
    """Plain questions: of Ada's four facts one leaks, of Bea's two both. In the worst form two of
    Ada's do, as the cloze counts too. Kept, by plain questions: one of two neighbour's facts, all
    of the others; that partners know much and countries little is not in this table."""
    ada = {
        "Ada/pet": {"question": 1.0, "cloze": 0.0}, "Ada/food": {"question": 0.0, "cloze": 1.0},
        "Ada/job": {"question": 0.0}, "Ada/town": {"question": 0.0},
    }  # fmt: skip
    bea = {"Bea/pet": {"question": 1.0, "cloze": 1.0}, "Bea/food": {"question": 1.0}}
    found = table(report_section, [cell(TOGETHER, ada | bea, KEPT_ITEMS)], ["ga"], [TOGETHER])
    assert found == {
        ("m", "Ada + Bea", "ga", "Ada"): (0.25, 0.5, 0.5, 1.0),
        ("m", "Ada + Bea", "ga", "Bea"): (1.0, 1.0, 0.5, 1.0),
    }


def test_a_sequence_asks_for_every_name_again(cell, report_section):
    """Ada, who was forgotten first, has come back by half after Bea and wholly after Cleo."""

    def about(**hits):
        return {
            f"{name}/{i}": {"question": h} for name, hs in hits.items() for i, h in enumerate(hs)
        }

    cells = [
        cell(FIRST, about(Ada=[0.0, 0.0])),
        cell(SECOND, about(Ada=[1.0, 0.0], Bea=[0.0, 0.0])),
        cell(THIRD, about(Ada=[1.0, 1.0], Bea=[1.0, 0.0], Cleo=[0.0, 0.0])),
    ]
    found = table(report_section, cells, ["ga"], [SECOND, THIRD])
    assert {key[1:2] + key[3:]: means[0] for key, means in found.items()} == {
        ("Ada, then Bea", "Ada"): 0.5,
        ("Ada, then Bea", "Bea"): 0.0,
        ("Ada, then Bea, then Cleo", "Ada"): 1.0,
        ("Ada, then Bea, then Cleo", "Bea"): 0.5,
        ("Ada, then Bea, then Cleo", "Cleo"): 0.0,
    }


def test_every_model_and_method_has_its_rows(cell, report_section):
    """In the order of models and of the methods given; each from its own items, pooled over
    seeds."""

    def one(hit, method, model="m", seed=0):
        return cell(TOGETHER, {"Ada/pet": {"question": hit}, "Bea/pet": {"question": 0.0}},
                    method=method, model=model, seed=seed)  # fmt: skip

    cells = [
        one(0.0, "ga", "n"), one(1.0, "none", "n"),
        one(0.0, "ga"), one(1.0, "ga", seed=1), one(1.0, "none"), one(1.0, "none", seed=1),
    ]  # fmt: skip
    found = table(report_section, cells, ["none", "ga"], [TOGETHER])
    assert [(key[0], key[2], key[3], means[0]) for key, means in found.items()] == [
        ("m", "none", "Ada", 1.0), ("m", "none", "Bea", 0.0),
        ("m", "ga", "Ada", 0.5), ("m", "ga", "Bea", 0.0),
        ("n", "none", "Ada", 1.0), ("n", "none", "Bea", 0.0),
        ("n", "ga", "Ada", 0.0), ("n", "ga", "Bea", 0.0),
    ]  # fmt: skip


def test_a_single_target_has_no_rows(cell, report_section):
    """It is in the tables of its own."""
    items = cell(FIRST, {"Ada/pet": {"question": 1.0}})
    assert requests_table(items, report_section, ["ga"], []) == []
    assert requests_table(items.clear(), report_section, ["ga"], []) == []


def test_other_requests_do_not_count(cell, report_section):
    """About the same names and of the same method."""
    both = [
        cell(target, {"Ada/pet": {"question": hit}, "Bea/pet": {"question": hit}})
        for target, hit in ((TOGETHER, 1.0), (SECOND, 0.0))
    ]
    assert len(of_request(pl.concat(both), SECOND)) == len(both[1])
    found = table(report_section, both, ["ga"], [SECOND])
    assert {means[0] for means in found.values()} == {0.0} and len(found) == 2


def test_what_was_not_scored_is_invalid_for_its_name_alone(cell, report_section):
    """One of Bea's items has no score."""
    items = cell(TOGETHER, {f"{n}/{k}": {"question": 0.0} for n in ("Ada", "Bea") for k in "pf"})
    lost = pl.when(pl.col("fact") == "Bea/p").then(None).otherwise(pl.col(SCORE))
    ada, bea = requests_table(
        items.with_columns(lost.alias(SCORE)), report_section, ["ga"], [TOGETHER]
    )
    assert ada["target"] == Estimate(0.0, 0.0, 0.0, 2) and ada["worst_form"].valid
    assert (bea["target"].n, bea["target"].n_scored) == (2, 1)
    assert not bea["worst_form"].valid
    assert not ada["neighbour"].valid and not bea["other"].valid, "nobody was asked"


def test_names_that_stand_for_sets_are_asked_together(cell, report_section):
    """TOFU's forget01 names two authors, of whom one leaks: no row for a name nobody is called."""
    sets = Target(("forget01", "forget05"))
    about = {"Ada/pet": {"question": 1.0}, "Bea/pet": {"question": 0.0}}
    found = table(report_section, [cell(sets, about, KEPT_ITEMS)], ["ga"], [sets])
    assert found == {("m", sets.label, "ga", sets.label): (0.5, 0.5, 0.5, 1.0)}
