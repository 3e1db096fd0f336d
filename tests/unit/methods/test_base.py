import dataclasses
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made.retain import NO_RETAIN

from atu.config.entries import parse_plain
from atu.errors import ConfigError
from atu.methods import rmu
from atu.methods.base import (
    Method,
    MethodSettings,
    PlainSettings,
    Retain,
    combined_loss,
    done,
    retain_terms,
    split_steps,
    wants_reference,
)
from atu.models.llm import decoder_layers, hidden_states, parameters_below
from atu.training.batches import Batch, EncodedText

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
    """10 steps with 3 evaluations: 4, 3, 3, each ending in a point of the trajectory, over what is
    to be updated and nothing else."""
    chosen = [torch.nn.Parameter(torch.zeros(1))]
    context = make_context(make_settings(PlainSettings), parameters=chosen)
    stages = list(Method(PlainSettings, forget_loss=lambda ctx, batch: None).plan(context))
    assert [stage.steps for stage in stages] == [4, 3, 3]
    assert [stage.name for stage in stages] == ["stretch 1", "stretch 2", "stretch 3"]
    for stage in stages:
        assert (stage.part, stage.evaluate, stage.learning_rate) == ("model", True, 0.25)
        assert stage.parameters is chosen


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
    context = make_context(make_settings(PlainSettings, retain={"nll": 3.0}))
    context.retain = iter([BATCH])
    expected = retain_terms(context, BATCH)["nll"].item()
    value, parts = combined_loss(context, lambda ctx, batch: torch.tensor(2.0))
    assert expected > 0
    assert value.item() == pytest.approx(2 + 3 * expected)
    assert parts == {"forget": 2.0, "retain_nll": pytest.approx(expected)}


def test_retain_terms_add_up(make_settings, make_context, tiny_lm):
    """Forget 2 + 3 nll + 5 kl + 7 states, in one pass; every term is traced unweighted."""
    retain = {"nll": 3.0, "kl": 5.0, "states": 7.0, "layer": 1}
    own = {"model": tiny_lm(seed=0), "reference": tiny_lm(seed=1)}
    context = make_context(make_settings(PlainSettings, retain=retain), **own)
    context.retain = iter([BATCH])
    alone = {}
    for name in ("nll", "kl", "states"):
        single = {name: 1.0} | ({"layer": 1} if name == "states" else {})
        (alone[name],) = retain_terms(
            make_context(make_settings(PlainSettings, retain=single), **own), BATCH
        ).values()
    value, parts = combined_loss(context, lambda ctx, batch: torch.tensor(2.0))
    assert value.item() == pytest.approx(
        2 + sum(retain[name] * found.item() for name, found in alone.items()), rel=1e-5
    )
    assert parts == {"forget": 2.0} | {
        f"retain_{name}": pytest.approx(found.item(), rel=1e-5) for name, found in alone.items()
    }


@pytest.mark.parametrize(("states", "layer"), [(1.0, None), (1.0, []), (0.0, 1), (0.0, [1, 2])])
def test_held_states_need_their_layer(states, layer):
    """A weight without a layer holds nothing; a layer without weight would be read as held."""
    with pytest.raises(ValueError, match=re.escape(f"states = {states:g} with layer = {layer}: ")):
        Retain(**NO_RETAIN | {"nll": 1.0, "states": states, "layer": layer})


def test_only_terms_with_a_weight_count():
    assert Retain(**NO_RETAIN).weights() == {}
    term = Retain(**NO_RETAIN | {"nll": 0.5, "states": 2.0, "layer": 1})
    assert term.weights() == {"nll": 0.5, "states": 2.0}


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(2, [2]), ([2, 1], [2, 1]), (True, None), ([0], None), ([1, "2"], None), ([1, 1], None)],
)
def test_layers_are_one_or_a_list(layer, expected):
    """As they stand in a parameter file; hidden states 0 are the embeddings."""
    value = NO_RETAIN | {"states": 1.0, "layer": layer}
    if expected is None:
        with pytest.raises(ConfigError, match=r"retain(\.layer)?.* = "):
            parse_plain(Retain, "retain", value)
    else:
        assert parse_plain(Retain, "retain", value).layers == expected


def test_texts_about_neighbours_are_for_a_loss_that_reads_retain_texts(make_settings):
    """RMU does so by its own part, whatever `retain` weighs."""
    with pytest.raises(ValueError, match=r"retain.neighbours = 0.5 is of no use without a weight"):
        make_settings(PlainSettings, retain={"neighbours": 0.5})
    assert make_settings(PlainSettings, retain={"neighbours": 0.5, "kl": 1.0}).retains
    own = {"loss": "rmu", "variant": "paper", "layer": 1, "steering": 1.0}
    assert make_settings(rmu.Settings, retain={"neighbours": 0.5}, alpha=1.0, **own).retains
    with pytest.raises(ValueError, match="of no use"):
        make_settings(rmu.Settings, retain={"neighbours": 0.5}, alpha=0.0, **own)


