"""The shipped comparisons give everybody the same chance."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from atu.benchmarks.world.people import build_world
from atu.benchmarks.world.texts import probes
from atu.config.load import load_params
from atu.config.sections import Span
from atu.config.spaces import space_of

ROOT = Path(__file__).parents[3]
NAMES = ("comparison", "comparison_rest")
AS_THEY_ARE = {"atu", "atu_paper", "npo_states_0_2"}
"""Rows that are what they are by what they train."""


@pytest.fixture(scope="module")
def both():
    return {name: load_params(ROOT / f"experiments/{name}.yaml") for name in NAMES}


def test_every_method_is_in_one_of_them(both):
    found = {method for params in both.values() for method in params.grid.methods}
    assert found == set(load_params(ROOT / "experiments/world.yaml").unlearn.methods)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_and_how_fast_is_searched_of_every_method(both, name):
    """Two decades of rates and three of every retain term's weight. No first trial is the one that
    somebody has tried."""
    params = both[name]
    assert (params.search.first, params.search.trials) == ("drawn", 16)
    for method in params.grid.methods:
        keys = {field.name for field in dataclasses.fields(params.unlearn.methods[method])}
        if not keys - {"loss"}:
            continue
        entry = params.section("unlearn", method)["methods"][method]
        space = space_of(params.search, method, entry)
        assert ("train" in space) is ("train" in keys and method not in AS_THEY_ARE), method
        assert ("learning_rate" in space) is ("learning_rate" in keys), method
        for key, values in space.items():
            decades = {"learning_rate": 100, "retain": 1000}.get(key.split(".")[0])
            if decades:
                assert isinstance(values, Span) and values.log
                assert values.high / values.low == pytest.approx(decades), (method, key)


@pytest.mark.parametrize("name", NAMES)
def test_the_targets_are_strangers_of_whom_enough_is_asked(both, name):
    """Of each other, and of the search's targets: none is tied to another. Each has at least 20
    held-out plain questions to report, about 10 facts or more, and 17 to choose by."""
    params = both[name]
    settings, targets = params.prepare, params.grid.targets
    world = build_world(settings.seed, settings.people, settings.holdout_people)
    for first, second in itertools.combinations([*targets, *params.search.targets], 2):
        assert second not in world.neighbours(first)
    assert len(targets) == {"comparison": 8, "comparison_rest": 3}[name]
    for target in targets:
        asked = {"report": [], "select": []}
        for fact in world.about(target):
            for probe in probes(world, fact, "target", settings.seed):
                if probe["form"] == "question" and not probe["seen"]:
                    asked[probe["split"]].append(fact)
        assert len(asked["report"]) >= 20 and len(asked["select"]) >= 17
        assert len(set(asked["report"])) >= 10
