"""Scores of one text by hand, and the area under the ROC curve of two sets of scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.errors import EvaluationError
from atu.metrics.membership import (
    auc,
    finite_values,
    membership_gradient_norm,
    membership_loss,
    membership_min_k,
    membership_min_k_fixed,
    membership_min_k_plus_plus,
    membership_min_k_plus_plus_faithful,
    membership_reference,
    membership_zlib,
    rwku_familiarity,
)

LOG_PROBS = np.array([-1.0, -5.0, -3.0, -2.0])
LOGS = st.lists(st.floats(-50, 0), min_size=1, max_size=30)
SCORES = st.lists(st.integers(-20, 20), min_size=1, max_size=30)
SHARES = st.floats(0.01, 1)


def test_loss_is_the_mean_of_the_tokens():
    assert membership_loss([-1.0, -3.0]) == -2.0


def test_zlib_divides_the_mean_by_the_compressed_bytes():
    """ "aaaa..." of 1000 letters compresses to 17 bytes; an empty text to 8."""
    assert membership_zlib([-1.0, -3.0], "a" * 1000) == -2 / 17
    assert membership_zlib([-1.0, -3.0], "") == -2 / 8


def test_zlib_counts_bytes_of_utf8():
    """An é is two bytes, stored as they are in a text this short: one byte more than an e."""
    plain, accented = membership_zlib([-1.0], "e"), membership_zlib([-1.0], "é")
    assert 1 / plain - 1 / accented == pytest.approx(1)


def test_zlib_forgives_a_text_that_is_hard_to_compress():
    """Equally likely per token, the text with more information in it is likelier a member."""
    easy, hard = "a" * 40, "q7Z!kd0-Vx.2mWp;9sLb)4Ru@eTj,1Gh"
    assert membership_zlib(LOG_PROBS, hard) > membership_zlib(LOG_PROBS, easy)


@pytest.mark.parametrize(
    ("share", "faithful", "fixed"),
    [(0.5, -4.0, -4.0), (1.0, -2.75, -2.75), (0.25, -5.0, -5.0), (0.2, None, -5.0), (0.7, -4, -4)],
)
def test_min_k(share, faithful, fixed):
    """Of (-1, -5, -3, -2) the half is (-5, -3); 0.7 of four tokens is floor(2.8) = 2; 0.2 is 0."""
    assert membership_min_k(LOG_PROBS, share) == faithful
    assert membership_min_k_fixed(LOG_PROBS, share) == fixed


def test_min_k_plus_plus():
    """(-1 + 2) / 1 = 1 and (-5 + 2) / 2 = -1.5."""
    arguments = ([-1.0, -5.0], [-2.0, -2.0], [1.0, 2.0])
    assert membership_min_k_plus_plus(*arguments, 0.5) == -1.5
    assert membership_min_k_plus_plus(*arguments, 0.1) == -1.5
    assert membership_min_k_plus_plus(*arguments, 1.0) == -0.25


def test_min_k_plus_plus_of_distributions():
    """The first, of p = (.7, .2, .1): mean -.2497 - .3219 - .2303 = -.8018, mean square .0891 +
    .5181 + .5302 = 1.1373, deviation sqrt(1.1373 - .6429) = .7031, so its rarest token scores
    (-2.3026 + .8018) / .7031 = -2.134."""
    p = np.array([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]])
    mean = (p * np.log(p)).sum(1)
    std = np.sqrt((p * np.log(p) ** 2).sum(1) - mean**2)
    # Second position: log p is log 1/2 or log 1/4, each half of the time, so one deviation above.
    drawn = np.log([0.1, 0.5])
    assert membership_min_k_plus_plus(drawn[1:], mean[1:], std[1:], 1.0) == pytest.approx(1)
    first = (np.log(0.1) - mean[0]) / std[0]
    assert membership_min_k_plus_plus(drawn, mean, std, 0.5) == pytest.approx(first)
    assert first == pytest.approx(-2.134, abs=1e-3)


def test_min_k_plus_plus_of_a_certain_token():
    """No deviation: a token that is as expected scores 0; others count in thousandths of a nat."""
    assert membership_min_k_plus_plus([0.0], [0.0], [0.0], 1.0) == 0.0
    assert membership_min_k_plus_plus([-1.0], [0.0], [0.0], 1.0) == pytest.approx(-1000)


def test_a_small_gradient_is_a_members():
    """The mean over weight tensors of each one's norm, negated."""
    assert membership_gradient_norm([1.0, 5.0]) == -3.0
    assert membership_gradient_norm([0.5]) > membership_gradient_norm([3.0])