@pytest.mark.parametrize(("kind", "has"), [(MethodSettings, False), (PlainSettings, True)])
def test_only_plain_methods_set_their_evaluations(kind, has):
    """A method with stages of its own says itself where its trajectory has points."""
    assert ("evaluations" in [field.name for field in dataclasses.fields(kind)]) is has


def test_disruption_masking_stands_around_the_forget_gradient(make_settings, make_context, tiny_lm):
    """The value and what is traced are those without it: f + 3 r. The gradient is 3 times the
    retain gradient, and of the forget gradient what has its sign, at norm 1 over all that is to be
    updated; nothing goes to the rest."""
    model = tiny_lm()
    chosen = list(model.model.layers[1].parameters())
    settings = make_settings(PlainSettings, retain={"nll": 3.0}, wrapper="disruption_masking")
    context = make_context(settings, model=model, parameters=chosen)

    def forget(ctx, batch):
        return 2 * ctx.model(input_ids=batch.input_ids).logits.square().mean()

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, chosen)])

    first = next(context.forget)
    f, r = gradient(forget(context, first)), gradient(retain_terms(context, BATCH)["nll"])
    kept = torch.where(f * r > 0, f, torch.zeros(()))
    assert 0 < (kept != 0).sum() < len(kept)
    expected = kept / kept.norm() + 3 * r
    context.forget, context.retain = iter([first]), iter([BATCH])
    value, parts = combined_loss(context, forget)
    assert value.item() == pytest.approx(parts["forget"] + 3 * parts["retain_nll"])
    assert parts == {
        "forget": pytest.approx(forget(context, first).item()),
        "retain_nll": pytest.approx(retain_terms(context, BATCH)["nll"].item()),
    }
    value.backward()
    found = torch.cat([p.grad.flatten() for p in chosen])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert model.model.layers[0].mlp.up_proj.weight.grad is None


def test_disruption_masking_needs_a_retain_term(make_settings):
    """There would be no gradient to agree with."""
    with pytest.raises(ValueError, match="give `retain` a weight"):
        make_settings(PlainSettings, wrapper="disruption_masking")
    make_settings(PlainSettings, retain={"kl": 1.0}, wrapper="disruption_masking")


def test_an_edit_without_steps_is_a_point():
    stage = done("merged")
    assert (stage.name, stage.steps, stage.parameters) == ("merged", 0, [])
    assert (stage.part, stage.evaluate, stage.facts) == ("model", True, {})


def test_further_streams_are_counted_and_have_a_generator_of_their_own(make_settings, make_context):
    """The name decides the order, beside the seed; batches are of the settings' size unless
    said."""
    texts = [EncodedText([number], 0, []) for number in range(10, 40)]

    def drawn(name, seed=0, **own):
        context = make_context(make_settings(PlainSettings), seed=seed)
        before = len(context.streams)
        stream = context.stream(name, texts, **own)
        assert context.streams[before:] == [stream]
        return next(stream).input_ids.flatten().tolist()

    assert len(drawn("refusals")) == 2 and len(drawn("refusals", batch_size=30)) == 30
    first = drawn("refusals", batch_size=30)
    assert drawn("refusals", batch_size=30) == first
    assert drawn("others", batch_size=30) != first != drawn("refusals", seed=1, batch_size=30)


def test_only_the_answer_of_an_encoded_text_is_scored(make_settings, make_context):
    """A first token and 4 bytes of the prompt; then a space, 2 bytes and the end token."""
    context = make_context(make_settings(PlainSettings))
    text = context.encode("Who?", "Bo")
    assert len(text.ids) == 1 + 4 + 3 + 1 and text.answer_start == 5
    assert context.tokenizer.decode(text.ids[5:-1]) == " Bo"


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
    context = make_context(make_settings(PlainSettings, retain={"nll": 1.0}))
    log_p = log_probabilities(context.model)
    expected = -(log_p[0][1][6] + log_p[0][2][7] + log_p[1][0][9]) / 3
    assert retain_terms(context, BATCH)["nll"].item() == pytest.approx(expected, rel=1e-5)


def test_retain_kl(make_settings, make_context, tiny_lm):
    """sum p (ln p - ln q) over the vocabulary, p the original model's, averaged over the 6 real
    positions; computed one by one from the two models' probabilities."""
    original = tiny_lm(seed=1)
    context = make_context(
        make_settings(PlainSettings, retain={"kl": 1.0}), model=tiny_lm(seed=0), reference=original
    )
    log_p, log_q = log_probabilities(original), log_probabilities(context.model)
    total = 0.0
    for row, position in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]:
        p, q = torch.tensor(log_p[row][position]), torch.tensor(log_q[row][position])
        total += float((p.exp() * (p - q)).sum())
    value = retain_terms(context, BATCH)["kl"]
    assert value.item() == pytest.approx(total / 6, rel=1e-4)
    value.backward()
    assert all(p.grad is None for p in original.parameters())
    assert all(p.grad is not None for p in context.model.parameters())


