import math

import pytest
import torch

from atu.methods.ga import METHOD, Settings, ga_loss
from atu.training.batches import Batch


def test_value(make_settings, make_context, given_probabilities):
    """Answer tokens of probability 1/2 and 1/8; the prompt's token, of probability .99, does not
    count: -(ln 2 + ln 8) / 2 = -2 ln 2 = -1.3863."""
    context = make_context(make_settings(Settings, loss="ga"), given_probabilities(
        [[0.99, 1 / 2, 1 / 8, 1 / 2]]
    ))  # fmt: skip
    batch = Batch(
        input_ids=torch.zeros(1, 4, dtype=torch.long),
        attention_mask=torch.ones(1, 4),
        labels=torch.tensor([[-100, -100, 0, 0]]),
    )
    assert ga_loss(context, batch).item() == pytest.approx(-2 * math.log(2))


def test_a_step_makes_the_forget_texts_less_likely(make_settings, make_context, nll_raised):
    context = make_context(make_settings(Settings, loss="ga"))
    assert nll_raised(context, ga_loss, 1, 0.1) > 1e-4


def test_padding_does_not_matter(make_settings, make_context):
    """One text of the batch alone has the mean NLL that its tokens contribute: (3 a + 3 b) / 6 for
    texts of 3 scored tokens each, the shorter of which is padded in the batch."""
    context = make_context(make_settings(Settings, loss="ga"))
    whole = next(context.forget)
    alone = []
    for row in range(2):
        length = int(whole.attention_mask[row].sum())
        tensors = (whole.input_ids, whole.attention_mask, whole.labels)
        alone.append(ga_loss(context, Batch(*(t[row : row + 1, :length] for t in tensors))).item())
    assert alone[0] != pytest.approx(alone[1])
    assert ga_loss(context, whole).item() == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_needs():
    assert (METHOD.needs_reference, METHOD.needs_predictor, METHOD.start) == (False, False, "full")