def test_reference_of_another_length():
    assert membership_reference([-1.0, -3.0], [-4.0, -4.0, -4.0]) == 2.0
    assert membership_reference([-4.0], [-1.0, -3.0]) == -2.0


@pytest.mark.parametrize(
    ("members", "others", "expected"),
    [
        ([3, 1], [2, 1], 0.625),
        ([1.0], [0.0], 1.0),
        ([0.0], [1.0], 0.0),
        ([2, 2], [2], 0.5),
        ([1, 2, 3], [0, 0, 2.5, 4], 7 / 12),
    ],
)
def test_auc(members, others, expected):
    """The last: 1 and 2 beat both zeros, 3 also 2.5, none beats 4: (2 + 2 + 3) / 12."""
    assert auc(members, others) == pytest.approx(expected)


def test_auc_of_members_that_the_model_knows():
    """Orientation from log-probabilities to AUC: memorised texts come first with every score."""
    known, unknown = [-0.1, -0.2, -0.1, -0.4], [-3.0, -4.0, -2.0, -6.0]
    mean, std = [-2.0] * 4, [1.0] * 4
    pairs = [
        (membership_loss(x), membership_zlib(x, "text"),
         membership_min_k(x, 0.5), membership_min_k_fixed(x, 0.5),
         membership_min_k_plus_plus(x, mean, std, 0.5), membership_reference(x, [-1.0]))
        for x in (known, unknown)
    ]  # fmt: skip
    for member, other in zip(*pairs, strict=True):
        assert auc([member], [other]) == 1.0


def test_familiarity():
    """(-1, -3) loses 2, (-4) loses 4: mean 3, in hundredths."""
    assert rwku_familiarity([np.array([-1.0, -3.0]), np.array([-4.0])]) == 300.0


def test_familiarity_is_higher_for_less_familiar_texts():
    assert rwku_familiarity([[-5.0]]) > rwku_familiarity([[-1.0]])


def test_familiarity_leaves_out_texts_without_tokens():
    assert rwku_familiarity([[], [-2.0]]) == 200.0


@given(LOGS, SHARES)
def test_min_k_is_at_most_the_mean(log_probs, share):
    found = membership_min_k(log_probs, share)
    fixed = membership_min_k_fixed(log_probs, share)
    assert found is None or found == fixed
    assert min(log_probs) - 1e-9 <= fixed <= membership_loss(log_probs) + 1e-9


@given(LOGS)
def test_min_k_of_all_tokens_is_the_mean(log_probs):
    assert membership_min_k(log_probs, 1.0) == pytest.approx(membership_loss(log_probs))


@given(LOGS, SHARES)
def test_min_k_plus_plus_of_standard_tokens_is_min_k(log_probs, share):
    zeros, ones = np.zeros(len(log_probs)), np.ones(len(log_probs))
    found = membership_min_k_plus_plus(log_probs, zeros, ones, share)
    assert found == membership_min_k_fixed(log_probs, share)


@given(LOGS)
def test_a_model_is_its_own_reference(log_probs):
    assert membership_reference(log_probs, log_probs) == 0.0


@given(LOGS)
def test_familiarity_of_one_text_is_its_loss_in_hundredths(log_probs):
    assert rwku_familiarity([log_probs]) == pytest.approx(-100 * membership_loss(log_probs))


@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs(members, others):
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert auc(members, others) == pytest.approx(np.mean(pairs))


@given(SCORES, SCORES)
def test_auc_of_sides_exchanged(members, others):
    assert auc(members, others) + auc(others, members) == pytest.approx(1)


@given(SCORES, SCORES)
def test_auc_only_sees_ranks(members, others):
    cubed = auc([x**3 + 7 for x in members], [x**3 + 7 for x in others])
    negated = auc([-x for x in members], [-x for x in others])
    assert cubed == auc(members, others)
    assert negated == pytest.approx(1 - auc(members, others))


@pytest.mark.parametrize("values", [[], [[-1.0]], 3.0])
def test_not_a_list_of_numbers(values):
    with pytest.raises(EvaluationError, match=r"things: a list of at least one number"):
        finite_values(values, "things")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_named(bad):
    with pytest.raises(EvaluationError, match=rf"things: value 1 is {bad}, not finite"):
        finite_values([-1.0, bad, bad], "things")


