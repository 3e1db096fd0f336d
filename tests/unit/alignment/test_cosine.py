"""Cosines of predicted embeddings, worked out by hand."""

import math

import pytest
import torch

from atu.alignment.cosine import alignment_loss, concept_cosine, cosine


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([3, 4], [4, 3], 24 / 25), ([3, 4], [-6, -8], -1.0), ([0, 0], [1, 0], 0.0)],
)
def test_cosine(first, second, expected):
    """(3, 4) and (4, 3): 24 / (5 x 5). Opposite: -1 whatever the lengths. A zero vector: 0."""
    value = cosine(torch.tensor(first).float(), torch.tensor(second).float())
    assert value.item() == pytest.approx(expected)


def test_a_zero_vector_has_the_references_gradient():
    """That of torch's `cosine_similarity`, which bounds it: 1 / EPS along the other."""
    ours, theirs = (torch.zeros(2, requires_grad=True) for _ in range(2))
    other = torch.tensor([3.0, 4.0])
    cosine(ours, other).backward()
    torch.nn.functional.cosine_similarity(theirs, other, dim=0).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert concept_cosine(torch.zeros(1, 1, 2), other[None]).item() == 0.0


def test_alignment_loss():
    """Cosines 1, 0 and a masked -1: (0 + 1) / 2 = .5."""
    predicted = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]])
    value = alignment_loss(predicted, target, torch.tensor([[True, True, False]]))
    assert value.item() == pytest.approx(0.5)


def test_concept_cosine_is_the_largest():
    """Concepts (0, 1) and (1, 1). (2, 0): max(0, .7071); (-1, 0): max(0, -.7071) = 0;
    (0, 5): max(1, .7071) = 1."""
    predicted = torch.tensor([[[2.0, 0.0], [-1.0, 0.0], [0.0, 5.0]]])
    value = concept_cosine(predicted, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    assert value.shape == (1, 3)
    assert value[0].tolist() == pytest.approx([math.sqrt(0.5), 0.0, 1.0], abs=1e-6)
