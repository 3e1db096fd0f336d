import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atu.data.batches import Batch
from atu.methods.base import (
    Method,
    MethodSettings,
    PlainSettings,
    RetainTerm,
    combined_loss,
    retain_loss,
    split_steps,
    wants_reference,
)

BATCH = Batch(
    input_ids=torch.tensor([[1, 5, 6, 7], [1, 9, 0, 0]]),
    attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    labels=torch.tensor([[-100, -100, 6, 7], [-100, 9, -100, -100]]),
)


def log_probabilities(model):
    """[batch, seq, vocab] of the model on `BATCH`."""
    with torch.no_grad():
        logits = model(input_ids=BATCH.input_ids, attention_mask=BATCH.attention_mask).logits
    return (logits.double() - logits.double().logsumexp(-1, keepdim=True)).tolist()


@pytest.mark.parametrize(
    ("steps", "parts", "expected"),
    [(10, 3, [4, 3, 3]), (9, 3, [3, 3, 3]), (2, 5, [1, 1]), (1, 1, [1])],
)
def test_split_steps(steps, parts, expected):
    assert split_steps(steps, parts) == expected


@given(st.integers(1, 500), st.integers(1, 50))
def test_split_steps_loses_nothing(steps, parts):
    split = split_steps(steps, parts)
    assert sum(split) == steps
    assert len(split) == min(steps, parts)
    assert 0 < min(split) <= max(split) <= min(split) + 1


def test_a_plan_is_the_loss_in_equal_stretches(make_settings, make_context):
    """10 steps with 3 evaluations: 4, 3, 3, each ending in a point of the trajectory, over all
    parameters that are not frozen."""
    context = make_context(make_settings(PlainSettings))
    frozen = context.model.get_input_embeddings().weight.requires_grad_(False)
    stages = list(Method(PlainSettings, forget_loss=lambda ctx, batch: None).plan(context))
    assert [stage.steps for stage in stages] == [4, 3, 3]
    assert [stage.name for stage in stages] == ["stretch 1", "stretch 2", "stretch 3"]
    for stage in stages:
        assert (stage.part, stage.evaluate, stage.learning_rate) == ("model", True, 0.25)
        trained = {id(p) for p in stage.parameters}
        assert trained == {id(p) for p in context.model.parameters()} - {id(frozen)}


def test_a_planned_loss_is_the_methods(make_settings, make_context):
    context = make_context(make_settings(PlainSettings))
    method = Method(PlainSettings, forget_loss=lambda ctx, batch: batch.labels.sum() * 0.0 + 3)
    value, parts = next(method.plan(context)).loss()
    assert value.item() == 3 and parts == {"forget": 3.0}


def test_own_stages_replace_the_default(make_settings, make_context):
    context = make_context(make_settings(PlainSettings))
    method = Method(PlainSettings, stages=lambda ctx: iter([ctx, "second"]))
    assert list(method.plan(context)) == [context, "second"]


def test_a_method_without_loss_and_stages_plans_nothing(make_settings, make_context):
    assert list(Method(PlainSettings).plan(make_context(make_settings(PlainSettings)))) == []


def test_combined_loss_adds_the_weighted_retain_term(make_settings, make_context):
    """Forget loss 2, retain loss r, weight 3: 2 + 3 r, and both parts are traced."""
    context = make_context(make_settings(PlainSettings, retain=("nll", 3.0)))
    context.retain = iter([BATCH])
    expected = retain_loss(context, BATCH).item()
    value, parts = combined_loss(context, lambda ctx, batch: torch.tensor(2.0))
    assert expected > 0
    assert value.item() == pytest.approx(2 + 3 * expected)
    assert parts == {"forget": 2.0, "retain": pytest.approx(expected)}


@pytest.mark.parametrize(("term", "weight"), [("none", 1.0), ("nll", 0.0), ("kl", 0.0)])
def test_term_and_weight_must_agree(term, weight):
    """A weight without a term, or a term without weight, would be read as a retain term."""
    with pytest.raises(ValueError, match=f"'{term}' with weight {weight}: `none` goes with 0"):
        RetainTerm(term, weight)


@pytest.mark.parametrize(("kind", "has"), [(MethodSettings, False), (PlainSettings, True)])
def test_only_plain_methods_set_their_evaluations(kind, has):
    """A method with stages of its own says itself where its trajectory has points."""
    assert ("evaluations" in [field.name for field in dataclasses.fields(kind)]) is has


def test_without_a_retain_term_no_retain_text_is_drawn(make_settings, make_context):
    """An empty stream would raise StopIteration."""
    context = make_context(make_settings(PlainSettings), retain=iter([]))
    value, parts = combined_loss(context, lambda ctx, batch: torch.tensor(2.0))
    assert value.item() == 2 and parts == {"forget": 2.0}


def test_forget_and_retain_batches_are_not_mixed_up(make_settings, make_context):
    """Tokens 5 to 11 are in forget texts only."""
    context = make_context(make_settings(PlainSettings))
    seen = []
    combined_loss(context, lambda ctx, batch: seen.append(batch) or torch.tensor(0.0))
    assert set(seen[0].input_ids.flatten().tolist()) == {0, 1, 5, 6, 7, 8, 9, 10, 11}


def test_retain_nll(make_settings, make_context):
    """Scored are token 6 after position 1 and token 7 after position 2 of the first text, and token
    9 after position 0 of the second: the mean of the three, added up one by one."""
    context = make_context(make_settings(PlainSettings, retain=("nll", 1.0)))
    log_p = log_probabilities(context.model)
    expected = -(log_p[0][1][6] + log_p[0][2][7] + log_p[1][0][9]) / 3
    assert retain_loss(context, BATCH).item() == pytest.approx(expected, rel=1e-5)


def test_retain_kl(make_settings, make_context, tiny_lm):
    """sum p (ln p - ln q) over the vocabulary, p the original model's, averaged over the 6 real
    positions; computed one by one from the two models' probabilities."""
    original = tiny_lm(seed=1)
    context = make_context(
        make_settings(PlainSettings, retain=("kl", 1.0)), model=tiny_lm(seed=0), reference=original
    )
    log_p, log_q = log_probabilities(original), log_probabilities(context.model)
    total = 0.0
    for row, position in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]:
        p, q = torch.tensor(log_p[row][position]), torch.tensor(log_q[row][position])
        total += float((p.exp() * (p - q)).sum())
    value = retain_loss(context, BATCH)
    assert value.item() == pytest.approx(total / 6, rel=1e-4)
    value.backward()
    assert all(p.grad is None for p in original.parameters())
    assert all(p.grad is not None for p in context.model.parameters())


def test_retain_kl_is_zero_at_the_original(make_settings, make_context):
    context = make_context(make_settings(PlainSettings, retain=("kl", 1.0)))
    value = retain_loss(context, BATCH)
    assert value.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("needs", "term", "expected"),
    [(False, "none", False), (False, "nll", False), (False, "kl", True), (True, "none", True)],
)
def test_wants_reference(make_settings, needs, term, expected):
    settings = make_settings(PlainSettings, retain=(term, float(term != "none")))
    assert wants_reference(Method(PlainSettings, needs_reference=needs), settings) is expected


def test_a_method_without_a_retain_term_wants_no_reference():
    assert not wants_reference(Method(object), object())
