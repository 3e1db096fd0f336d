"""How many points of their courses the methods of a comparison choose among."""

import copy

import pytest

from atu.config.params import Params
from atu.config.points import check_points, point_counts
from atu.errors import ConfigError

RATE = {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}


@pytest.fixture
def comparing(mini_values):
    """A function that gives the miniature as a comparison of these methods, some with other
    settings, of which the rates of GA are searched; all have 12 steps and 6 points."""

    def make(*names, spaces=None, unlearn=None, **changes):
        values = copy.deepcopy(mini_values)
        entries = values["unlearn"]["methods"]
        for entry in entries.values():
            entry |= {k: v for k, v in {"steps": 12, "evaluations": 6}.items() if k in entry}
        for name, change in changes.items():
            entries[name] |= change
        values["unlearn"] |= unlearn or {}
        values["grid"] |= {"methods": ["none", "oracle", *names]}
        values["search"]["spaces"] = {"ga": RATE} if spaces is None else spaces
        return Params.model_validate(values)

    return make


def test_equal_numbers_are_accepted(comparing):
    """Rounds, stretches, multiples of a task vector and a copy's distillation: 6 each. An edit, a
    guard, an instruction and models that stay as they are have no course."""
    params = comparing(
        "atu", "ga", "rmu", "lunar", "whp", "pdu", "task_vector", "rocr", "uld", "eco", "icu"
    )
    found = {name: point_counts(params, name) for name in params.grid.methods}
    exempt = ("none", "oracle", "rocr", "uld", "eco", "icu")
    assert found == {name: set() if name in exempt else {6} for name in found}
    check_points(params)


RED = {
    "rounds": ({"atu": {"evaluations": 2}}, "atu 2, ga 6"),
    "stretches": ({"ga": {"evaluations": 5}}, "atu 6, ga 5"),
    "fewer steps than points": ({"ga": {"steps": 4}}, "atu 6, ga 4"),
    "multiples": ({"task_vector": {"alphas": [1.0, 2.0]}}, "task_vector 2"),
    "a round has one point with reference_compat": (
        {"unlearn": {"reference_compat": True}}, "atu 2, ga 6",
    ),
    "a choice": (
        {"spaces": {"ga": RATE | {"evaluations": {"choices": [3, 6]}}}}, "atu 6, ga 3 or 6",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RED)
def test_different_numbers_are_refused(comparing, name):
    """Each method is named with its number, those without a course not."""
    changes, told = RED[name]
    with pytest.raises(ConfigError, match="same `evaluations`") as caught:
        check_points(comparing("atu", "ga", "task_vector", "eco", **changes))
    assert told in caught.value.value and "eco" not in caught.value.value


@pytest.mark.parametrize("change", [{"spaces": {}}, {"unlearn": {"keep": "last"}}])
def test_without_a_search_or_a_choice_nothing_is_refused(comparing, change):
    check_points(comparing("atu", "ga", atu={"evaluations": 2}, **change))
