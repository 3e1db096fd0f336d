import math

import pytest
import torch

from atu.methods.task_vector import METHOD, Settings, negated, stages
from atu.models.trainable import Lora
from atu.training.likelihood import mean_nll


def weights(parameters):
    return [p.detach().clone() for p in parameters]


def reinforce(stage):
    """Some steps of the first stage; the NLL before each."""
    optimizer = torch.optim.SGD(stage.parameters, lr=0.02)
    values = []
    for _ in range(4):
        optimizer.zero_grad()
        value, parts = stage.loss()
        value.backward()
        optimizer.step()
        values.append(parts["forget"])
    return values


@pytest.fixture
def settings(make_settings):
    def make(alphas=(0.0, 1.0, 3.0), **own):
        return make_settings(Settings, loss="task_vector", alphas=list(alphas), **own)

    return make


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 1.0), (1.0, 0.5), (2.0, 0.0)])
def test_value(alpha, expected):
    """Original 1, reinforced 1.5: 1 - alpha / 2."""
    assert negated([torch.tensor(1.0)], [torch.tensor(1.5)], alpha)[0].item() == expected


def test_every_alpha_is_measured_from_the_original(settings, make_context):
    """theta - alpha (theta_reinforced - theta) on each weight, alpha 0 changing nothing, although
    the model was edited before."""
    context = make_context(settings())
    original = weights(context.parameters)
    plan = stages(context)
    first = next(plan)
    assert (first.part, first.evaluate, first.steps) == ("reinforced", False, 10)
    reinforce(first)
    reinforced = weights(first.parameters)
    assert all(torch.equal(p, o) for p, o in zip(context.parameters, original, strict=True))
    assert not all(torch.equal(r, o) for r, o in zip(reinforced, original, strict=True))
    for alpha, stage in zip((0.0, 1.0, 3.0), plan, strict=True):
        assert (stage.steps, stage.evaluate, stage.facts) == (0, True, {"alpha": alpha})
        for p, o, r in zip(context.parameters, original, reinforced, strict=True):
            torch.testing.assert_close(p.detach(), o - alpha * (r - o))
            assert alpha or torch.equal(p, o)


def test_only_what_is_updated_moves(settings, make_context):
    """Of the copy and of the model alike."""
    context = make_context(settings([1.0]))
    layer = list(context.model.model.layers[1].parameters())
    context.parameters = layer
    others = [p for p in context.model.parameters() if all(p is not q for q in layer)]
    before, kept = weights(layer), weights(others)
    plan = stages(context)
    first = next(plan)
    assert [p.shape for p in first.parameters] == [p.shape for p in layer]
    assert not {id(p) for p in first.parameters} & {id(p) for p in context.model.parameters()}
    reinforce(first)
    next(plan)
    assert all(torch.equal(p, old) for p, old in zip(others, kept, strict=True))
    assert any(not torch.equal(p, old) for p, old in zip(layer, before, strict=True))


def test_the_copy_learns_and_the_model_forgets(settings, make_context):
    context = make_context(settings([1.0]))
    batch = next(context.forget)

    def nll():
        with torch.no_grad():
            logits = context.model(batch.input_ids, attention_mask=batch.attention_mask).logits
        return mean_nll(logits, batch.labels).item()

    before = nll()
    plan = stages(context)
    values = reinforce(next(plan))
    assert values[-1] < values[0]
    assert values[0] == pytest.approx(math.log(32), rel=0.1)
    next(plan)
    assert nll() > before + 1e-3


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"alphas": []}, r"rises strictly, not \[\]"),
        ({"alphas": [1.0, 1.0]}, r"rises strictly, not \[1.0, 1.0\]"),
        ({"retain": {"nll": 1.0}}, "a task vector is no loss"),
        ({"train": Lora("lora", rank=2, alpha=2)}, "differences of weights"),
    ],
)
def test_settings_refuse_what_has_no_meaning(settings, own, message):
    with pytest.raises(ValueError, match=message):
        settings(**own)


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.start) == (False, False, "full")
