"""How near predicted embeddings are to those of a text's windows, and to the concept."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from atu.training.means import masked_mean

EPS = 1e-8
"""That of torch's `cosine_similarity`, which the reference calls: it bounds the gradient at 0."""


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine in [-1, 1] over the last dimension; a zero vector gives 0."""
    return (_unit(first) * _unit(second)).sum(dim=-1)


def _unit(vectors: Tensor) -> Tensor:
    """The vectors at length 1; shorter ones than `EPS` are divided by that."""
    return F.normalize(vectors, dim=-1, eps=EPS)


def alignment_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - cos(prediction, embedding of the next k tokens), mean over windows (ATU, L_align).

    Args:
        predicted, target: [batch, seq, dim].
        mask: [batch, seq], 1 where there is a window.

    Two positions with cosines 1 and 0 and a third, masked one give (0 + 1) / 2 = 0.5. The
    reference minimises -cos, which differs by a constant.
    """
    return masked_mean(1 - cosine(predicted, target), mask)


def concept_cosine(predicted: Tensor, concept: Tensor) -> Tensor:
    """Largest cosine of each prediction to any concept vector: [batch, seq].

    Args:
        predicted: [batch, seq, dim].
        concept: [n_concepts, dim].
    """
    similarity = _unit(predicted) @ _unit(concept).T
    return similarity.amax(dim=-1)