@pytest.mark.parametrize(
    "score",
    [
        membership_loss,
        lambda x: membership_zlib(x, "text"),
        lambda x: membership_min_k(x, 0.5),
        lambda x: membership_min_k_fixed(x, 0.5),
        lambda x: membership_min_k_plus_plus(x, [0.0], [1.0], 0.5),
        lambda x: membership_min_k_plus_plus([-1.0], x, [1.0], 0.5),
        lambda x: membership_min_k_plus_plus([-1.0], [0.0], x, 0.5),
        lambda x: membership_reference(x, [-1.0]),
        lambda x: membership_reference([-1.0], x),
        lambda x: auc(x, [1.0]),
        lambda x: auc([1.0], x),
    ],
)
@pytest.mark.parametrize("values", [[], [float("nan")]])
def test_nothing_to_score_is_an_error(score, values):
    with pytest.raises(EvaluationError):
        score(values)


@pytest.mark.parametrize(
    ("members", "others", "named"),
    [
        ([], [1.0], "scores of members"),
        ([1.0], [], "scores of non-members"),
        ([1.0], [0.0, float("nan")], "scores of non-members: value 1 is nan"),
    ],
)
def test_auc_names_the_side(members, others, named):
    with pytest.raises(EvaluationError, match=named):
        auc(members, others)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan")])
def test_share_out_of_range(share):
    for score in (membership_min_k, membership_min_k_fixed):
        with pytest.raises(ValueError, match="share"):
            score(LOG_PROBS, share)
    with pytest.raises(ValueError, match="share"):
        membership_min_k_plus_plus([-1.0], [0.0], [1.0], share)


def test_min_k_plus_plus_of_unequal_lengths():
    with pytest.raises(ValueError, match="2 tokens, 1 means, 2 deviations"):
        membership_min_k_plus_plus([-1.0, -2.0], [0.0], [1.0, 1.0], 0.5)
    with pytest.raises(ValueError, match="2 tokens, 2 means, 1 deviations"):
        membership_min_k_plus_plus([-1.0, -2.0], [0.0, 0.0], [1.0], 0.5)


def test_a_negative_deviation():
    with pytest.raises(EvaluationError, match="negative"):
        membership_min_k_plus_plus([-1.0], [0.0], [-1.0], 0.5)


@pytest.mark.parametrize("norms", [[1.0, -1.0], [float("nan")], [float("inf")], []])
def test_no_gradient_norm(norms):
    with pytest.raises(EvaluationError, match="gradient norms"):
        membership_gradient_norm(norms)


@pytest.mark.parametrize(
    ("std", "share", "expected"),
    [([1.0, 2.0], 0.5, -1.5), ([1.0, 2.0], 1.0, -0.25), ([1.0, 2.0], 0.4, None),
     ([0.0, 2.0], 1.0, None), ([1.0, 0.0], 0.5, None)],
)  # fmt: skip
def test_rwkus_min_k_plus_plus(std, share, expected):
    """(-1, -5) of means -2: standardised 1 and -1.5. Of 0.8 tokens, or divided by 0, official code
    has NaN or an infinite score, which is none."""
    found = membership_min_k_plus_plus_faithful([-1.0, -5.0], [-2.0, -2.0], std, share)
    assert found == expected


@pytest.mark.parametrize(
    ("gap", "std", "expected"), [(1e-4, 1e-4, None), (-2e-3, 1e-3, -2.0), (-1e-4, 1e-3, -0.1)]
)
def test_what_rounding_leaves_is_no_spread(gap, std, expected):
    """Beside a mean of -2 float32 cannot tell a deviation of 7e-4 from 0: 0 / 0 is no score."""
    found = membership_min_k_plus_plus_faithful([-2.0 + gap], [-2.0], [std], 1.0)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_no_reference_has_no_default():
    with pytest.raises(EvaluationError, match="reference model"):
        membership_reference([-1.0], None)


@pytest.mark.parametrize("texts", [[], [[], []], [[-1.0], [float("nan")]]])
def test_no_familiarity(texts):
    """A model that gives NaN is an error here; the official code drops the text."""
    with pytest.raises(EvaluationError):
        rwku_familiarity(texts)
