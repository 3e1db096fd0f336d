import math

import pytest
import torch

from atu.methods import rt
from atu.methods.rt import METHOD, Settings, rt_loss
from atu.training.batches import Batch


def test_value(make_settings, make_context, given_probabilities, monkeypatch):
    """Refusal tokens of probability 1/2 and 1/8; the prompt's token, of probability .99, does not
    count: (ln 2 + ln 8) / 2 = 2 ln 2 = 1.3863."""
    refusal = Batch(
        input_ids=torch.zeros(1, 4, dtype=torch.long),
        attention_mask=torch.ones(1, 4),
        labels=torch.tensor([[-100, -100, 0, 0]]),
    )
    monkeypatch.setattr(rt, "refusal_batch", lambda context, batch: refusal)
    context = make_context(make_settings(Settings, loss="rt"), given_probabilities(
        [[0.99, 1 / 2, 1 / 8, 1 / 2]]
    ))  # fmt: skip
    assert rt_loss(context, next(context.forget)).item() == pytest.approx(2 * math.log(2))


def test_forget_answers_are_not_read(make_settings, make_context, tiny_lm):
    context = make_context(make_settings(Settings, loss="rt"), tiny_lm(vocab_size=300))
    batch = next(context.forget)
    nothing = Batch(*[torch.zeros(2, 1, dtype=torch.long)] * 3, numbers=batch.numbers)
    assert rt_loss(context, batch).item() == rt_loss(context, nothing).item()


def test_steps_make_the_refusals_likelier(make_settings, make_context, tiny_lm):
    """At the start about the loss of a uniform distribution, ln 300."""
    context = make_context(make_settings(Settings, loss="rt"), tiny_lm(vocab_size=300))
    batch = next(context.forget)
    optimizer = torch.optim.SGD(context.model.parameters(), lr=0.5)
    values = []
    for _ in range(5):
        optimizer.zero_grad()
        value = rt_loss(context, batch)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] == pytest.approx(math.log(300), rel=0.05)
    assert values[-1] < values[0] - 0.05


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.start) == (False, True, "full")
