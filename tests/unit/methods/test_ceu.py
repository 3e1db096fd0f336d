import math

import pytest
import torch

from atu.methods.ceu import METHOD, Settings, ceu_loss, suppressed, without_first
from atu.training.batches import Batch

BATCH = Batch(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3), torch.tensor([[-100, 0, 0]]))


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        (0, [[-100, 5, -100, 6, 7], [-100, -100, 8, -100, -100]]),
        (1, [[-100, -100, -100, 6, 7], [-100] * 5]),
        (2, [[-100, -100, -100, -100, 7], [-100] * 5]),
    ],
)
def test_the_first_scored_tokens_do_not_count(skip, expected):
    """Of each text its own."""
    labels = torch.tensor([[-100, 5, -100, 6, 7], [-100, -100, 8, -100, -100]])
    assert without_first(labels, skip).tolist() == expected


def test_only_the_following_scored_token_is_taken_out():
    found = suppressed(torch.zeros(1, 4, 2), torch.tensor([[-100, -100, 1, 0]]))
    none = -math.inf
    assert found.tolist() == [[[0, 0], [0, none], [none, 0], [0, 0]]]


@pytest.mark.parametrize(("skip", "expected"), [(0, 0.5 * math.log(8 / 3)), (1, math.log(4 / 3))])
def test_value(make_settings, make_context, given_probabilities, skip, expected):
    """Token 0 has probability 1/2, then 1/4; what is left is token 1 alone: -ln 1/2 and -ln 3/4."""
    context = make_context(
        make_settings(Settings, loss="ceu", skip=skip), given_probabilities([[1 / 2, 1 / 4, 0.9]])
    )
    assert ceu_loss(context, BATCH).item() == pytest.approx(expected)


def test_the_gradient_stops_at_the_target(make_settings, make_context, given_probabilities):
    """Model - target: by token 0 p - 0 = 1/2 and 1/4, halved."""
    model = given_probabilities([[1 / 2, 1 / 4, 0.9]])
    ceu_loss(make_context(make_settings(Settings, loss="ceu", skip=0), model), BATCH).backward()
    assert model.logits.grad[0, :, 0].tolist() == pytest.approx([1 / 4, 1 / 8, 0])


def test_nothing_left_to_count(make_settings, make_context, given_probabilities):
    model = given_probabilities([[1 / 2, 1 / 4, 0.9]])
    value = ceu_loss(make_context(make_settings(Settings, loss="ceu", skip=2), model), BATCH)
    value.backward()
    assert value.item() == 0 and not model.logits.grad.any()


def test_steps_make_the_forget_texts_less_likely(make_settings, make_context, nll_raised):
    context = make_context(make_settings(Settings, loss="ceu", skip=0))
    assert nll_raised(context, ceu_loss, 5, 0.5) > 1e-3


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.start) == (False, False, "full")
