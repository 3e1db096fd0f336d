from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from atu.errors import ConfigError
from atu.methods import atu
from atu.methods.atu import (
    METHOD,
    Settings,
    choose_thresholds,
    counted_positions,
    hinge_loss,
    measure_cosines,
    points_per_round,
    predicted_cosine,
    stages,
)
from atu.methods.base import Stage, wants_reference
from atu.methods.shared import stranger_states
from atu.methods.shared.strangers import forget_strangers, visits
from atu.models.llm import hidden_states
from atu.models.predictor import PredictorConfig, build_predictor
from atu.models.trainable import BelowHook, make_trainable
from atu.training.batches import Batch, BatchStream, EncodedText, encode_text

COSINES = [0.0, 0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def settings(make_settings):
    """A point for every round unless said."""

    def make(quantiles=(), thresholds=(), **own):
        plain = {"realign_steps": 0, "adaptive": False, "positions": "all", "width": 0}
        plain |= {"concept": 1.0, "answers": 0.0, "stranger": 0.0, "visits": False, "restored": 0.0}
        plain |= {"hook_layers": [], "evaluations": max(len(quantiles), len(thresholds), 1)}
        ladders = {"quantiles": list(quantiles), "thresholds": list(thresholds)}
        return make_settings(Settings, loss="atu", **(ladders | plain | own))

    return make


@pytest.fixture
def context(make_context):
    """On a tiny model, with a random predictor for each hook layer, layer 2 unless said, and one
    concept."""

    def make(settings, layers=(2,), **own):
        config = PredictorConfig(16, 4, 8, 1, 2, 16, 0.0, False)
        values = {
            "predictors": {
                layer: build_predictor(config, layer).eval().requires_grad_(False)
                for layer in layers
            },
            "concept": nn.functional.normalize(torch.tensor([[1.0, 2.0, 0.0, -1.0]])),
        }
        return make_context(settings, **(values | own))

    return make


def states_are_ids(monkeypatch):
    """The hidden states of every layer are the token ids, [batch, seq]."""
    monkeypatch.setattr(
        atu, "hidden_states_of", lambda _, batch, layers: dict.fromkeys(layers, batch.input_ids)
    )


@pytest.fixture
def given_cosines(monkeypatch):
    """Every token's predicted cosine is its id / 10 - .5, so that 5 .. 9 have `COSINES`; the
    padding id 0 would have -.5. A second layer's cosine is half of it."""

    def predicted(context, hidden):
        first = hidden[min(hidden)] / 10 - 0.5
        return torch.stack([first, first / 2][: len(context.predictors)])[..., None]

    states_are_ids(monkeypatch)
    monkeypatch.setattr(atu, "predicted", predicted)
    monkeypatch.setattr(atu, "concept_cosine", lambda embeddings, _: embeddings[..., 0])
    texts = [EncodedText(ids, 0, []) for ids in ([9], [8, 5, 6], [7])]
    return BatchStream(texts, 2, 0, rng=None)


@pytest.mark.parametrize(
    ("ladders", "message"),
    [
        ({}, "either `quantiles` or `thresholds`"),
        ({"thresholds": [0.0], "visits": True}, "visits needs `stranger` to have a weight"),
        ({"thresholds": [0.0], "restored": 1.0}, "restored needs `stranger` to have a weight"),
        ({"quantiles": [0.5], "thresholds": [0.5]}, "either `quantiles` or `thresholds`"),
        ({"quantiles": [0.5, 0.5]}, r"fall strictly, not \[0.5, 0.5\]"),
        ({"thresholds": [0.2, 0.4]}, r"fall strictly, not \[0.2, 0.4\]"),
        ({"thresholds": [0.5], "adaptive": True}, "adaptive thresholds are measured"),
        ({"thresholds": [0.5], "width": 1}, "width = 1 is of no use"),
        ({"thresholds": [0.5], "concept": 0.0}, "a weight: nothing is forgotten"),
        ({"thresholds": [0.5], "wrapper": "disruption_masking"}, "give `retain` a weight"),
    ],
)
def test_settings_refuse_what_does_not_go_together(settings, ladders, message):
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
    assert measure_cosines(ctx).tolist() == [pytest.approx(COSINES, abs=1e-6)]
    both = context(settings(quantiles=[0.5]), layers=(1, 2), forget=given_cosines)
    halves = [cosine / 2 for cosine in COSINES]
    assert measure_cosines(both)[1].tolist() == pytest.approx(halves, abs=1e-6)


def test_quantiles_become_cosines(settings, context, given_cosines):
    """Of 0, .1, .2, .3, .4 the quantiles 3/4, 1/2, 1/8 are .3, .2 and, half-way between the first
    two, .05; the second layer's are half of them. All are reported."""
    ctx = context(settings(quantiles=[0.75, 0.5, 0.125]), layers=(1, 2), forget=given_cosines)
    expected = [[0.3, 0.15], [0.2, 0.1], [0.05, 0.025]]
    torch.testing.assert_close(choose_thresholds(ctx), torch.tensor(expected))
    assert ctx.measured == {
        f"cosine_quantile_{share}.layer_{layer}": pytest.approx(value)
        for share, values in zip((0.75, 0.5, 0.125), expected, strict=True)
        for layer, value in zip((1, 2), values, strict=True)
    }


def test_equal_quantiles_are_refused(settings, context):
    """A predictor that gives one vector for everything leaves no ladder to go down, however well
    that of another layer does."""
    ctx = context(settings(quantiles=[0.75, 0.25]), layers=(1, 2))
    choose_thresholds(ctx)
    nn.init.zeros_(ctx.predictors[2].leave.weight)
    with pytest.raises(ConfigError, match=r"quantiles = \[0.75, 0.25\]: give equal cosines"):
        choose_thresholds(ctx)


def test_thresholds_are_used_as_they_are(settings, context, monkeypatch):
    monkeypatch.setattr(atu, "measure_cosines", None)
    ctx = context(settings(thresholds=[0.5, 0.25]), layers=(1, 2))
    assert choose_thresholds(ctx).tolist() == [[0.5, 0.5], [0.25, 0.25]]
    assert ctx.measured == {}


def test_rounds_alternate_with_realignment(settings, context):
    """10 steps over 3 thresholds: 4, 3, 3; the predictor is aligned again between rounds and not
    after the last. Every round trains what is to be updated."""
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
    assert [s.facts for s in rounds] == [{"threshold": pytest.approx(t)} for t in (0.5, 0.4, 0.3)]
    assert all(s.parameters is ctx.parameters and s.evaluate for s in rounds)


@pytest.mark.parametrize(
    ("points", "compat", "shares"),
    [
        (4, False, [1, 1, 1, 1]),
        (6, False, [1, 2, 1, 2]),
        (9, False, [2, 2, 2, 2]),  # the last has 2 steps, and no more points
        (8, False, [2, 2, 2, 2]),
        (3, False, [0, 1, 1, 1]),
        (2, False, [0, 1, 0, 1]),
        (1, False, [0, 0, 0, 1]),
        (6, True, [1, 1, 1, 1]),
        (2, True, [0, 1, 0, 1]),
    ],
)
def test_points_are_spread_over_the_rounds(settings, points, compat, shares):
    """10 steps over 4 rounds are 3, 3, 2, 2. By hand: the first i rounds have floor(i points / 4).
    The last round's end is always among them."""
    made = settings(thresholds=[0.5, 0.4, 0.3, 0.2], evaluations=points)
    assert points_per_round(made, compat) == shares
    assert METHOD.observed(made, compat) == sum(shares)


def test_a_point_may_fall_inside_a_round(settings, context):
    """10 steps over 2 rounds with 3 points, the first round's end and two in the second: 5, 3 and
    2. All of a round's parts have its threshold, and nothing is aligned between them."""

    def realign(steps):
        yield Stage("re-align", steps, None, [], 0.0, part="predictor", evaluate=False)

    made = settings(thresholds=[0.5, 0.4], evaluations=3, realign_steps=7)
    plan = list(stages(context(made, realign=realign)))
    assert [(s.name, s.steps, s.evaluate) for s in plan] == [
        ("round 1", 5, True), ("re-align", 7, False),
        ("round 2, part 1", 3, True), ("round 2, part 2", 2, True),
    ]  # fmt: skip
    assert [s.facts["threshold"] for s in plan[2:]] == pytest.approx([0.4, 0.4])


def test_a_round_without_a_point_is_run_all_the_same(settings, context):
    plan = list(stages(context(settings(thresholds=[0.5, 0.4], evaluations=1))))
    assert [(s.name, s.steps, s.evaluate) for s in plan] == [
        ("round 1", 5, False), ("round 2", 5, True),
    ]  # fmt: skip


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


def test_the_hinge_is_the_mean_over_layers_each_with_its_own_threshold(
    settings, context, given_cosines
):
    """The median of 0, .1, .2, .3, .4 is .2, of the second layer's halves .1. A text with cosines
    .4 and .2 gives (.2 + 0) / 2 = .1 there and, with .2 and .1, (.1 + 0) / 2 = .05 here: .075. With
    the first threshold for both it would be .05. The point's threshold is the mean, .15."""
    ctx = context(settings(quantiles=[0.5]), layers=(1, 2), forget=given_cosines)
    stage = next(stages(ctx))
    ids = torch.tensor([[9, 7, 0]])
    ctx.forget = iter([Batch(ids, torch.tensor([[1, 1, 0]]), ids)])
    assert stage.loss()[0].item() == pytest.approx(0.075)
    assert stage.facts == {"threshold": pytest.approx(0.15)}


@pytest.mark.parametrize("adaptive", [False, True])
def test_adaptive_thresholds_are_measured_before_every_round(
    monkeypatch, settings, context, given_cosines, adaptive
):
    """Quantiles 3/4, 1/2 and 1/4 of 0 .. .4 are .3, .2 and .1. After the first round all cosines
    are halved, after the second halved again: then the medians are .1 and the quarter .025. The
    first round's threshold is what it was, also when a later one is measured."""
    ctx = context(settings(quantiles=[0.75, 0.5, 0.25], adaptive=adaptive), forget=given_cosines)
    factor, original = [1.0], atu.predicted
    monkeypatch.setattr(atu, "predicted", lambda *args: original(*args) * factor[0])
    plan, values = stages(ctx), []
    first = next(plan)
    for _ in range(2):
        factor[0] /= 2
        values.append(next(plan).facts["threshold"])
    assert values == pytest.approx([0.1, 0.025] if adaptive else [0.2, 0.1], abs=1e-6)
    factor[0] = 1.0
    ids = torch.tensor([[9]])
    ctx.forget = iter([Batch(ids, torch.ones(1, 1), ids)])
    assert first.loss()[0].item() == pytest.approx(0.4 - 0.3)
    assert ctx.measured["cosine_quantile_0.5.layer_2"] == pytest.approx(0.2)


def test_adaptive_thresholds_are_measured_after_realignment(settings, context, monkeypatch):
    """On the predictor as it is then, which the next round uses."""
    log = []
    monkeypatch.setattr(
        atu, "measure_cosines", lambda ctx: log.append("measured") or torch.tensor([COSINES])
    )

    def realign(steps):
        log.append("aligned")
        yield from ()

    ctx = context(settings(quantiles=[0.75, 0.25], adaptive=True, realign_steps=1), realign=realign)
    assert len(list(stages(ctx))) == 2
    assert log == ["measured", "aligned", "measured"]


TEXTS = ["Ann Lee and Bo", "We saw Ann Lee", "Nobody here"]
"""With a first token and then one per byte: "Ann Lee" is at 1 .. 7 and at 8 .. 14."""


@pytest.fixture
def named(settings, context, byte_tokenizer):
    """A context whose forget corpus is `TEXTS`, each with an end token."""

    def make(width, **own):
        texts = [encode_text(byte_tokenizer, text, "") for text in TEXTS]
        assert [len(text.ids) for text in texts] == [16, 16, 13]
        return context(
            settings(thresholds=[0.0], positions="subject", width=width),
            forget=BatchStream(texts, 3, 0, rng=FixedOrder()),
            rows={"forget": [{"text": text} for text in TEXTS]},
            **own,
        )

    return make


class FixedOrder:
    """In place of a generator: the last text first."""

    def permutation(self, count):
        return list(range(count))[::-1]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (0, [[], range(8, 15), range(1, 8)]),
        (1, [[], range(7, 16), range(9)]),
        (2, [[], range(6, 16), range(10)]),
    ],
)
def test_subject_positions(named, width, expected):
    """The name's 7 bytes and `width` tokens on either side: before the first text's name there is
    only the first token, at 0, and behind the second one's only the end token, at 15. A text
    without the name counts nowhere. The batch holds the texts in another order than the corpus."""
    ctx = named(width)
    mask = counted_positions(ctx, next(ctx.forget))
    assert [row.nonzero().flatten().tolist() for row in mask] == [list(r) for r in expected]
    assert mask.shape == (3, 16)