def test_retain_kl_is_zero_at_the_original(make_settings, make_context):
    context = make_context(make_settings(PlainSettings, retain={"kl": 1.0}))
    value = retain_terms(context, BATCH)["kl"]
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_retain_states(make_settings, make_context, tiny_lm):
    """Squared distance per entry of hidden states 1 to the original's, averaged over a text's real
    tokens, then over the two texts; gradients reach the layers below it alone."""
    original = tiny_lm(seed=1)
    settings = make_settings(PlainSettings, retain={"states": 1.0, "layer": 1})
    context = make_context(settings, model=tiny_lm(seed=0), reference=original)
    inputs = (BATCH.input_ids, BATCH.attention_mask, 1)
    error = (hidden_states(context.model, *inputs) - hidden_states(original, *inputs)).square()
    expected = (error[0, :4].mean() + error[1, :2].mean()).item() / 2
    value = retain_terms(context, BATCH)["states"]
    assert value.item() == pytest.approx(expected, rel=1e-5) and expected > 0
    value.backward()
    reached = {id(p) for p in context.model.parameters() if p.grad is not None}
    assert reached == {id(p) for p in parameters_below(context.model, 1)}


@pytest.mark.parametrize("kl", [0.0, 1.0])
def test_states_of_several_layers_are_their_mean(make_settings, make_context, tiny_lm, kl):
    """Of those that each layer alone gives, in one pass, with and without the original's logits;
    gradients reach the layers below the highest."""
    own = {"model": tiny_lm(seed=0), "reference": tiny_lm(seed=1)}

    def states(layer, distance, **more):
        retain = {"states": 1.0, "layer": layer, "distance": distance} | more
        context = make_context(make_settings(PlainSettings, retain=retain), **own)
        return retain_terms(context, BATCH)["states"]

    for distance in ("squared", "relative"):
        each = [states(layer, distance).item() for layer in (1, 2)]
        both = states([1, 2], distance, kl=kl)
        assert both.item() == pytest.approx(sum(each) / 2, rel=1e-5) and each[0] != each[1]
    both.backward()
    reached = {id(p) for p in own["model"].parameters() if p.grad is not None}
    assert reached == {id(p) for p in parameters_below(own["model"], 2)}


def test_relative_states_do_not_depend_on_their_size(make_settings, make_context, tiny_lm):
    """Both models' embeddings and what the layers add to them three times as large: the squared
    distance is nine times as large, the relative one as it was."""
    found = {}
    for scale in (1, 3):
        models = [tiny_lm(seed=0), tiny_lm(seed=1)]
        for model in models:
            with torch.no_grad():
                model.get_input_embeddings().weight.mul_(scale)
                for layer in decoder_layers(model):
                    layer.self_attn.o_proj.weight.mul_(scale)
                    layer.mlp.down_proj.weight.mul_(scale)
        for distance in ("squared", "relative"):
            retain = {"states": 1.0, "layer": 2, "distance": distance}
            context = make_context(make_settings(PlainSettings, retain=retain), *models)
            found[distance, scale] = retain_terms(context, BATCH)["states"].item()
    assert found["squared", 3] == pytest.approx(9 * found["squared", 1], rel=1e-2)
    assert found["relative", 3] == pytest.approx(found["relative", 1], rel=1e-2)


@pytest.mark.parametrize("more", [[], [1]])
def test_states_that_the_model_has_not(make_settings, make_context, tiny_lm, more):
    """The last ones are after the final norm."""
    count = len(decoder_layers(tiny_lm()))
    layer = [*more, count] if more else count
    settings = make_settings(PlainSettings, retain={"states": 1.0, "layer": layer})
    message = re.escape(f"retain.layer = {layer}: the model has hidden states 1..{count - 1}")
    with pytest.raises(ConfigError, match=message):
        retain_terms(make_context(settings), BATCH)


@pytest.mark.parametrize(
    ("needs", "retain", "expected"),
    [
        (False, {}, False),
        (False, {"nll": 1.0}, False),
        (False, {"kl": 1.0}, True),
        (False, {"states": 1.0, "layer": 1}, True),
        (True, {}, True),
    ],
)
def test_wants_reference(make_settings, needs, retain, expected):
    settings = make_settings(PlainSettings, retain=retain)
    assert wants_reference(Method(PlainSettings, needs_reference=needs), settings) is expected


def test_a_method_without_a_retain_term_wants_no_reference():
    assert not wants_reference(Method(object), object())
