"""Which models a metric tells apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.errors import EvaluationError
from atu.metrics.faithfulness import faithfulness, knows

POOL = st.lists(st.floats(-10, 10), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("knowing", "ignorant", "rises", "falls"),
    [
        ([3, 1], [2, 1], 0.625, 0.375),  # 3 > 2, 3 > 1, 1 < 2, 1 = 1
        ([1, 2], [0, -1], 1.0, 0.0),
        ([0.5], [0.5, 0.5], 0.5, 0.5),
    ],
)
def test_the_direction_is_declared(knowing, ignorant, rises, falls):
    """A metric that says the contrary is below 1/2, not turned round."""
    assert faithfulness(knowing, ignorant, "rises") == rises
    assert faithfulness(knowing, ignorant, "falls") == falls


@given(POOL, POOL)
def test_a_metric_turned_round_falls(knowing, ignorant):
    turned = faithfulness([-v for v in knowing], [-v for v in ignorant], "falls")
    assert turned == pytest.approx(faithfulness(knowing, ignorant, "rises"))


@pytest.mark.parametrize(("knowing", "ignorant"), [([], [1.0]), ([1.0], [float("nan")])])
def test_a_pool_without_numbers_is_refused(knowing, ignorant):
    with pytest.raises(EvaluationError):
        faithfulness(knowing, ignorant, "rises")


@pytest.mark.parametrize(
    ("knowing", "ignorant", "way", "not_knowing", "knowing_value"),
    [
        ([3, 1], [0, 0], "rises", 0.5, 0.6),  # the gap from 0 to 1
        ([0, 0], [3, 1], "falls", 0.5, 0.4),
        ([5, 2], [3, 0], "rises", 1.0, 1.1),  # 1 is right of three, as 4 is; the lower one
        ([1], [1], "rises", 1.0, 1.1),  # nothing parts them
    ],
)
def test_the_threshold_parts_the_pools_best(knowing, ignorant, way, not_knowing, knowing_value):
    assert not knows(not_knowing, knowing, ignorant, way)
    assert knows(knowing_value, knowing, ignorant, way)