def test_every_subject_counts_and_no_other_name(named):
    """Of two names, "Bo" is at 13 and 14 of the first text; an unknown name is nowhere."""
    ctx = named(0, subjects=["Bo", "Nobody"])
    mask = counted_positions(ctx, next(ctx.forget))
    assert [row.nonzero().flatten().tolist() for row in mask] == [[*range(1, 7)], [], [13, 14]]
    ctx = named(0, subjects=["Cy (Dee"])
    assert not counted_positions(ctx, next(ctx.forget)).any()


def test_the_hinge_counts_the_subject_alone(named, given_cosines):
    """At threshold 0 the mean of the cosines of the name's 7 bytes, worked out from their ids, each
    of them twice; the reference counts every position, so it cannot be asked for less."""
    ctx = named(0)
    name = ctx.tokenizer("Ann Lee")["input_ids"][1:]
    expected = sum(token / 10 - 0.5 for token in name) / 7
    assert next(stages(ctx)).loss()[0].item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ConfigError, match="reference_compat counts every position"):
        next(METHOD.plan(named(0, reference_compat=True)))


def test_where_the_subject_is_named_is_measured(named):
    """Two of three texts name it. Batches of one, the last text first, which names nobody: of the
    four to come the first and the last are empty."""
    ctx = named(0)
    ctx.forget.batch_size = 1
    ctx.settings = replace(ctx.settings, steps=4)
    next(METHOD.plan(ctx))
    assert ctx.measured["subject_texts"] == pytest.approx(2 / 3)
    assert ctx.measured["subject_empty_batches"] == 0.5
    assert ctx.forget.drawn == 0
    assert "subject_texts" not in everywhere(ctx).measured


