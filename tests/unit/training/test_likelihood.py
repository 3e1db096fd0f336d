"""The negative log-likelihood, worked out by hand."""

import math

import pytest
import torch

from atu.training.batches import IGNORE
from atu.training.likelihood import mean_nll, sequence_nll

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
