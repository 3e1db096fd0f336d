import math

import pytest
import torch

from atu.methods.shared.reweighted import reweighted_ascent

LN2 = math.log(2)
# Token 0 has probability 1/2, then 1/4; the last is not scored.
LOGITS = torch.tensor([[[1 / 2, 1 / 2], [1 / 4, 3 / 4], [1.0, 1e-9], [0.5, 0.5]]]).log()
LABELS = torch.tensor([[-100, 0, 0, -100]])


@pytest.mark.parametrize(
    ("weigh", "expected"),
    [
        (lambda p: p, -LN2 / 2),
        (torch.ones_like, -1.5 * LN2),
        (lambda p: p * (1 - p), -(LN2 / 4 + 3 / 8 * LN2) / 2),
    ],
)
def test_value(weigh, expected):
    """NLLs ln 2 and 2 ln 2. Weights (1/2, 1/4), (1, 1) and (1/4, 3/16)."""
    assert reweighted_ascent(LOGITS, LABELS, weigh).item() == pytest.approx(expected)


def test_weights_are_constants_for_the_gradient():
    """By token 0's logit: weight times p - 1 with a minus sign, halved: 1/2 1/2 / 2 and 1/4 3/4 /
    2, which would be others if p in the weight moved."""
    logits = LOGITS.clone().requires_grad_()
    reweighted_ascent(logits, LABELS, lambda p: p).backward()
    assert logits.grad[0, :, 0].tolist() == pytest.approx([1 / 8, 3 / 32, 0, 0])


def test_nothing_scored():
    assert reweighted_ascent(LOGITS, torch.full((1, 4), -100), lambda p: p).item() == 0
