"""Options of a multiple-choice question: the likeliest is the answer; a tie is shared."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.errors import EvaluationError
from atu.metrics.options import option_accuracy

LOGS = st.lists(st.integers(-4, 0).map(float), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("log_probs", "scores"),
    [
        ([-3.0, -1.0, -2.0], [0, 1, 0]),
        ([-1.0, -2.0, -1.0], [1 / 2, 0, 1 / 2]),
        ([-7.0] * 4, [1 / 4] * 4),
        ([-1e4, -1e4 - 1], [1, 0]),
        ([-5.0], [1]),
    ],
    ids=["one is best", "two share", "all equal", "a ruined model", "one option"],
)
def test_by_hand(log_probs, scores):
    assert [option_accuracy(log_probs, gold) for gold in range(len(scores))] == scores


@given(LOGS)
def test_every_question_has_one_point_to_give(log_probs):
    """Whichever option is right: so constant answers score chance whatever the answers' order."""
    total = sum(option_accuracy(log_probs, gold) for gold in range(len(log_probs)))
    assert total == pytest.approx(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("gold", [0, 1])
def test_what_is_no_number_is_no_answer(bad, gold):
    """NumPy's argmax takes the first NaN for the largest."""
    with pytest.raises(EvaluationError, match=r"value 0 is -?(nan|inf), not finite"):
        option_accuracy([bad, -1.0], gold)


@pytest.mark.parametrize("gold", [-1, 2])
def test_a_right_option_that_is_not_there(gold):
    with pytest.raises(EvaluationError, match=f"option {gold} is right, but there are 2 options"):
        option_accuracy([-1.0, -2.0], gold)


def test_no_options():
    with pytest.raises(EvaluationError, match="at least one number"):
        option_accuracy([], 0)
