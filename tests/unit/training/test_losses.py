import math

import pytest
import torch

from atu.alignment.cosine import alignment_loss, concept_cosine, cosine
from atu.training.batches import IGNORE
from atu.training.likelihood import mean_nll, sequence_nll
from atu.training.losses import activation_error, distillation_loss, kl_to_reference
from atu.training.means import masked_mean

LN2 = math.log(2)
SCORED = torch.tensor([[-100, 0, -100]])


def two_token_logits(*probabilities):
    """[1, len, 2]: position t gives token 0 this probability."""
    return torch.tensor([[[math.log(p), math.log(1 - p)] for p in probabilities]])


def test_uniform_over_four_tokens():
    """Three scored tokens of probability 1/4: 3 ln 4 = 4.1589 nats. Position 0 has nothing before
    it, so its label does not count."""
    nll, count = sequence_nll(torch.zeros(1, 4, 4), torch.tensor([[3, 0, 1, 2]]))
    assert nll.item() == pytest.approx(3 * math.log(4))
    assert count.item() == 3


def test_labels_are_shifted_once():
    """Logits at position t that are sure of the token at t+1 cost nothing; sure of the token at t
    itself, they cost about 50 nats per token."""
    labels = torch.tensor([[0, 1, 2, 3]])
    sure = 50 * torch.nn.functional.one_hot(labels, 4).float()
    following = torch.cat([sure[:, 1:], sure[:, :1]], dim=1)
    assert sequence_nll(following, labels)[0].item() == pytest.approx(0, abs=1e-6)
    assert sequence_nll(sure, labels)[0].item() == pytest.approx(150, rel=1e-3)


def test_ignored_labels_do_not_count():
    """Probabilities 1/2, 1/8, 1/8 for tokens 1, 2, 3, of which only 1 and 3 are scored:
    ln 2 + ln 8 = 4 ln 2 over 2 tokens."""
    logits = two_token_logits(1 / 2, 1 / 8, 1 / 8, 1 / 2)
    nll, count = sequence_nll(logits, torch.tensor([[IGNORE, 0, IGNORE, 0]]))
    assert nll.item() == pytest.approx(4 * LN2)
    assert count.item() == 2


def test_mean_nll_weighs_tokens_not_sequences():
    """One token of probability 1/2 in one sequence, three of 1/8 in another: (ln 2 + 3 ln 8) / 4
    = 2.5 ln 2. The mean of the sequences' means would be 2 ln 2."""
    logits = torch.cat([two_token_logits(*[1 / 2] * 4), two_token_logits(*[1 / 8] * 4)])
    labels = torch.tensor([[IGNORE, 0, IGNORE, IGNORE], [IGNORE, 0, 0, 0]])
    assert mean_nll(logits, labels).item() == pytest.approx(2.5 * LN2)


def test_mean_nll_of_nothing_is_zero():
    assert mean_nll(torch.randn(1, 3, 4), torch.full((1, 3), IGNORE)).item() == 0


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


@pytest.mark.parametrize(("mask", "expected"), [([1, 1, 0], 3.0), ([0, 0, 1], 9.0), ([0] * 3, 0.0)])
def test_masked_mean(mask, expected):
    """Of 2, 4, 9: (2 + 4) / 2 = 3; 9 alone; nothing left gives 0."""
    assert masked_mean(torch.tensor([2.0, 4.0, 9.0]), torch.tensor(mask)).item() == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([3, 4], [4, 3], 24 / 25), ([3, 4], [-6, -8], -1.0), ([0, 0], [1, 0], 0.0)],
)
def test_cosine(first, second, expected):
    """(3, 4) and (4, 3): 24 / (5 x 5). Opposite: -1 whatever the lengths. A zero vector: 0."""
    value = cosine(torch.tensor(first).float(), torch.tensor(second).float())
    assert value.item() == pytest.approx(expected)


def test_alignment_loss():
    """Cosines 1, 0 and a masked -1: (0 + 1) / 2 = .5."""
    predicted = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]])
    value = alignment_loss(predicted, target, torch.tensor([[True, True, False]]))
    assert value.item() == pytest.approx(0.5)


def test_concept_cosine_is_the_largest():
    """Concepts (0, 1) and (1, 1). (2, 0): max(0, .7071); (-1, 0): max(0, -.7071) = 0;
    (0, 5): max(1, .7071) = 1."""
    predicted = torch.tensor([[[2.0, 0.0], [-1.0, 0.0], [0.0, 5.0]]])
    value = concept_cosine(predicted, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    assert value.shape == (1, 3)
    assert value[0].tolist() == pytest.approx([math.sqrt(0.5), 0.0, 1.0], abs=1e-6)


def test_activation_error():
    """The states of the docstring: texts of mean 1.5 and 1."""
    hidden = torch.tensor([[[1.0, 3.0], [0.0, 0.0]], [[2.0, 0.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    assert activation_error(hidden, torch.tensor([1.0, 1.0]), mask).item() == 1.25


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
