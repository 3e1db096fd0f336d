import math

import pytest
import torch

from atu.methods import dpo
from atu.methods.dpo import METHOD, Settings, dpo_loss
from atu.methods.npo import npo_from_nll
from atu.methods.shared.preference import answer_nlls, dpo_from_gains
from atu.methods.shared.refusals import refusal_batch
from atu.training.batches import Batch

LN2, LN3 = math.log(2), math.log(3)


def batch_of(labels):
    return Batch(torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4), torch.tensor(labels))


# Two texts over two tokens: forget answers of token 0, one and three long, refusals of token 1.
FORGET = batch_of([[-100, 0, -100, -100], [-100, 0, 0, 0]])
REFUSAL = batch_of([[-100, 1, -100, -100], [-100, 1, -100, -100]])


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_at_the_reference(beta):
    """Every sigmoid is 1/2: (2/beta) ln 2, 13.863 for beta .1."""
    value = dpo_from_gains(torch.zeros(2), torch.zeros(2), beta)
    assert value.item() == pytest.approx(2 / beta * LN2)


@pytest.mark.parametrize(
    ("preferred", "dispreferred", "beta", "expected"),
    [
        (LN3, 0.0, 1.0, 2 * math.log(4 / 3)),
        (0.0, -LN3, 1.0, 2 * math.log(4 / 3)),
        (0.0, LN3, 1.0, 4 * LN2),
        (LN3, 0.0, 2.0, math.log(10 / 9)),
    ],
)
def test_value(preferred, dispreferred, beta, expected):
    """Differences ln 3, ln 3 and -ln 3 have sigmoids 3/4, 3/4 and 1/4; at beta 2, 9/10."""
    value = dpo_from_gains(torch.tensor([preferred]), torch.tensor([dispreferred]), beta)
    assert value.item() == pytest.approx(expected)


def test_without_a_preferred_answer_it_is_npo():
    nll, reference = torch.tensor([3.0, 5.0]), torch.tensor([2.0, 7.0])
    found = dpo_from_gains(torch.zeros(2), reference - nll, 0.5)
    assert found.item() == pytest.approx(npo_from_nll(nll, reference, 0.5).item())


def test_batches_of_texts(make_settings, make_context, given_probabilities, monkeypatch):
    """Token 0 has probability 1/4 in the model, 1/2 in the original: a refusal token gains
    ln 3/2, a forget token loses ln 2. Differences ln 3/2 + ln 2 = ln 3, and with three forget
    tokens ln 3/2 + 3 ln 2 = ln 12; sigmoids at beta 1 3/4 and 12/13: ln (13/9) = .3677."""
    monkeypatch.setattr(dpo, "refusal_batch", lambda context, batch: REFUSAL)
    context = make_context(
        make_settings(Settings, loss="dpo", beta=1.0),
        given_probabilities([[1 / 4] * 4] * 2),
        given_probabilities([[1 / 2] * 4] * 2),
    )
    value = dpo_loss(context, FORGET)
    assert value.item() == pytest.approx(math.log(13 / 9), rel=1e-5)
    value.backward()
    assert context.reference.logits.grad is None


def test_steps_prefer_the_refusals(make_settings, make_context, tiny_lm):
    """From the original, where the loss is (2/beta) ln 2, refusals become likelier and answers less
    likely."""
    settings = make_settings(Settings, loss="dpo", beta=0.1)
    context = make_context(settings, tiny_lm(vocab_size=300))
    batch = next(context.forget)
    optimizer = torch.optim.SGD(context.model.parameters(), lr=0.02)
    values = []
    for _ in range(5):
        optimizer.zero_grad()
        value = dpo_loss(context, batch)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] == pytest.approx(20 * LN2, rel=1e-4)
    assert values[-1] < values[0] - 0.1
    refusal = refusal_batch(context, batch)
    with torch.no_grad():
        assert (answer_nlls(context.model, refusal) < answer_nlls(context.reference, refusal)).all()
        assert (answer_nlls(context.model, batch) > answer_nlls(context.reference, batch)).all()


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.start) == (True, True, "full")
