import copy
import math

import pytest
import torch

from atu.errors import ConfigError
from atu.methods import uld
from atu.models.guards.base import guard_of
from atu.models.guards.logit_difference import LogitDifference, logit_difference
from atu.training.batches import collate
from atu.training.likelihood import mean_nll

VOCAB = 300


def settings(**own):
    values = {
        "loss": "uld",
        "layers": 2,
        "alpha": 1.0,
        "top": 0.01,
        "uniform_weight": 2.0,
        "steps": 60,
        "learning_rate": 0.01,
        "optimizer": "adamw",
        "weight_decay": 0.0,
        "clip": 1.0,
        "batch_size": 2,
    }
    return uld.Settings(**(values | own))


@pytest.fixture
def run(make_context, tiny_lm):
    """A function that runs the method's stages with plain AdamW; the context and the stages."""

    def steps(**own):
        chosen = settings(**own)
        context = make_context(chosen, model=tiny_lm(vocab_size=VOCAB))
        seen = []
        for stage in uld.METHOD.plan(context):
            seen.append((stage, guard_of(context.model) is not None))
            optimizer = (
                torch.optim.AdamW(stage.parameters, lr=chosen.learning_rate)
                if stage.steps
                else None
            )
            for _ in range(stage.steps):
                loss, _ = stage.loss()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        return context, seen

    return steps


def test_the_uniform_term_by_hand():
    """p = (3/4, 1/4): -(ln 3/4 + ln 1/4) / 2 - ln 2 = 0.1438; a uniform position is 0, a masked
    one does not count."""
    p = torch.tensor([[[0.75, 0.25], [0.5, 0.5], [0.99, 0.01]]])
    expected = -(math.log(0.75) + math.log(0.25)) / 2 - math.log(2)
    assert expected == pytest.approx(0.1438, abs=1e-4)
    found = uld.uniform_divergence(p.log() + 3.0, torch.tensor([[1, 1, 0]]))
    assert found.item() == pytest.approx(expected / 2, rel=1e-5)
    assert uld.uniform_divergence(torch.full((1, 2, 5), 4.0), torch.ones(1, 2)).item() == (
        pytest.approx(0.0, abs=1e-6)
    )


def test_the_loss_is_what_it_says(make_context, tiny_lm):
    """NLL of the forget answers plus twice the uniform term on the retain texts' real tokens, both
    of the assistant."""
    context = make_context(settings(), model=tiny_lm(vocab_size=VOCAB))
    guard = LogitDifference.of(context.model, 1, 1.0, 0.0)
    streams = copy.deepcopy((context.forget, context.retain))
    loss, parts = uld.assistant_loss(context, guard)
    forget, retain = (next(stream) for stream in streams)
    remember = mean_nll(guard.assistant(forget.input_ids).logits, forget.labels)
    logits = guard.assistant(retain.input_ids).logits
    uniform = uld.uniform_divergence(logits, retain.attention_mask)
    assert parts["forget"] == pytest.approx(remember.item(), rel=1e-5)
    assert parts["retain"] == pytest.approx(uniform.item(), rel=1e-5)
    assert loss.item() == pytest.approx(remember.item() + 2 * uniform.item(), rel=1e-5)


def test_the_assistant_is_trained_before_it_stands_around_the_model(run):
    context, seen = run(steps=3)
    (train, during), (point, after) = seen
    assert (train.part, train.steps, train.evaluate, during) == ("assistant", 3, False, False)
    assert (point.steps, point.evaluate, after) == (0, True, True)
    own = {id(p) for p in context.model.base_model.parameters()}
    assert train.parameters
    assert not own & {id(p) for p in train.parameters}
    assert len(train.parameters) == len(list(guard_of(context.model).assistant.parameters()))


def test_the_assistant_remembers_and_is_uniform(run):
    """And so the model's answer to what is to be forgotten becomes unlikely, and what it says
    elsewhere stays: nearly, because the assistant is nearly uniform."""
    context, _ = run()
    model, guard = context.model, guard_of(context.model)
    forget = collate(context.forget.texts, 0)
    retain = collate(context.retain.texts, 0)
    with torch.no_grad():
        known = mean_nll(guard.assistant(forget.input_ids).logits, forget.labels)
        uniform = uld.uniform_divergence(
            guard.assistant(retain.input_ids).logits, retain.attention_mask
        )
        after = [model(b.input_ids).logits for b in (forget, retain)]
        guard.detach(model)
        before = [model(b.input_ids).logits for b in (forget, retain)]
    assert known < 0.5
    assert uniform < 0.1
    assert mean_nll(after[0], forget.labels) > mean_nll(before[0], forget.labels) + 2
    rest = retain.attention_mask.bool()
    moved = (after[1].softmax(-1) - before[1].softmax(-1))[rest].abs().sum(dim=-1).mean()
    assert moved < 0.5


def test_the_settings_reach_the_guard(run):
    context, _ = run(steps=1, layers=1, alpha=0.3, top=1.0)
    guard = guard_of(context.model)
    assert guard.assistant.config.num_hidden_layers == 1
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        found = context.model(ids).logits
        assistant = guard.assistant(ids).logits
        guard.detach(context.model)
        expected = logit_difference(context.model(ids).logits, assistant, 0.3, 1.0)
    assert torch.equal(found, expected)


def test_a_factor_of_zero_changes_nothing(run, tiny_lm):
    context, _ = run(steps=2, alpha=0.0)
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(context.model(ids).logits, tiny_lm(vocab_size=VOCAB)(ids).logits)


def test_the_weights_stay(run, tiny_lm):
    context, _ = run(steps=2)
    for name, parameter in tiny_lm(vocab_size=VOCAB).named_parameters():
        assert torch.equal(parameter, context.model.get_parameter(name)), name
    assert uld.METHOD.keeps_weights


def test_more_layers_than_there_are_is_refused(run):
    with pytest.raises(ConfigError, match=r"layers = 4: the model has 3 to copy"):
        run(layers=4)
