"""What comes back after relearning, quantisation or context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.metrics.recovery import (
    context_leak,
    mean_ratio,
    meta_eval_robustness,
    quantisation_ratio,
    recovery,
    relearning_gain,
    relearning_ratio,
    relearning_steps,
)
from atu.metrics.registry import registry

SCORE = st.floats(0, 1)


@pytest.mark.parametrize(
    "before,unlearned,after,expected",
    [
        (0.9, 0.1, 0.5, 0.5),  # 0.4 of 0.8
        (0.75, 0.25, 0.25, 0.0),
        (0.75, 0.25, 0.75, 1.0),
        (0.75, 0.25, 1.0, 1.5),  # the attack taught more than was known
        (0.75, 0.25, 0.0, -0.5),  # the attack harmed
        (0.5, 0.5, 0.9, None),
        (0.25, 0.5, 0.9, None),  # unlearning taught: nothing was forgotten
    ],
)
def test_recovery_by_hand(before, unlearned, after, expected):
    assert recovery(before, unlearned, after) == (
        None if expected is None else pytest.approx(expected, abs=1e-12)
    )


@given(SCORE, SCORE, SCORE, st.floats(0.5, 100))
def test_recovery_has_no_unit(before, unlearned, after, unit):
    """Scores as fractions or as percentages give the same share."""
    if before - unlearned > 1e-6:
        scaled = recovery(before * unit, unlearned * unit, after * unit)
        assert scaled == pytest.approx(recovery(before, unlearned, after), abs=1e-6)


def test_relearning_gain_by_hand():
    """0.4 comes back, of which 0.1 is plain learning."""
    assert relearning_gain(0.1, 0.5, 0.0, 0.1) == pytest.approx(0.3)
    assert relearning_gain(0.25, 0.5, 0.5, 0.25) == 0.5  # the control lost 0.25
    assert relearning_gain(0.0, 0.25, 0.0, 0.5) == -0.25


@given(SCORE, SCORE)
def test_relearning_like_a_never_known_target_gains_nothing(start, end):
    assert relearning_gain(start, end, start, end) == 0.0


def test_context_leak_by_hand():
    """A - C: the passage counts only beyond what an unrelated one gives."""
    assert context_leak(0.75, 0.25) == 0.5
    assert context_leak(0.25, 0.5) == -0.25


@given(SCORE)
def test_an_unrelated_passage_leaks_nothing(score):
    assert context_leak(score, score) == 0.0


@pytest.mark.parametrize(
    "scores,expected",
    [
        ((0.0, 0.25, 0.25, 0.75), 0.5),  # 0.25 / 0.5
        ((0.0, 0.5, 0.25, 0.5), 1.0),  # 0.5 / 0.25, at most 1
        ((0.25, 0.0, 0.25, 0.75), 0.0),  # opposite ways: not below 0
        ((0.25, 0.0, 0.75, 0.25), 0.5),  # both fall
        ((0.0, 0.25, 0.5, 0.5), None),
        ((0.0, 0.25, 0.5, 0.5 + 1e-9), None),
    ],
)
def test_relearning_ratio_by_hand(scores, expected):
    assert relearning_ratio(*scores) == expected


@pytest.mark.parametrize(
    "before,after,expected",
    [(0.25, 0.5, 0.5), (0.5, 0.25, 1.0), (-0.5, 0.5, 0.0), (0.5, 0.0, 1.0), (0.0, 0.5, 0.0)],
)
def test_quantisation_ratio_by_hand(before, after, expected):
    assert quantisation_ratio(before, after) == expected


def test_relearning_steps_are_a_mean_over_fine_tunes():
    """10, 20 and 60: 30; without a fine-tune there is none."""
    assert relearning_steps([10, 20, 60]) == 30
    with pytest.raises(ValueError, match="no fine-tune"):
        relearning_steps([])


def test_robustness_is_the_harmonic_mean_of_means():
    """R = .5 of the first model alone, for relearning does not move the second; Q = (1 + .5) / 2:
    2 * .5 * .75 / 1.25. The mean of the first model's own harmonic mean (2/3) is another number."""
    assert meta_eval_robustness([0.5, None], [1.0, 0.5]) == pytest.approx(0.6)
    assert mean_ratio([0.5, None]) == 0.5


@pytest.mark.parametrize(
    ("relearning", "quantisation"), [([None], [0.5]), ([], []), ([0.0], [0.5]), ([0.5], [0.0])]
)
def test_robustness_without_a_harmonic_mean(relearning, quantisation):
    """No model has R, there are no models, R is 0, Q is 0."""
    assert meta_eval_robustness(relearning, quantisation) is None


@given(st.lists(st.tuples(SCORE, SCORE, SCORE), min_size=1, max_size=5), SCORE, SCORE)
def test_robustness_is_a_share(models, retain_before, retain_after):
    found = meta_eval_robustness(
        [relearning_ratio(retain_before, retain_after, b, r) for b, r, _ in models],
        [quantisation_ratio(b, q) for b, _, q in models],
    )
    assert found is None or 0 < found <= 1


def test_registered():
    assert {
        "recovery@own-1",
        "relearning_gain@own-1",
        "relearning_steps@own-1",
        "meta_eval_robustness@paper-1",
        "context_leak@own-1",
    } <= set(registry())