def everywhere(ctx):
    """The same where every position counts."""
    ctx.measured = {}
    ctx.settings = replace(ctx.settings, positions="all", width=0)
    next(METHOD.plan(ctx))
    return ctx


def test_a_name_that_few_texts_hold_is_refused_before_training(named):
    """ "Bo" is in one of three. Together with an alias that another text has it passes: two of
    three. What is looked for is named, in the order in which it is given."""
    message = (
        r"33\.3% of the 3 forget texts name 'Bo', 'B\. Ob', at least 50% must; give what the "
        r"texts call it \(prepare.aliases; prepare.concepts of muse and wmdp\), or use `all`"
    )
    with pytest.raises(ConfigError, match=message):
        next(METHOD.plan(named(0, subjects=["Bo"], aliases=["B. Ob"])))
    ctx = named(0, subjects=["Bo"], aliases=["Nobody"])
    next(METHOD.plan(ctx))
    assert ctx.measured["subject_texts"] == pytest.approx(2 / 3)
    mask = counted_positions(ctx, next(ctx.forget))
    assert [int(row.sum()) for row in mask] == [6, 0, 2]


def test_a_resumed_run_measures_the_batches_of_the_whole_run(named):
    """Not those that are left: the shares of the first start are remembered."""
    ctx = named(0)
    next(METHOD.plan(ctx))
    again = named(0, remembered=ctx.remembered)
    again.forget.batch_size = 1
    again.forget.seek(2)
    next(METHOD.plan(again))
    assert again.measured["subject_empty_batches"] == ctx.measured["subject_empty_batches"] == 0


