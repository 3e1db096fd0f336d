import math

import pytest
import torch

from atu.methods.ga import ga_loss
from atu.methods.wga import METHOD, Settings, wga_loss
from atu.training.batches import Batch

LN2 = math.log(2)
BATCH = Batch(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3), torch.tensor([[-100, 0, 0]]))


@pytest.mark.parametrize(
    ("beta", "expected"), [(0.0, -1.5 * LN2), (1.0, -LN2 / 2), (2.0, -3 / 16 * LN2)]
)
def test_value(make_settings, make_context, given_probabilities, beta, expected):
    """Probabilities 1/2 and 1/4, NLLs ln 2 and 2 ln 2. Weights 1 and 1; 1/2 and 1/4; 1/4 and
    1/16: -(1/4 + 2/16) ln 2 / 2."""
    context = make_context(
        make_settings(Settings, loss="wga", beta=beta), given_probabilities([[1 / 2, 1 / 4, 0.9]])
    )
    assert wga_loss(context, BATCH).item() == pytest.approx(expected)


def test_without_beta_it_is_gradient_ascent(make_settings, make_context):
    context = make_context(make_settings(Settings, loss="wga", beta=0.0))
    batch = next(context.forget)
    assert wga_loss(context, batch).item() == pytest.approx(ga_loss(context, batch).item())


def test_what_is_forgotten_gets_no_gradient(make_settings, make_context, given_probabilities):
    """Unlike in gradient ascent: a token of probability 1e-6 weighs as much."""
    model = given_probabilities([[1e-6, 1 / 2, 0.9]])
    context = make_context(make_settings(Settings, loss="wga", beta=1.0), model)
    wga_loss(context, BATCH).backward()
    first, second, _ = model.logits.grad[0, :, 0].tolist()
    assert first == pytest.approx(5e-7, rel=1e-3)
    assert second == pytest.approx(1 / 8)


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.start) == (False, False, "full")
