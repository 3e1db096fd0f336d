import numpy as np
import pytest

from atu.metrics.oracle_distance import oracle_distance

ORACLE = {
    "target": 0.0, "worst_form": 0.25, "neighbour": 1.0, "partner": 0.9, "other": 0.9,
    "general": 0.9,
}  # fmt: skip


def test_value():
    """As the docstring has it: (.125 + (.1 + .4) / 2 + 0 + (0 + .1) / 2) / 4. The other way round
    only what leaks and the general facts are off: (.125 + .05) / 4."""
    oracle = ORACLE | {"task.generate": 0.9}
    off = {"worst_form": 0.0, "neighbour": 0.9, "partner": 0.5, "general": 1.0}
    method = oracle | off | {"task.generate": 0.8}
    assert oracle_distance(method, oracle) == pytest.approx(0.10625)
    assert oracle_distance(oracle, method) == pytest.approx(0.04375)
    assert oracle_distance(oracle, oracle) == 0.0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["target", "neighbour"], 0.25),  # .5 and 0
        (["target", "neighbour", "partner"], 0.3),  # .5 and (0 + .2) / 2
        (["target", "worst_form"], 0.375),  # (.5 + .25) / 2
        (["target", "worst_form", "general", "task.a", "task.b"], (0.375 + 0.2) / 2),
    ],
)
def test_what_is_not_asked_is_no_part(names, expected):
    """And many scores of a part weigh as one: general facts .3 off, two tasks .3 and 0."""
    oracle = dict.fromkeys(names, 0.5)
    off = {"target": 0.5, "worst_form": -0.25, "partner": -0.2, "general": -0.3, "task.a": -0.3}
    method = {name: 0.5 + off.get(name, 0.0) for name in names}
    assert oracle_distance(method, oracle) == pytest.approx(expected)


def test_resamples_are_taken_one_by_one():
    """Above in one and below in the other: they do not cancel."""
    method, oracle = {"target": np.array([0.0, 1.0])}, {"target": np.array([0.5, 0.5])}
    assert oracle_distance(method, oracle).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("method", [{}, {"target": 0.0}, ORACLE | {"task.generate": 1.0}])
def test_other_scores_are_refused(method):
    with pytest.raises(ValueError, match="not the same scores"):
        oracle_distance(method, ORACLE if method else {})