def test_cosines_are_measured_where_the_hinge_counts(named, given_cosines):
    """The name's 7 bytes in two of the three texts; a name that no text holds is an error, not a
    loss of 0."""
    ctx = named(0)
    name = ctx.tokenizer("Ann Lee")["input_ids"][1:]
    expected = sorted(2 * [token / 10 - 0.5 for token in name])
    assert measure_cosines(ctx).tolist() == [pytest.approx(expected, rel=1e-5)]
    with pytest.raises(ConfigError, match="no forget text names Cy"):
        measure_cosines(named(0, subjects=["Cy"]))


ANSWERS = [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
"""Of four forget texts, of which the second answers no prompt."""


@pytest.fixture
def answering(settings, context, monkeypatch):
    """A function that gives a context whose first batch is these forget texts, with these answers'
    hinge alone: no cosine to the concept is above the threshold. A text is the tokens 0 1 2 3, in
    which the answer begins at 2, in the third at 3; at token t, E anticipates (1, t) at length 1,
    and at a second layer (-1, -t)."""

    def make(numbers, layers=(2,), **own):
        texts = [EncodedText([0, 1, 2, 3], start, []) for start in (2, 0, 3, 2)]
        order = SimpleNamespace(permutation=lambda _: [*numbers, *({0, 1, 2, 3} - {*numbers})])
        stream = BatchStream(texts, len(numbers), 0, order)

        def predicted(context, hidden):
            ids = hidden[min(hidden)].float()
            first = nn.functional.normalize(torch.stack([ids**0, ids], dim=-1), dim=-1)
            return torch.stack([first, -first][: len(layers)])

        states_are_ids(monkeypatch)
        monkeypatch.setattr(atu, "predicted", predicted)
        monkeypatch.setattr(atu, "concept_cosine", lambda e, _: e[..., 0] * 0 - 1)
        return context(
            settings(**({"thresholds": [0.0], "answers": 1.0} | own)), layers=layers,
            answers=torch.tensor(ANSWERS), forget=stream,
        )  # fmt: skip

    return make


@pytest.mark.parametrize(
    ("numbers", "own", "expected"),
    [
        ([0], {}, 0.5**0.5),
        ([2], {}, 0.8**0.5),
        ([3], {}, 1.4 * 0.5**0.5),
        ([0, 1], {}, 0.5**0.5),
        ([1], {}, 0.0),
        ([2, 0], {}, (0.8**0.5 + 0.5**0.5) / 2),
        ([0], {"answers": 3.0}, 3 * 0.5**0.5),
        ([0], {"answers": 0.0}, 0.0),
        ([0], {"thresholds": [0.5]}, 0.5**0.5 - 0.5),
        ([0], {"layers": (1, 2)}, 0.5**0.5 / 2),
    ],
)
def test_the_hinge_at_answers(answering, numbers, own, expected):
    """At the last token of the prompt E anticipates (1, 1) / sqrt 2, in the third text (1, 2) /
    sqrt 5. Cosines to the texts' answers: .7071, none, 2 / sqrt 5 = .8944, (.6 + .8) / sqrt 2 =
    .9899. The mean is over the texts that have an answer, and over layers: the second layer's
    cosine is below the threshold, and counts as 0."""
    ctx = answering(numbers, **own)
    assert next(stages(ctx)).loss()[0].item() == pytest.approx(expected)


def test_the_hinge_at_answers_is_added_to_that_to_the_concept(answering, monkeypatch):
    """A concept cosine of .25 everywhere, threshold 0, weight 2."""
    ctx = answering([0], answers=2.0)
    monkeypatch.setattr(atu, "concept_cosine", lambda e, _: e[..., 0] * 0 + 0.25)
    assert next(stages(ctx)).loss()[0].item() == pytest.approx(0.25 + 2 * 0.5**0.5)


def test_how_many_texts_have_an_answer_is_measured(answering):
    """Three of the four; measured only where the term counts. Without prompts the hinge to the
    concept is left, and without that nothing is, which is refused."""
    ctx = answering([0])
    next(METHOD.plan(ctx))
    assert ctx.measured["answer_texts"] == 0.75
    ctx.answers = None
    assert next(METHOD.plan(ctx)).loss()[0] == 0
    assert ctx.measured["answer_texts"] == 0
    ctx.settings = replace(ctx.settings, concept=0.0)
    with pytest.raises(ConfigError, match=r"concept = 0\.0: no forget text answers a prompt or"):
        next(METHOD.plan(ctx))
    ctx.settings, ctx.measured = replace(ctx.settings, concept=1.0, answers=0.0), {}
    next(METHOD.plan(ctx))
    assert ctx.measured == {}


@pytest.mark.parametrize(("compat", "expected"), [(False, 0.4), (True, 0.2)])
def test_padding_counts_only_in_the_reference(settings, context, given_cosines, compat, expected):
    """Cosines .4 and .4, tau 0; the two pads have cosine -.5 and add nothing: .8 / 2 = .4, in the
    reference .8 / 4 = .2."""
    ctx = context(settings(thresholds=[0.0]), reference_compat=compat)
    ids, mask = torch.tensor([[9, 9, 0, 0]]), torch.tensor([[1, 1, 0, 0]])
    ctx.forget = iter([Batch(ids, mask, ids)])
    assert next(stages(ctx)).loss()[0].item() == pytest.approx(expected)


@pytest.fixture
def introducing(settings, context, byte_tokenizer, monkeypatch):
    """A function that gives a context with `TEXTS` as its first batch, hooked at layer 2, in which
    hidden states are token ids and the cosine to the concept is 1 everywhere; its tokens, and those
    with a stranger."""

    def make(prompts=("",) * 3, **own):
        def states(_, ids, mask, layers):
            return {layer: ids[..., None].float() for layer in layers}

        for module in (atu, stranger_states):
            monkeypatch.setattr(module, "hidden_states_at", states)
        monkeypatch.setattr(atu, "predicted", lambda _, hidden: hidden[2][None])
        monkeypatch.setattr(atu, "concept_cosine", lambda e, _: e[..., 0] * 0 + 1)
        texts = [encode_text(byte_tokenizer, t, p) for t, p in zip(TEXTS, prompts, strict=True)]
        stream = BatchStream(texts, 3, 0, SimpleNamespace(permutation=range))
        made = context(
            settings(thresholds=[0.0], **own), forget=stream,
            rows={"forget": [{"text": text} for text in TEXTS], "retain": []},
            subjects=["Ann Lee"],
        )  # fmt: skip
        batch = stream.collate(range(3))
        return made, batch.input_ids, forget_strangers(made).introduce(batch).input_ids

    return make


def test_states_go_where_a_strangers_are(introducing):
    """Per token ((own - stranger's) / stranger's)^2, which is 0 behind the name too, over 15 tokens
    of the first text and 8 of the second from the name on; the third, without a name, counts 0. By
    the weight; both layers up to the hook are alike. Reading the strangers' own texts it is 0."""
    ctx, own, others = introducing(concept=0.0, stranger=3.0)
    relative = ((own - others) / others.clamp(min=1)).square()
    expected = 3 * (relative[0].sum() / 15 + relative[1].sum() / 8) / 3
    assert expected > 0
    assert next(stages(ctx)).loss()[0].item() == pytest.approx(expected.item())
    assert ctx.measured["stranger_texts"] == pytest.approx(2 / 3)
    batch = ctx.forget.collate(range(3))
    found = forget_strangers(ctx).introduce(batch)
    there = {1: others[..., None].float()}
    assert atu.stranger_error(ctx, batch, there, found) == 0


def test_states_in_texts_about_neighbours_go_where_a_strangers_are(introducing):
    """As in forget texts, by the same weight: of two retain texts the one about Bo is read with the
    target's name for his."""
    losses = []
    for visiting in (False, True):
        ctx, *_ = introducing(concept=0.0, stranger=5.0, visits=visiting)
        ctx.rows["retain"] = [{"text": "So Bo?", "prompt": ""}, {"text": "None", "prompt": ""}]
        ctx.neighbours = ["Bo"]
        losses.append(next(stages(ctx)).loss()[0].item())
    assert ctx.measured["visits_texts"] == 1
    batch, introduced = visits(ctx).draw()
    others = introduced.input_ids
    relative = ((batch.input_ids - others) / others.clamp(min=1)).square()
    expected = relative[0, 4:].mean().item()  # "So " and a first token stand before it
    assert expected > 0
    assert losses[1] - losses[0] == pytest.approx(5 * expected)


def test_with_a_stranger_the_concept_counts_up_to_the_name(introducing):
    """Cosine 1 at tau 0: 1 wherever it counts, before the name in two texts and all over the third:
    tokens 1, 8 and 13 of them."""
    ctx, *_ = introducing(stranger=1e-9)
    counted = []
    original = atu.hinge_loss

    def seen(similarity, mask, threshold):
        counted.append(mask[0].sum(dim=1).tolist())
        return original(similarity, mask, threshold)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atu, "hinge_loss", seen)
        assert next(stages(ctx)).loss()[0].item() == pytest.approx(1.0)
    assert counted == [[1, 8, 13]]


