import math

import pytest
import torch

from atu.methods.satimp import METHOD, Settings, satimp_loss
from atu.methods.wga import Settings as WgaSettings
from atu.methods.wga import wga_loss
from atu.training.batches import Batch

LN2 = math.log(2)
BATCH = Batch(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3), torch.tensor([[-100, 0, 0]]))


@pytest.fixture
def value(make_settings, make_context, given_probabilities):
    """A function that gives the loss of tokens with these probabilities."""

    def value(first, second, beta1, beta2):
        settings = make_settings(Settings, loss="satimp", beta1=beta1, beta2=beta2)
        context = make_context(settings, given_probabilities([[first, second, 0.9]]))
        return satimp_loss(context, BATCH).item()

    return value


@pytest.mark.parametrize(
    ("betas", "expected"),
    [
        ((0.0, 0.0), -1.5 * LN2),
        ((1.0, 1.0), -5 / 16 * LN2),
        ((5.0, 1.0), -(1 / 64 + 3 / 2048) * LN2 / 2),
    ],
)
def test_value(value, betas, expected):
    """Probabilities 1/2 and 1/4, NLLs ln 2 and 2 ln 2. Weights 1; 1/4 and 3/16; 1/64 and 3/4096."""
    assert value(1 / 2, 1 / 4, *betas) == pytest.approx(expected)


def test_a_certain_token_does_not_count(value):
    """1 - p is 0, and its NLL too."""
    assert value(1.0, 1.0, 5.0, 1.0) == pytest.approx(0, abs=1e-6)


def test_without_importance_it_is_wga(make_settings, make_context):
    context = make_context(make_settings(Settings, loss="satimp", beta1=2.0, beta2=0.0))
    batch = next(context.forget)
    other = make_context(make_settings(WgaSettings, loss="wga", beta=2.0))
    expected = wga_loss(other, batch).item()
    assert satimp_loss(context, batch).item() == pytest.approx(expected)


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.start) == (False, False, "full")
