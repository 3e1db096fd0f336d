import pytest
import torch
from torch import nn

from atu.data.batches import Batch, BatchStream, EncodedText
from atu.errors import ConfigError
from atu.methods import atu
from atu.methods.atu import (
    METHOD,
    Settings,
    choose_thresholds,
    hinge_loss,
    measure_cosines,
    predicted_cosine,
    stages,
)
from atu.methods.base import Stage
from atu.models.llm import parameters_below
from atu.models.predictor import PredictorConfig, build_predictor

COSINES = [0.0, 0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def settings(make_settings):
    def make(quantiles=(), thresholds=(), realign_steps=0, **own):
        return make_settings(
            Settings,
            loss="atu",
            quantiles=list(quantiles),
            thresholds=list(thresholds),
            realign_steps=realign_steps,
            **own,
        )

    return make


@pytest.fixture
def context(make_context):
    """On a tiny model, with a random predictor that reads layer 2 and one concept."""

    def make(settings, **own):
        config = PredictorConfig(16, 4, 8, 1, 2, 16, 0.0, False)
        values = {
            "predictor": build_predictor(config, 0).eval().requires_grad_(False),
            "concept": nn.functional.normalize(torch.tensor([[1.0, 2.0, 0.0, -1.0]])),
            "hook_layer": 2,
        }
        return make_context(settings, **(values | own))

    return make


@pytest.fixture
def given_cosines(monkeypatch):
    """Every token's predicted cosine is its id / 10 - .5, so that 5 .. 9 have `COSINES`; the
    padding id 0 would have -.5."""
    monkeypatch.setattr(atu, "predicted_cosine", lambda context, batch: batch.input_ids / 10 - 0.5)
    texts = [EncodedText(ids, 0, []) for ids in ([9], [8, 5, 6], [7])]
    return BatchStream(texts, 2, 0, rng=None)


@pytest.mark.parametrize(
    ("ladders", "message"),
    [
        ({}, "either `quantiles` or `thresholds`"),
        ({"quantiles": [0.5], "thresholds": [0.5]}, "either `quantiles` or `thresholds`"),
        ({"quantiles": [0.5, 0.5]}, r"fall strictly, not \[0.5, 0.5\]"),
        ({"thresholds": [0.2, 0.4]}, r"fall strictly, not \[0.2, 0.4\]"),
    ],
)
def test_settings_refuse_ladders_that_do_not_fall(settings, ladders, message):
    with pytest.raises(ValueError, match=message):
        settings(**ladders)


@pytest.mark.parametrize(
    ("threshold", "mask", "expected"),
    [
        (0.6, [1, 1, 0], 0.15),
        (0.6, [1, 1, 1], 0.5 / 3),
        (0.9, [1, 1, 1], 0.0),
        (-1.0, [0, 1, 0], 1.5),
        (0.6, [0, 0, 0], 0.0),
    ],
)
def test_hinge(threshold, mask, expected):
    """Cosines .9, .5, .8. At tau .6 the parts are .3, 0, .2: with the last masked .3 / 2 = .15,
    with all .5 / 3. At tau .9 nothing is above. At tau -1, .5 alone gives 1.5."""
    value = hinge_loss(torch.tensor([[0.9, 0.5, 0.8]]), torch.tensor([mask]), threshold)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_the_hinge_pushes_only_what_is_above():
    """Slope 1/2 at .9, none at .5 below tau, none at the masked .8."""
    similarity = torch.tensor([[0.9, 0.5, 0.8]], requires_grad=True)
    hinge_loss(similarity, torch.tensor([[1, 1, 0]]), 0.6).backward()
    assert similarity.grad.tolist() == [[0.5, 0.0, 0.0]]


def test_measured_cosines_are_those_of_real_tokens(settings, context, given_cosines):
    """Each of the 5 tokens once and sorted, the two pads of the first batch left out."""
    ctx = context(settings(quantiles=[0.5]), forget=given_cosines)
    assert measure_cosines(ctx).tolist() == pytest.approx(COSINES, abs=1e-6)


def test_quantiles_become_cosines(settings, context, given_cosines):
    """Of 0, .1, .2, .3, .4 the quantiles 3/4, 1/2, 1/8 are .3, .2 and, half-way between the first
    two, .05; they are reported."""
    ctx = context(settings(quantiles=[0.75, 0.5, 0.125]), forget=given_cosines)
    assert choose_thresholds(ctx) == pytest.approx([0.3, 0.2, 0.05], abs=1e-6)
    assert ctx.measured == {
        "cosine_quantile_0.75": pytest.approx(0.3),
        "cosine_quantile_0.5": pytest.approx(0.2),
        "cosine_quantile_0.125": pytest.approx(0.05),
    }


def test_equal_quantiles_are_refused(settings, context):
    """A predictor that gives one vector for everything leaves no ladder to go down."""
    ctx = context(settings(quantiles=[0.75, 0.25]))
    nn.init.zeros_(ctx.predictor.leave.weight)
    with pytest.raises(ConfigError, match=r"quantiles = \[0.75, 0.25\]: give equal cosines"):
        choose_thresholds(ctx)


def test_thresholds_are_used_as_they_are(settings, context, monkeypatch):
    monkeypatch.setattr(atu, "measure_cosines", None)
    ctx = context(settings(thresholds=[0.5, 0.25]))
    assert choose_thresholds(ctx) == [0.5, 0.25]
    assert ctx.measured == {}


def test_rounds_alternate_with_realignment(settings, context):
    """10 steps over 3 thresholds: 4, 3, 3; the predictor is aligned again between rounds and not
    after the last. Only the layers below the hook are trained."""
    asked = []

    def realign(steps):
        asked.append(steps)
        yield Stage("re-align", steps, None, [], 0.0, part="predictor", evaluate=False)

    ctx = context(settings(thresholds=[0.5, 0.4, 0.3], realign_steps=7), realign=realign)
    plan = list(stages(ctx))
    assert [(s.name, s.steps) for s in plan] == [
        ("round 1", 4), ("re-align", 7), ("round 2", 3), ("re-align", 7), ("round 3", 3),
    ]  # fmt: skip
    assert asked == [7, 7]
    rounds = [s for s in plan if s.part == "model"]
    assert [s.facts for s in rounds] == [{"threshold": t} for t in (0.5, 0.4, 0.3)]
    below = {id(p) for p in parameters_below(ctx.model, 2)}
    assert all({id(p) for p in s.parameters} == below and s.evaluate for s in rounds)


def test_no_realignment_without_steps(settings, context):
    """`realign` is None here; calling it would fail."""
    plan = list(stages(context(settings(thresholds=[0.5, 0.4], realign_steps=0))))
    assert [s.name for s in plan] == ["round 1", "round 2"]


def test_every_round_has_its_own_threshold(settings, context, given_cosines):
    """Mean of max(0, cos - tau) over 0, .1, .2, .3, .4: .1 / 5 = .02 at tau .3, and at tau .1
    (.1 + .2 + .3) / 5 = .12. All stages exist before the first loss is taken."""
    ctx = context(settings(thresholds=[0.3, 0.1], batch_size=3))
    batch = Batch(torch.tensor([[5, 6, 7, 8, 9]]), torch.ones(1, 5), torch.zeros(1, 5))
    ctx.forget = iter([batch, batch])
    values = [stage.loss()[0].item() for stage in list(stages(ctx))]
    assert values == pytest.approx([0.02, 0.12], abs=1e-6)


@pytest.mark.parametrize(("compat", "expected"), [(False, 0.4), (True, 0.2)])
def test_padding_counts_only_in_the_reference(settings, context, given_cosines, compat, expected):
    """Cosines .4 and .4, tau 0; the two pads have cosine -.5 and add nothing: .8 / 2 = .4, in the
    reference .8 / 4 = .2."""
    ctx = context(settings(thresholds=[0.0]), reference_compat=compat)
    ids, mask = torch.tensor([[9, 9, 0, 0]]), torch.tensor([[1, 1, 0, 0]])
    ctx.forget = iter([Batch(ids, mask, ids)])
    assert next(stages(ctx)).loss()[0].item() == pytest.approx(expected)


def test_predicted_cosine_on_a_real_model(settings, context):
    """Cosines in [-1, 1] that do not depend on padding beside them."""
    ctx = context(settings(thresholds=[0.0]))
    batch = next(ctx.forget)
    found = predicted_cosine(ctx, batch)
    assert found.shape == batch.input_ids.shape
    assert found.abs().max() <= 1
    row = int(batch.attention_mask.sum(dim=1).argmin())
    alone = Batch(*(t[row : row + 1, :4] for t in vars(batch).values()))
    torch.testing.assert_close(found[row : row + 1, :4], predicted_cosine(ctx, alone))


def test_unlearning_lowers_the_cosine_below_the_hook_layer_only(settings, context):
    """Some steps on the stage's own loss and parameters: the mean cosine falls; the predictor and
    the layers from the hook on are untouched."""
    ctx = context(settings(thresholds=[-1.0]))
    stage = next(stages(ctx))
    trained = {id(p) for p in stage.parameters}
    everything = [*ctx.model.parameters(), *ctx.predictor.parameters()]
    others = [(p, p.detach().clone()) for p in everything if id(p) not in trained]
    before = measure_cosines(ctx).mean()
    optimizer = torch.optim.SGD(stage.parameters, lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        stage.loss()[0].backward()
        optimizer.step()
    assert measure_cosines(ctx).mean() < before - 1e-3
    assert others and all(torch.equal(p, old) and p.grad is None for p, old in others)


@pytest.mark.parametrize("ladder", ["quantiles", "thresholds"])
def test_fewer_steps_than_rounds_are_refused(settings, ladder):
    """Three rounds need three steps: refused when the settings are read, not after the last one."""
    settings(**{ladder: [0.5, 0.4, 0.3]}, steps=3)
    with pytest.raises(ValueError, match="steps = 2 are fewer than the 3 rounds"):
        settings(**{ladder: [0.5, 0.4, 0.3]}, steps=2)


def test_needs():
    assert (METHOD.needs_reference, METHOD.needs_predictor, METHOD.start) == (False, True, "full")
