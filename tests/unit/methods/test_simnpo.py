import math

import pytest
import torch

from atu.methods.ga import ga_loss
from atu.methods.simnpo import METHOD, Settings, simnpo_from_nll, simnpo_loss
from atu.training.batches import Batch


@pytest.mark.parametrize(
    ("beta", "gamma", "expected"),
    [
        (1.0, 0.0, 2 * math.log(4 / 3)),
        (1.0, math.log(3), 2 * math.log(2)),
        (2.0, 0.0, math.log(10 / 9)),
        (2.0, math.log(3), math.log(4 / 3)),
    ],
)
def test_value(beta, gamma, expected):
    """An answer of 2 tokens of probability 1/3 each, ln 3 per token. Sigmoids: 3/4 at beta 1, 1/2
    with the margin ln 3; 9/10 at beta 2, and 3/4 with the margin, which beta does not scale."""
    value = simnpo_from_nll(torch.tensor([2 * math.log(3)]), torch.tensor([2]), beta, gamma)
    assert value.item() == pytest.approx(expected)


def test_the_gradient_fades_as_a_text_is_forgotten():
    """d/dnll = -2 sigmoid(-beta nll / count) / (count n): for ln 3 per token, of 1 and of 3 tokens,
    and 50, beta 1 and n = 3: -1/6, a third of it, and nothing."""
    nll = torch.tensor([math.log(3), 3 * math.log(3), 50.0], requires_grad=True)
    simnpo_from_nll(nll, torch.tensor([1, 3, 1]), 1.0, 0.0).backward()
    assert nll.grad.tolist() == pytest.approx([-1 / 6, -1 / 18, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("beta", "gamma", "scale", "same"),
    [(1e-4, 0.0, 1.0, True), (1e-4, math.log(3), 1.5, True), (5.0, 0.0, 1.0, False)],
)
def test_tends_to_gradient_ascent_as_beta_goes_to_zero(
    make_settings, make_context, beta, gamma, scale, same
):
    """Both texts have 3 scored tokens, so the mean over texts of means per token is the mean over
    tokens: the gradient tends to 2 sigmoid(gamma) times GA's."""
    context = make_context(make_settings(Settings, loss="simnpo", beta=beta, gamma=gamma))
    batch = next(context.forget)
    assert ((batch.labels != -100).sum(dim=1) == 3).all()

    def gradient(loss):
        context.model.zero_grad()
        loss(context, batch).backward()
        return torch.cat([p.grad.flatten() for p in context.model.parameters()])

    expected = scale * gradient(ga_loss)
    distance = (gradient(simnpo_loss) - expected).norm() / expected.norm()
    assert (distance.item() < 1e-3) is same


def test_batches_of_texts(make_settings, make_context, given_probabilities):
    """Text A has one token of probability 1/8, text B three of 1/2: ln 8 and, per token, ln 2.
    Sigmoids 8/9 and 2/3: -2 (ln 8/9 + ln 2/3) / 2 = ln (27/16) = .5232."""
    context = make_context(
        make_settings(Settings, loss="simnpo", beta=1.0, gamma=0.0),
        given_probabilities([[1 / 8] * 4, [1 / 2] * 4]),
    )
    batch = Batch(
        input_ids=torch.zeros(2, 4, dtype=torch.long),
        attention_mask=torch.ones(2, 4),
        labels=torch.tensor([[-100, 0, -100, -100], [-100, 0, 0, 0]]),
    )
    assert simnpo_loss(context, batch).item() == pytest.approx(math.log(27 / 16))


def test_steps_make_the_forget_texts_less_likely(make_settings, make_context, nll_raised):
    context = make_context(make_settings(Settings, loss="simnpo", beta=2.5, gamma=0.0))
    assert nll_raised(context, simnpo_loss, 5, 0.5) > 1e-3


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.start) == (False, False, "full")
