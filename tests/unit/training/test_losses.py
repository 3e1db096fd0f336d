"""Losses that methods share, worked out by hand."""

import math

import pytest
import torch

from atu.training.losses import activation_error, distillation_loss, kl_to_reference

LN2 = math.log(2)
SCORED = torch.tensor([[-100, 0, -100]])


def two_token_logits(*probabilities):
    """[1, len, 2]: position t gives token 0 this probability."""
    return torch.tensor([[[math.log(p), math.log(1 - p)] for p in probabilities]])


def test_kl_is_zero_at_the_reference():
    """Also when the logits differ by a constant, which is the same distribution."""
    logits = torch.randn(2, 3, 5)
    mask = torch.ones(2, 3)
    assert kl_to_reference(logits + 7, logits, mask).item() == pytest.approx(0, abs=1e-6)


def test_kl_direction_and_mask():
    """Reference (1/2, 1/2), model (1/4, 3/4): 1/2 ln 2 + 1/2 ln (2/3) = 1/2 ln (4/3) = .1438. (The
    other direction would give .1308.) The second position differs wildly but is masked."""
    model = two_token_logits(1 / 4, 0.999)
    reference = two_token_logits(1 / 2, 0.001)
    value = kl_to_reference(model, reference, torch.tensor([[1, 0]]))
    assert value.item() == pytest.approx(0.5 * math.log(4 / 3))


HIDDEN = torch.tensor([[[1.0, 3.0], [0.0, 0.0]], [[2.0, 0.0], [9.0, 9.0]]])
MASK = torch.tensor([[1, 1], [1, 0]])


def test_activation_error():
    """The states of the docstring: texts of mean 1.5 and 1; relative to (2, 2), .625 and .5."""
    assert activation_error(HIDDEN, torch.tensor([1.0, 1.0]), MASK).item() == 1.25
    target = torch.tensor([2.0, 2.0])
    assert activation_error(HIDDEN, target, MASK, relative=True).item() == 0.5625


def test_a_relative_distance_is_each_tokens_own():
    """One text whose first state is 1000 times as large as its second. Both become 0: 1 each. The
    second alone: .5; divided by the mean square of both tokens it would be 1e-6."""
    target = torch.tensor([[[1000.0, 1000.0], [1.0, 1.0]]])
    mask = torch.ones(1, 2)
    for kept, expected in (([0, 0], 1.0), ([1, 0], 0.5), ([0, 1], 0.5)):
        hidden = target * torch.tensor(kept)[None, :, None]
        assert activation_error(hidden, target, mask, relative=True).item() == expected


def test_a_relative_distance_to_nothing_is_a_number():
    """Also where the token is masked: infinity times 0 would be none."""
    hidden, target = torch.ones(1, 2, 2), torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    for mask in (torch.tensor([[1, 0]]), torch.tensor([[1, 1]])):
        assert activation_error(hidden, target, mask, relative=True).isfinite()


def test_activation_error_of_a_text_without_tokens():
    assert activation_error(torch.ones(1, 2, 3), torch.zeros(3), torch.zeros(1, 2)).item() == 0


@pytest.mark.parametrize(
    ("target", "model", "expected"),
    [
        (1 / 4, 1 / 2, math.log(2)),
        (1 / 2, 1 / 4, math.log(16 / 3) / 2),
        (1 / 4, 1 / 4, 2 * math.log(2) - 0.75 * math.log(3)),
    ],
)
def test_distillation_loss(target, model, expected):
    """Only position 0 is scored. Targets (1/4, 3/4), model (1/2, 1/2): ln 2. The other way round:
    (ln 4 + ln 4/3) / 2. Both (1/4, 3/4), the entropy: (ln 4 + 3 ln 4/3) / 4 = .5623."""
    value = distillation_loss(
        two_token_logits(model, 0.9, 0.9), two_token_logits(target, 0.2, 0.3), SCORED
    )
    assert value.item() == pytest.approx(expected)


def test_distillation_needs_no_normalised_logits():
    one, other = two_token_logits(0.5, 0.9, 0.9), two_token_logits(0.25, 0.2, 0.3)
    value = distillation_loss(one + 3, other - 7, SCORED)
    assert value.item() == pytest.approx(math.log(2), rel=1e-5)


def test_distillation_is_averaged_over_scored_tokens():
    """Two scored tokens, ln 2 and (ln 4 + ln 4/3) / 2."""
    labels = torch.tensor([[-100, 0, 1]])
    value = distillation_loss(
        two_token_logits(1 / 2, 1 / 4, 0.9), two_token_logits(1 / 4, 1 / 2, 0.9), labels
    )
    assert value.item() == pytest.approx((math.log(2) + math.log(16 / 3) / 2) / 2)


def test_distillation_has_no_gradient_where_they_agree():
    """d/dlogits = model - target: 0 at the target, (1/4, -1/4) for model (1/2, 1/2)."""
    for model, expected in ((1 / 4, [0.0, 0.0]), (1 / 2, [0.25, -0.25])):
        given = two_token_logits(model, 0.9, 0.9).requires_grad_()
        distillation_loss(given, two_token_logits(1 / 4, 0.2, 0.3), SCORED).backward()
        assert given.grad[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
        assert given.grad[0, 1:].abs().max() == 0
