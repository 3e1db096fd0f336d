import math

import pytest
import torch

from atu.methods.pdu import METHOD, Settings, flattening_loss, step_loss
from atu.training.batches import Batch

OWN = {"loss": "pdu", "bound": 0.5, "multiplier": 2.0, "multiplier_rate": 3.0, "warmup": 0}
LN2 = math.log(2)


@pytest.fixture
def settings(make_settings):
    return lambda **own: make_settings(Settings, **({"retain": {"nll": 1.0}} | OWN | own))


def test_flattening():
    """(3, 0, 0): (3 - 1)^2 at a scored token, by its own position; (9, 0, 0) is not scored."""
    logits = torch.tensor([[[9.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    assert flattening_loss(logits, torch.tensor([[-100, 5, -100]])).item() == 4
    assert flattening_loss(logits, torch.tensor([[-100, 5, 6]])).item() == 2
    assert flattening_loss(logits, torch.full((1, 3), -100)).item() == 0


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"retain": {}}, "give `retain` a weight"),
        ({"wrapper": "disruption_masking"}, "knows no bound"),
    ],
)
def test_settings_that_are_not_pdus(settings, own, message):
    with pytest.raises(ValueError, match=message):
        settings(**own)


@pytest.mark.parametrize(
    ("bound", "moves", "after"),
    [(0.5, True, 2 + 3 * (LN2 - 0.5)), (0.5, False, 2.0), (4.0, True, 0.0)],
)
def test_a_step(settings, make_context, given_probabilities, bound, moves, after):
    """Probabilities 1/2 on both: forget 0, retain ln 2; the loss has the multiplier of before, 2,
    and the step 3 (ln 2 - bound), which does not lead below 0."""
    batch = Batch(
        torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3), torch.tensor([[-100, 0, 0]])
    )
    context = make_context(
        settings(bound=bound), given_probabilities([[0.5] * 3]),
        forget=iter([batch]), retain=iter([batch]),
    )  # fmt: skip
    multiplier = torch.tensor(2.0)
    loss, parts = step_loss(context, multiplier, moves)
    assert loss.item() == pytest.approx(2 * (LN2 - bound))
    assert parts == {
        "forget": pytest.approx(0, abs=1e-6), "multiplier": 2.0, "retain_nll": pytest.approx(LN2)
    }  # fmt: skip
    assert multiplier.item() == pytest.approx(after)


def test_the_multiplier_rests_at_first(settings, make_context):
    """For the first six of ten steps, which are two stretches and a half."""
    context = make_context(settings(bound=0.0, warmup=6))
    found = []
    for stage in METHOD.plan(context):
        for _ in range(stage.steps):
            stage.loss()
            found.append(stage.parameters[-1].item())
    assert found[:6] == [2.0] * 6
    assert sorted(set(found)) == found[5:]
    assert stage.parameters[-1].grad is None


def test_steps_flatten_the_forget_texts_and_keep_the_others(settings, make_context):
    """Logits of the forget batch come nearer to each other; the bound is met at the end."""
    context = make_context(settings(bound=3.4, multiplier=0.0, multiplier_rate=10.0, steps=60))
    batch = next(context.forget)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        before = flattening_loss(context.model(**inputs).logits, batch.labels).item()
    for stage in METHOD.plan(context):
        optimizer = torch.optim.SGD(stage.parameters, lr=0.05)
        for _ in range(stage.steps):
            loss, parts = stage.loss()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        after = flattening_loss(context.model(**inputs).logits, batch.labels).item()
    assert after < before
    assert parts["retain_nll"] < 3.4 + 0.1


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.processes) == (False, False, "one")
