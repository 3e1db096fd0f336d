"""What is read from hidden states."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atu.errors import EvaluationError
from atu.metrics.internals import (
    head_projection,
    mean_concept_cosine,
    reciprocal_rank,
    unlearning_depth,
)
from atu.metrics.registry import registry

LAYERS = np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
NUMBER = st.floats(-5, 5).map(lambda x: round(x, 3))
MATRIX = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=NUMBER)


@st.composite
def predictions(draw):
    """Predicted embeddings and names, of one dimension."""
    dim = draw(st.integers(2, 4))
    rows = [
        draw(arrays(np.float64, (n, dim), elements=NUMBER)) for n in (draw(st.integers(1, 5)), 6)
    ]
    return rows[0], rows[1]


@pytest.mark.parametrize(
    "k,found",
    [(1, [1.0, 0.0, 1.0]), (2, [1.0, 1.0, 1.0]), (3, [1.0, 1.0, 1.0])],
)
def test_head_projection_by_hand(k, found):
    """Layers (3, 1, 0) and (0, 1, 2): token 1 is second in both, the others first in one."""
    assert [head_projection(LAYERS, token, k) for token in range(3)] == found


@pytest.mark.parametrize(
    ("logits", "k", "found"),
    [
        ([[2, 2, 1]], 1, [1 / 2, 1 / 2, 0]),
        ([[2, 2, 1]], 2, [1, 1, 0]),
        ([[3, 2, 2, 2]], 2, [1, 1 / 3, 1 / 3, 1 / 3]),
        ([[3, 2, 2, 2]], 3, [1, 2 / 3, 2 / 3, 2 / 3]),
        ([[2, 2, 1], [2, 2, 1]], 1, [3 / 4, 3 / 4, 0]),
        ([[2, 2, 1], [9, 2, 1]], 1, [1, 1 / 2, 0]),
        ([[0, 0, 0, 0]], 1, [1 / 4] * 4),
    ],
)
def test_a_tie_in_the_head_projection_is_its_chance(logits, k, found):
    """Tokens that are equally likely share the places left; whoever says the same of all tokens
    knows nothing."""
    scores = [head_projection(np.array(logits), token, k) for token in range(len(found))]
    assert scores == pytest.approx(found)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_head_projection_of_no_number_is_refused(bad):
    logits = np.array([[bad, 1.0, 0.0]])
    with pytest.raises(EvaluationError, match="not finite"):
        head_projection(logits, 0, 1)


@pytest.mark.parametrize("k", [0, 4])
def test_head_projection_refuses_a_k_beyond_the_vocabulary(k):
    with pytest.raises(ValueError, match=rf"k = {k} is not in 1\.\.3"):
        head_projection(LAYERS, 0, k)


@given(MATRIX, st.data())
def test_head_projection_grows_with_k_and_layers(logits, data):
    """From 0 to 1; at k = vocab every token is found; a larger budget finds no less. A layer's
    places are all given away."""
    token = data.draw(st.integers(0, logits.shape[1] - 1))
    found = [head_projection(logits, token, k) for k in range(1, logits.shape[1] + 1)]
    assert found[0] >= 0 and found == sorted(found) and found[-1] == 1.0
    for k, whole in enumerate(found, start=1):
        assert whole >= max(head_projection(layer[None], token, k) for layer in logits) - 1e-12
        first = [head_projection(logits[:1], t, k) for t in range(logits.shape[1])]
        assert sum(first) == pytest.approx(k)


@given(MATRIX)
def test_head_projection_finds_the_best_of_every_layer(logits):
    """Where it is alone."""
    for layer in logits:
        if (layer == layer.max()).sum() == 1:
            assert head_projection(logits, int(layer.argmax()), 1) == 1.0


@pytest.mark.parametrize(
    "predicted,expected",
    [
        ([[1, 0], [0, 1]], 0.5),  # (1 + 0) / 2
        ([[9, 0], [0.1, 0]], 1.0),  # lengths do not count
        ([[3, 4]], 0.6),
        ([[-2, 0], [1, 0], [0, 5]], 0.0),
        ([[0, 0], [1, 0]], 0.5),  # nothing predicted has cosine 0
    ],
)
def test_concept_cosine_by_hand(predicted, expected):
    """To the concept (2, 0)."""
    found = mean_concept_cosine(np.array(predicted, dtype=float), np.array([2.0, 0.0]))
    assert found == pytest.approx(expected)


@given(predictions(), st.floats(0.1, 10))
def test_concept_cosine_is_bounded_and_ignores_length_and_order(case, factor):
    predicted, names = case
    found = mean_concept_cosine(predicted, names[0])
    assert -1 - 1e-9 <= found <= 1 + 1e-9
    changed = mean_concept_cosine(factor * predicted[::-1], names[0] * factor)
    assert changed == pytest.approx(found, abs=1e-9)
    assert mean_concept_cosine(-predicted, names[0]) == pytest.approx(-found, abs=1e-9)


@pytest.mark.parametrize("gold,expected", [(0, 1.0), (1, 1 / 2), (2, 1 / 3), (3, 1 / 4)])
def test_reciprocal_rank_by_hand(gold, expected):
    """The mean of (0, 6), (6, -2) and (0, -1) is (2, 1); its cosines to (1, 0), (1, 2), (-1, 3) and
    (-1, 0) are .894, .8, .141 and -.894."""
    names = np.array([[1.0, 0], [1, 2], [-1, 3], [-1, 0]])
    assert reciprocal_rank(np.array([[0.0, 6], [6, -2], [0, -1]]), names, gold) == expected


def test_ties_come_first():
    """Both names have the same cosine, so neither is first: 1/2. A prediction of nothing ties with
    all: the last rank, not the first."""
    names = np.array([[1.0, 0], [0, 1], [-1, 0]])
    assert reciprocal_rank(np.array([[1.0, 1.0]]), names, 0) == 1 / 2
    assert reciprocal_rank(np.array([[1.0, 1.0]]), names, 1) == 1 / 2
    assert reciprocal_rank(np.zeros((2, 2)), names, 0) == 1 / 3


def test_chance_level():
    """Whatever is predicted, each of 52 names has another rank, so their mean is (1/1 + .. + 1/52)
    / 52 = .0873."""
    names = np.random.default_rng(0).normal(size=(52, 8))
    predicted = np.random.default_rng(1).normal(size=(5, 8))
    found = [reciprocal_rank(predicted, names, gold) for gold in range(52)]
    assert sorted(found) == pytest.approx([1 / rank for rank in range(52, 0, -1)])
    assert math.fsum(found) / 52 == pytest.approx(0.0873, abs=5e-5)


@given(predictions(), st.data())
def test_rank_counts_the_names_that_are_no_farther(case, data):
    """In (0, 1], one over a whole number; without a name that is nearer the rank can only fall."""
    predicted, names = case
    gold = data.draw(st.integers(0, 5))
    found = reciprocal_rank(predicted, names, gold)
    assert 0 < found <= 1 and 1 / found == pytest.approx(round(1 / found))
    fewer = reciprocal_rank(predicted, np.delete(names, (gold + 1) % 6, axis=0), gold - (gold == 5))
    assert fewer >= found


def test_ids():
    ids = [m.id for m in (head_projection, mean_concept_cosine, reciprocal_rank)]
    assert ids == ["head_projection@fixed-1", "concept_cosine@own-1", "reciprocal_rank@own-1"]
    assert set(ids) <= set(registry())


DROPS = st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=6)


def test_unlearning_depth_by_hand():
    """Layers 2 and 3 hold the answer, 1 and 3: of them .5 is reached, and all (4 is no more)."""
    assert unlearning_depth([0.01, 1.0, 3.0], [5.0, 0.5, 4.0], 0.05) == pytest.approx(3.5 / 4)
    assert unlearning_depth([1.0, 3.0], [-2.0, 0.0], 0.05) == 0.0
    assert unlearning_depth([0.05, -1.0], [1.0, 1.0], 0.05) is None


@given(DROPS, st.floats(0.01, 2))
def test_unlearning_depth_is_the_papers_weighted_mean(layers, threshold):
    """Of the layers above the threshold, the ratio drop / reference clipped to [0, 1], with the
    references as weights; 1 for the references themselves, 0 where nothing is lost."""
    reference, drops = (list(side) for side in zip(*layers, strict=True))
    held = [(r, d) for r, d in layers if r > threshold]
    found = unlearning_depth(reference, drops, threshold)
    if not held:
        assert found is None
        return
    weights = [r for r, _ in held]
    ratios = [min(max(d / r, 0.0), 1.0) for r, d in held]
    assert found == pytest.approx(np.average(ratios, weights=weights))
    assert unlearning_depth(reference, reference, threshold) == pytest.approx(1.0)
    assert unlearning_depth(reference, [0.0] * len(reference), threshold) == 0.0
