import dataclasses

import pytest

from atu.config.sections import Choices, Search, Span
from atu.config.spaces import ends, overlapping, space_of, value_at, with_values
from atu.errors import ConfigError


@pytest.fixture
def entry(mini_params):
    """The miniature's entry of GA, as in the parameter file."""
    return mini_params.section("unlearn", "ga")["methods"]["ga"]


def test_values_by_dotted_key(entry):
    assert value_at(entry, "learning_rate", "x") == entry["learning_rate"]
    assert value_at(entry, "retain.nll", "x") == 0.0


@pytest.mark.parametrize(
    ("key", "says"),
    [("rate", "has no 'rate'"), ("retain.wight", "no 'wight'"), ("steps.x", "no keys")],
)
def test_an_unknown_key_is_named(entry, key, says):
    with pytest.raises(ConfigError, match=says) as caught:
        value_at(entry, key, "search.spaces.ga")
    assert caught.value.key == f"search.spaces.ga.{key}"


def test_values_are_put_in_and_the_entry_stays(entry):
    before = repr(entry)
    made = with_values("ga", entry, {"retain": entry["retain"] | {"kl": 2.0}, "steps": 3})
    assert (made.retain.kl, made.retain.nll, made.steps) == (2.0, 0.0, 3)
    assert with_values("ga", entry, {"retain.nll": 0.5}).retain.nll == 0.5
    assert repr(entry) == before


def test_a_value_out_of_bounds_is_refused(entry):
    with pytest.raises(ConfigError, match="greater than 0"):
        with_values("ga", entry, {"learning_rate": -1.0})


def test_settings_survive_the_round_trip(mini_params):
    """What a search writes down is what unlearning reads, for every method of the miniature."""
    for name, settings in mini_params.unlearn.methods.items():
        assert with_values(name, dataclasses.asdict(settings), {}) == settings


def test_ends():
    assert ends(Span(low=0.1, high=1.0, log=True)) == [0.1, 1.0]
    assert ends(Choices(choices=["a", "b", "c"])) == ["a", "b", "c"]


RATE, OTHER = Span(low=0.1, high=1.0, log=True), Span(low=0.2, high=0.3, log=False)
WAYS = Choices(choices=[{"update": "all"}, {"update": "layers", "layers": [0]}])


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"learning_rate": RATE, "train": WAYS}),
        ({"steps": OTHER}, {"learning_rate": RATE, "train": WAYS, "steps": OTHER}),
        ({"learning_rate": OTHER}, {"learning_rate": OTHER, "train": WAYS}),
        ({"learning_rate": None}, {"train": WAYS}),
        ({"train.layers": OTHER}, {"learning_rate": RATE, "train.layers": OTHER}),
    ],
)
def test_a_methods_own_space_goes_before_what_is_common(entry, own, expected):
    """GA has no `beta`, so that is not searched of it."""
    common = {"learning_rate": RATE, "train": WAYS, "beta": OTHER}
    search = Search(
        targets=["Ada"],
        finalists=1,
        seed=0,
        trials=1,
        first="drawn",
        relearn=None,
        common=common,
        spaces={"ga": own},
    )
    assert space_of(search, "ga", entry) == expected


def test_dotted_keys_overlap_by_whole_parts():
    keys = ["train", "train.layers", "training", "retain.nll"]
    assert overlapping("train", keys) == ["train", "train.layers"]
    assert overlapping("train.layers", keys) == ["train", "train.layers"]
    assert overlapping("retain", keys) == ["retain.nll"]
