"""The sentences that stand first on the page."""

import math
from collections import defaultdict

import pytest

from atu.metrics.bootstrap import Estimate
from atu.reporting import headline


def compared(method, target, worst_form, neighbour, other, model="m"):
    """A row of the main table; a mean that is None is over none of its items."""
    nan = math.nan
    means = {"target": target, "worst_form": worst_form, "neighbour": neighbour, "other": other}
    return {"model": model, "method": method} | {
        key: Estimate(nan, nan, nan, 4, 0) if mean is None else Estimate(mean, 0.0, 1.0, 4)
        for key, mean in means.items()
    }


OURS = compared("atu", 0.25, 0.5, 0.75, 0.75)


def dominance(rows, ours, names, ruined=()):
    utility = defaultdict(lambda: {"collapsed": 0.0}, {cell: {"collapsed": 1.0} for cell in ruined})
    return headline.dominance(rows, ours, names, utility)


@pytest.mark.parametrize(
    ("theirs", "dominates"),
    [
        ((0.25, 0.5, 0.75, 0.75), False),  # the same everywhere
        ((0.0, 0.5, 0.75, 0.75), True),  # less of the target alone is left
        ((0.25, 0.25, 0.75, 0.75), True),
        ((0.25, 0.5, 1.0, 0.75), True),  # more of the neighbours alone is kept
        ((0.25, 0.5, 0.75, 1.0), True),
        ((0.0, 0.25, 1.0, 1.0), True),
        ((0.5, 0.5, 0.75, 0.75), False),  # more of the target is worse
        ((0.25, 0.75, 1.0, 1.0), False),
        ((0.0, 0.0, 0.5, 1.0), False),
        ((0.0, 0.0, 1.0, 0.5), False),
    ],
)
def test_a_method_that_dominates_is_named(theirs, dominates):
    """At least as good in every column and better in one: of the target less is better, of all
    others more."""
    found = dominance([OURS, compared("ga", *theirs)], "atu", {"atu": "ATU", "ga": "GA"})
    said = (
        "GA does at least as well as ATU in all that is compared (target questions; target, worst "
        "form; neighbours; other people) and better in at least one; intervals may overlap."
    )
    assert found == ([said] if dominates else [])


@pytest.mark.parametrize(
    ("theirs", "dominates"),
    [
        ((0.25, 0.5, 0.75, 1.0), True),
        ((0.25, 0.25, 0.75, 0.75), True),  # nearer to the oracle's .25
        ((0.25, 0.0, 0.75, 0.75), False),  # as far below as ours is above
        ((0.25, 0.0, 1.0, 1.0), True),
        ((0.0, 0.25, 1.0, 1.0), False),  # below the oracle's .25, which ours has
    ],
)
def test_with_an_oracle_who_leaks_least_is_not_the_best(theirs, dominates):
    """The oracle answers .25 of the target's questions and in the worst form, ours .25 and .5."""
    oracle = compared("oracle", 0.25, 0.25, 1.0, 1.0)
    assert bool(dominance([OURS, oracle, compared("ga", *theirs)], "atu", {})) is dominates


@pytest.mark.parametrize("key", ["target", "worst_form", "neighbour", "other"])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("mean", [math.nan, 0.5])
def test_what_is_not_valid_dominates_nothing(key, side, mean):
    """Neither side's, whether there is no number or one over some of the items."""
    rows = [dict(OURS), compared("ga", 0.0, 0.0, 1.0, 1.0)]
    assert dominance(rows, "atu", {})
    rows[side][key] = Estimate(mean, mean, mean, 4, 0 if math.isnan(mean) else 3)
    assert dominance(rows, "atu", {}) == []


def test_who_can_dominate():
    """Neither ours, the original nor the oracle, nor a ruined model; nobody where ours was not run,
    and nobody against another model's."""
    best = (0.0, 0.0, 1.0, 1.0)
    assert dominance([OURS, compared("ga", *best)], "atu", {}, [("m", "ga")]) == []
    assert dominance([OURS, compared("ga", *best)], "atu", {}, [("m", "npo")])
    references = [compared(name, *best) for name in ("none", "oracle")]
    assert dominance([OURS, *references], "atu", {}) == []
    assert dominance([OURS, compared("ga", *best)], "npo", {}) == []
    assert dominance([OURS, compared("ga", *best, model="other")], "atu", {}) == []


def test_of_several_models_the_sentence_names_one():
    """GA on n is better there; on m it was not run."""
    rows = [OURS, OURS | {"model": "n"}, compared("ga", 0.0, 0.0, 1.0, 1.0, model="n")]
    (found,) = dominance(rows, "atu", {})
    assert found.startswith("ga (n) does at least as well as atu")