@pytest.mark.parametrize("stranger", [0.0, 1e-9])
def test_with_a_stranger_answers_count_where_the_prompt_names_nobody(introducing, stranger):
    """Cosine 1 at tau 0 at the last token of every prompt; the first names the target."""
    ctx, *_ = introducing(
        ("Ann Lee and", "We saw", "Nobody"), concept=0.0, answers=1.0, stranger=stranger
    )
    ctx.answers = torch.ones(3, 1)
    counted = []
    original = atu.hinge_loss

    def seen(similarity, mask, threshold):
        counted.append(mask[0].tolist())
        return original(similarity, mask, threshold)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atu, "hinge_loss", seen)
        assert next(stages(ctx)).loss()[0].item() == pytest.approx(1.0)
    assert counted == [[0 if stranger else 1, 1, 1]]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"thresholds": [0.9, 0.2]}, "the paper's"),
        (
            {
                "thresholds": [0.5], "concept": 0.0, "answers": 1.0, "stranger": 1.0,
                "visits": True,
            },
            "this project's Align-then-Unlearn: no hinge to the concept, the hinge at answers, "
            "hidden states as of a stranger (also in neighbours' texts)",
        ),
        (
            {
                "thresholds": [0.0, -0.6], "optimizer": "adamw",
                "retain": {"nll": 1.0, "states": 0.1, "layer": 1},
            },
            "this project's Align-then-Unlearn: a ladder that ends below zero, NLL, held states, "
            "AdamW",
        ),
        (
            {"quantiles": [0.5], "thresholds": [], "positions": "subject"},
            "this project's Align-then-Unlearn: thresholds from measured cosines, the subject's "
            "tokens alone",
        ),
    ],
)  # fmt: skip
def test_a_row_says_whose_it_is(settings, own, said):
    """The paper has a falling ladder, SGD and no retain term; all else is named."""
    assert METHOD.notes(settings(**own)) == [f"is {said}"]


