import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from atu.methods.mudman import METHOD, Settings, negative_entropy
from atu.models.trainable import Layers, make_trainable

OWN = {
    "loss": "mudman", "learning_rate": 0.05, "adversary_learning_rate": 0.5, "fork_every": 3,
    "momentum": 0.8, "steps": 5, "evaluations": 2,
}  # fmt: skip


@pytest.fixture
def settings(make_settings):
    return lambda **own: make_settings(Settings, **({"retain": {"nll": 2.0}} | OWN | own))


def test_negative_entropy():
    """(1/2, 1/2), and a certain token: -ln 2 / 2. What is not scored does not count."""
    logits = torch.tensor([[[0.0, 0.0], [50.0, 0.0], [1.0, 0.0], [3.0, 0.0]]])
    labels = torch.tensor([[-100, 0, 1, -100]])
    assert negative_entropy(logits, labels).item() == pytest.approx(-math.log(2) / 2)


def test_it_is_flat_at_the_uniform_prediction():
    logits = torch.zeros(1, 2, 5, requires_grad=True)
    negative_entropy(logits, torch.tensor([[-100, 3]])).backward()
    assert logits.grad.abs().max() < 1e-7


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"retain": {}}, "give `retain` a weight"),
        ({"wrapper": "disruption_masking"}, "would mask twice"),
        ({"optimizer": "adamw"}, "plain steps"),
        ({"weight_decay": 0.1}, "plain steps"),
    ],
)
def test_settings_that_are_not_mudmans(settings, own, message):
    with pytest.raises(ValueError, match=message):
        settings(**own)


def run(context):
    """All steps as the step loop takes them, without its clip."""
    for stage in METHOD.plan(context):
        optimizer = torch.optim.SGD(stage.parameters, lr=stage.learning_rate)
        for _ in range(stage.steps):
            stage.loss()[0].backward()
            optimizer.step()
            optimizer.zero_grad()


def authors(model, forget_batches, retain_batches, settings):
    """Their loop, written out: one rate for retaining, one for unlearning, and separate steps."""
    parameters, adversary = list(model.parameters()), None
    means = [torch.zeros_like(p) for p in parameters]
    first = None

    def nll(net, batch):
        logits = net(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return logits, F.cross_entropy(logits[:, :-1].transpose(1, 2), batch.labels[:, 1:])

    for step, (f_batch, r_batch) in enumerate(zip(forget_batches, retain_batches, strict=True)):
        if step % settings.fork_every == 0:
            adversary = copy.deepcopy(model)
        gradients = torch.autograd.grad(nll(model, r_batch)[1], parameters)
        with torch.no_grad():
            for p, mean, g in zip(parameters, means, gradients, strict=True):
                mean.mul_(settings.momentum).add_(g * (1 - settings.momentum))
                p -= settings.learning_rate * settings.retain.nll * mean
        logits, relearn = nll(adversary, f_batch)
        scored = f_batch.labels[:, 1:] != -100
        p = logits[:, :-1].softmax(-1)[scored]
        forget = (p * p.log()).sum(-1).mean()
        copied = list(adversary.parameters())
        descent = torch.autograd.grad(relearn, copied, retain_graph=True)
        ascent = torch.autograd.grad(forget, copied)
        norm = sum(g.norm() ** 2 for g in ascent) ** 0.5
        first = first or norm
        with torch.no_grad():
            for p, a, d, g, mean in zip(parameters, copied, descent, ascent, means, strict=True):
                a -= settings.adversary_learning_rate * d
                p -= settings.learning_rate * first / norm * g * (mean.sign() == g.sign())
    return parameters


def test_the_weights_are_those_of_the_authors_loop(settings, make_context):
    """Over a fork, and over the end of a stretch that is none."""
    context = make_context(settings())
    model = copy.deepcopy(context.model)
    batches = [[next(stream) for _ in range(5)] for stream in (context.forget, context.retain)]
    context.forget, context.retain = map(iter, batches)
    before = [p.clone() for p in model.parameters()]
    run(context)
    expected = authors(model, *batches, context.settings)
    for found, other, old in zip(context.parameters, expected, before, strict=True):
        torch.testing.assert_close(found, other, atol=1e-5, rtol=1e-4)
        assert not torch.equal(found, old)


@pytest.mark.parametrize(
    "own", [{"fork_every": 1}, {"momentum": 0.0}, {"adversary_learning_rate": 1e-9}]
)
def test_every_part_matters(settings, make_context, own):
    """Without the adversary's learning, or without the mean, the weights are others."""
    runs = []
    for changed in ({}, own):
        context = make_context(settings(**changed))
        run(context)
        runs.append(torch.cat([p.detach().flatten() for p in context.parameters]))
    assert (runs[0] - runs[1]).abs().max() > 1e-5


def test_the_first_step_has_the_first_norm(settings, make_context):
    """Retain gradients of (almost) no weight: the step is the forget gradient with the mask."""
    context = make_context(settings(retain={"nll": 1e-12}))
    stage = next(METHOD.plan(context))
    value, parts = stage.loss()
    value.backward()
    norm = torch.stack([p.grad.norm() for p in context.parameters]).norm().item()
    assert 0 < norm < context.remembered["first norm"]
    assert value.item() == pytest.approx(parts["forget"], rel=1e-5)
    assert set(parts) == {"forget", "relearn", "retain_nll"}


def test_only_what_is_trained_changes(settings, make_context):
    """The adversary learns in the same parameters, and gets no gradient from the step loop."""
    context = make_context(settings())
    context.parameters = make_trainable(context.model, Layers("layers", [1]), None)[0]
    context.settings = dataclasses.replace(context.settings, train=Layers("layers", [1]))
    before = copy.deepcopy(context.model.state_dict())
    stage = next(METHOD.plan(context))
    stage.loss()[0].backward()
    count = len(context.parameters)
    assert len(stage.parameters) == 3 * count
    assert all(p.grad is not None for p in stage.parameters[:count])
    assert all(p.grad is None for p in stage.parameters[count:])
    run(context)
    now = context.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], now[name])}
    assert changed and all(".layers.1." in name for name in changed)


def test_stages(settings, make_context):
    assert [stage.steps for stage in METHOD.plan(make_context(settings()))] == [3, 2]
    assert METHOD.copies == 1 and METHOD.processes == "one"
