import math

import pytest
import torch

from atu.methods.whp import METHOD, Settings, generic_logits, stages, whp_loss
from atu.training.batches import Batch
from atu.training.likelihood import mean_nll

LN2, LN3 = math.log(2), math.log(3)
BATCH = Batch(
    input_ids=torch.zeros(1, 4, dtype=torch.long),
    attention_mask=torch.ones(1, 4),
    labels=torch.tensor([[-100, 0, 0, -100]]),
)


@pytest.fixture
def settings(make_settings):
    def make(alpha=1.0, **own):
        values = {"reinforce_steps": 7, "reinforce_learning_rate": 0.5}
        return make_settings(Settings, loss="whp", alpha=alpha, **(values | own))

    return make


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.0, [1, 2, 3]), (1.0, [1, 1, 3]), (5.0, [1, -3, 3])]
)
def test_generic_logits(alpha, expected):
    """Base (1, 2, 3), reinforced (0, 3, 3): only the second was raised, by 1."""
    found = generic_logits(torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 3, 3]), alpha)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("base", "reinforced", "model", "expected"),
    [
        ([0.0, 0.0], [LN3, -1.0], [0.0, 0.0], LN2),
        ([0.0, 0.0], [LN3, -1.0], [-LN3, 0.0], 2 * LN2 - 0.75 * LN3),
        ([-LN3, 0.0], [-LN3, -1.0], [0.0, 0.0], LN2),
        ([-LN3, 0.0], [-LN3, -1.0], [-LN3, 0.0], 2 * LN2 - 0.75 * LN3),
    ],
)
def test_value(settings, make_context, given_probabilities, base, reinforced, model, expected):
    """Targets (1/4, 3/4): from a uniform base by lowering what was raised by ln 3, or because the
    base is so and nothing was raised. Cross-entropy to (1/2, 1/2): ln 2; to (1/4, 3/4), the
    entropy (ln 4 + 3 ln 4/3) / 4 = .5623."""

    def given(logits):
        made = given_probabilities([[1 / 2] * 4])
        made.logits.data = torch.tensor(logits).expand(1, 4, 2).clone()
        return made

    context = make_context(settings(), given(model), given(base))
    copied = given(reinforced)
    value = whp_loss(context, BATCH, copied)
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert context.reference.logits.grad is None and copied.logits.grad is None


@pytest.mark.parametrize(("shift", "still"), [(0.0, True), (-1.0, True), (1.0, False)])
def test_what_was_not_raised_stays(settings, make_context, shift, still):
    """The model is the base: no gradient where the copy's logit of token 7 is not higher."""
    context = make_context(settings())

    def copied(**inputs):
        found = context.reference(**inputs)
        found.logits[..., 7] += shift
        return found

    whp_loss(context, next(context.forget), copied).backward()
    norm = torch.stack([p.grad.norm() for p in context.model.parameters()]).norm()
    assert (norm.item() < 1e-5) is still


def test_the_copy_comes_first(settings, make_context):
    """7 steps of the copy, then 10 of the model with 3 points; the copy is trained in training mode
    and frozen and in eval mode afterwards."""
    context = make_context(settings())
    plan = stages(context)
    first = next(plan)
    assert (first.part, first.evaluate, first.steps) == ("reinforced", False, 7)
    assert first.learning_rate == 0.5
    assert not {id(p) for p in first.parameters} & {id(p) for p in context.parameters}
    rest = list(plan)
    assert [(s.part, s.steps, s.evaluate) for s in rest] == [
        ("model", 4, True), ("model", 3, True), ("model", 3, True),
    ]  # fmt: skip
    assert not any(p.requires_grad for p in first.parameters)
    assert all(p.requires_grad for p in context.parameters)


def test_steps_make_the_forget_texts_less_likely(settings, make_context):
    context = make_context(settings(alpha=5.0))
    batch = next(context.forget)

    def steps(stage, count):
        optimizer = torch.optim.SGD(stage.parameters, lr=0.5)
        for _ in range(count):
            optimizer.zero_grad()
            stage.loss()[0].backward()
            optimizer.step()

    def nll():
        with torch.no_grad():
            logits = context.model(batch.input_ids, attention_mask=batch.attention_mask).logits
        return mean_nll(logits, batch.labels).item()

    before = nll()
    plan = stages(context)
    steps(next(plan), 7)
    assert nll() == before
    steps(next(plan), 7)
    assert nll() > before + 1e-3


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.start) == (True, False, "full")