def test_predicted_cosine_on_a_real_model(settings, context):
    """Cosines in [-1, 1] that do not depend on padding beside them: each layer's own predictor on
    that layer's states, in the order of the layers."""
    ctx = context(settings(thresholds=[0.0]), layers=(1, 2))
    batch = next(ctx.forget)
    found = predicted_cosine(ctx, batch)
    assert found.shape == (2, *batch.input_ids.shape)
    assert found.abs().max() <= 1
    for row, layer in enumerate((1, 2)):
        states = hidden_states(ctx.model, batch.input_ids, batch.attention_mask, layer)
        predicted = nn.functional.normalize(ctx.predictors[layer](states), dim=-1)
        torch.testing.assert_close(found[row], predicted @ ctx.concept[0])
    row = int(batch.attention_mask.sum(dim=1).argmin())
    tensors = (batch.input_ids, batch.attention_mask, batch.labels)
    alone = Batch(*(t[row : row + 1, :4] for t in tensors))
    torch.testing.assert_close(found[:, row : row + 1, :4], predicted_cosine(ctx, alone))


def test_unlearning_lowers_the_cosine_below_the_hook_layer_only(settings, context, tiny_lm):
    """Some steps on the stage's own loss and parameters: the mean cosine falls; the predictor and
    the layers from the hook on are untouched."""
    model = tiny_lm()
    parameters, _ = make_trainable(model, BelowHook("below_hook"), 2)
    ctx = context(settings(thresholds=[-1.0]), model=model, parameters=parameters)
    stage = next(stages(ctx))
    trained = {id(p) for p in stage.parameters}
    everything = [*ctx.model.parameters(), *ctx.predictors[2].parameters()]
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


def test_needs(settings):
    """The original model only where a stranger's states are the aim, or states are held."""
    assert (METHOD.needs_predictor, METHOD.start) == (True, "full")
    held = {"retain": {"states": 0.1, "layer": 1}}
    needs = [
        wants_reference(METHOD, settings(thresholds=[0.0], **own))
        for own in ({}, {"stranger": 1.0}, held)
    ]
    assert needs == [False, True, True]
