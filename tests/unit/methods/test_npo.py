import math

import pytest
import torch

from atu.methods.ga import ga_loss
from atu.methods.npo import METHOD, Settings, npo_from_nll, npo_loss
from atu.training.batches import Batch

# Two texts over two tokens: the first has one scored token, the second three.
BATCH = Batch(
    input_ids=torch.zeros(2, 4, dtype=torch.long),
    attention_mask=torch.ones(2, 4),
    labels=torch.tensor([[-100, 0, -100, -100], [-100, 0, 0, 0]]),
)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_at_the_reference(beta):
    """Every sigmoid is 1/2: (2/beta) ln 2, 13.863 for beta .1."""
    nll = torch.tensor([3.0, 40.0])
    assert npo_from_nll(nll, nll, beta).item() == pytest.approx(2 / beta * math.log(2))


def test_value():
    """Differences ln 3 and -ln 3 at beta 1 have sigmoids 3/4 and 1/4: -2 (ln 3/4 + ln 1/4) / 2 =
    ln (16/3) = 1.6740."""
    reference = torch.tensor([2.0, 2.0])
    nll = reference + torch.tensor([math.log(3), -math.log(3)])
    assert npo_from_nll(nll, reference, 1.0).item() == pytest.approx(math.log(16 / 3))


def test_the_gradient_fades_as_a_text_is_forgotten():
    """d/dnll = -2 sigmoid(-beta (nll - ref)) / n: for differences 0, ln 3 and 50, beta 1 and n = 3:
    -1/3, -1/6 and nothing. This is what keeps NPO from running away, as GA does."""
    nll = torch.tensor([0.0, math.log(3), 50.0], requires_grad=True)
    npo_from_nll(nll, torch.zeros(3), 1.0).backward()
    assert nll.grad.tolist() == pytest.approx([-1 / 3, -1 / 6, 0.0], abs=1e-6)


@pytest.mark.parametrize(("beta", "same"), [(1e-4, True), (5.0, False)])
def test_tends_to_gradient_ascent_as_beta_goes_to_zero(
    make_settings, make_context, tiny_lm, beta, same
):
    """Both texts have 3 scored tokens, so the mean over texts of summed NLLs is 3 times the mean
    over tokens: the gradient tends to 3 times GA's, although the models differ."""
    model, reference = tiny_lm(seed=0), tiny_lm(seed=1).requires_grad_(False)
    settings = make_settings(Settings, loss="npo", beta=beta)
    context = make_context(settings, model, reference)
    batch = next(context.forget)
    assert ((batch.labels != -100).sum(dim=1) == 3).all()

    def gradient(loss):
        model.zero_grad()
        loss(context, batch).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = 3 * gradient(ga_loss)
    distance = (gradient(npo_loss) - expected).norm() / expected.norm()
    assert (distance.item() < 1e-3) is same


@pytest.mark.parametrize(
    ("compat", "expected"),
    [(False, math.log(2.5)), (True, 2 * math.log(1 + math.sqrt(0.5)))],
)
def test_batches_of_texts(make_settings, make_context, given_probabilities, compat, expected):
    """Model: probability 1/8 for the one token of text A, 1/2 for each of text B's three. The
    original: 1/2 everywhere. Differences of the summed NLLs: 3 ln 2 - ln 2 = 2 ln 2 and 0; sigmoids
    at beta 1: 4/5 and 1/2; -2 (ln .8 + ln .5) / 2 = ln 2.5 = .9163.

    The reference implementation: one difference of the batch's means, (6 - 4) ln 2 / 4 = ln 2 / 2,
    sigmoid 1 / (1 + 1/sqrt 2): 2 ln (1 + .7071) = 1.0696."""
    context = make_context(
        make_settings(Settings, loss="npo", beta=1.0),
        given_probabilities([[1 / 8] * 4, [1 / 2] * 4]),
        given_probabilities([[1 / 2] * 4, [1 / 2] * 4]),
        reference_compat=compat,
    )
    value = npo_loss(context, BATCH)
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert context.reference.logits.grad is None


def test_needs():
    assert (METHOD.needs_reference, METHOD.needs_predictor, METHOD.start) == (True, False, "full")
