import dataclasses

import numpy as np
import pytest
import torch

from atu.attacks import fresh_predictor
from atu.attacks.fresh_predictor import fresh, predict
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.seeding import child_seed

NAMES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])


def test_every_layer_and_role_is_scored(make_context, grouped):
    """Ada has 10 held-out questions, Cyd 8; each gets a cosine and a rank at both layers."""
    items = fresh_predictor.run(make_context("fresh_predictor")).items
    counts = grouped(items, "role", "condition", "metric")
    assert counts == {
        (role, f"layer {layer}: {what}", metric): count
        for role, count in (("target", 10), ("other", 8))
        for layer in (1, 2)
        for what, metric in (
            ("cosine", "concept_cosine@own-1"), ("name rank", "reciprocal_rank@own-1"),
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    ("predicted", "usual", "cosine", "rank"),
    [
        ([[5.0, 0.0]], [[4.0, 0.0]], 1.0, 1.0),
        ([[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5]], 0.5, 1 / 3),
        ([[-2.0, 0.1]], [[0.0, 0.0]], -0.9988, 1 / 3),
        ([[2.0, 1.0]], [[2.0, 0.0]], 0.8944, 1 / 3),
    ],
)
def test_scores_by_hand(
    monkeypatch, make_context, alignment, make_probe, predicted, usual, cosine, rank
):
    """Names (1, 0), (0, 1), (-1, 0), the target's first; less their mean (1, -1/3), (0, 2/3),
    (-1, -1/3). What is predicted beyond the usual: (1, 0), nearest to the first; nothing, which all
    three tie for; (-2, .1), nearest to the last, then to the second; (0, 1), nearest to the second,
    the others tie. The cosine is of the whole prediction: (-2, .1) has -2 / sqrt 4.01."""
    given = [np.array(predicted), np.array(usual)]
    monkeypatch.setattr(fresh_predictor, "predict", lambda *_: given)
    context = make_context(
        "fresh_predictor",
        {"layers": [2]},
        probes=[make_probe("Ada", "pet"), make_probe("Cyd", "pet")],
        alignment=dataclasses.replace(alignment, embeddings=NAMES),
    )
    first, second = fresh_predictor.run(context).items[:2]
    assert first["condition"] == "layer 2: cosine"
    assert first["score"] == pytest.approx(cosine, abs=1e-4)
    assert (second["condition"], second["score"]) == ("layer 2: name rank", pytest.approx(rank))


def test_without_others_there_is_nothing_to_compare_with(make_context, make_probe):
    context = make_context("fresh_predictor", {"layers": [2]}, probes=[make_probe("Ada", "pet")])
    with pytest.raises(EvaluationError, match="questions about other people"):
        fresh_predictor.run(context)


def test_predictors_are_not_the_methods_own(monkeypatch, make_context):
    """One random start per layer, none of them the one of `align` at the same seed; the attack's
    seed decides."""
    starts = []
    original = fresh_predictor.build_predictor
    monkeypatch.setattr(
        fresh_predictor,
        "build_predictor",
        lambda config, seed: starts.append(seed) or original(config, seed),
    )
    for seed in (0, 0, 1):
        fresh_predictor.run(make_context("fresh_predictor", seed=seed))
    assert starts[:2] == starts[2:4]
    assert len(set(starts)) == 4
    assert not set(starts) & {child_seed(seed, "align", "init") for seed in (0, 1)}


def test_the_model_is_neither_trained_nor_left_frozen(make_context, weights):
    context = make_context("fresh_predictor")
    context.model.train()
    before = weights(context.model)
    fresh_predictor.run(context)
    after = context.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert context.model.training
    assert all(p.requires_grad and p.grad is None for p in context.model.parameters())


@pytest.mark.parametrize("layer", [0, 3])
def test_a_layer_out_of_range_is_refused(make_context, layer):
    """The model has 3 layers; the index after the last one would be after the final norm."""
    context = make_context("fresh_predictor", {"layers": [layer]})
    with pytest.raises(EvaluationError, match=rf"layer {layer} is not in 1\.\.2"):
        fresh_predictor.run(context)


def test_it_needs_an_alignment(make_context):
    with pytest.raises(EvaluationError, match="needs the embed and align folders"):
        fresh_predictor.run(make_context("fresh_predictor", alignment=None))


def test_it_learns_what_its_layer_holds(make_context):
    """Every text has one embedding, which its last words tell: worse than the best constant after
    one step, better after 60. The 500 steps of `align` do not count."""
    skills = {}
    for steps in (1, 60):
        predictor, scores = fresh(make_context("fresh_predictor", {"steps": steps}), 2)
        assert not predictor.training
        skills[steps] = scores["skill"]
    assert skills[1] < 0 < 0.2 < skills[60]
    result = fresh_predictor.run(make_context("fresh_predictor"))
    assert {f"layer {n}.{name}" for n in (1, 2) for name in scores} == set(result.metrics)


def test_the_predictor_fits_the_model_it_reads(make_context, alignment):
    """Its input is as wide as this model's hidden states, whatever the method's own read."""
    config = dataclasses.replace(alignment.config, input_dim=5)
    own = dataclasses.replace(alignment, config=config)
    predictor, _ = fresh(make_context("fresh_predictor", alignment=own), 1)
    assert dataclasses.replace(predictor.config, input_dim=5) == config
    assert predictor.config.input_dim == 16


def test_predictions_are_one_per_token_whatever_the_batch(make_context):
    """Padding is neither read nor returned, and the layer makes a difference."""
    context = make_context("fresh_predictor")
    probes = context.questions("target", "other")
    predictor, _ = fresh(context, 2)
    found = predict(context, predictor, probes, 2)
    context.batch_size = BatchSize(1)
    alone = predict(context, predictor, probes, 2)
    for probe, one, other in zip(probes, found, alone, strict=True):
        assert one.shape == (len(context.tokenizer(probe["prompt"])["input_ids"]), 4)
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert not np.allclose(found[0], predict(context, predictor, probes, 1)[0], atol=1e-3)
