"""Losses that several methods share; a method's formula is in its file. The losses of earlier
phases are elsewhere (`likelihood`, `alignment/cosine.py`), so that an edit here retrains no model
and no predictor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from atu.training.batches import IGNORE
from atu.training.means import batch_mean, masked_mean


def kl_to_reference(logits: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """KL(reference || model) per token, averaged over unmasked positions, in nats; a scalar.

    Zero when both agree. Computed on log-probabilities: MUSE's code applies `kl_div` to raw logits.

    Args:
        logits, reference: [batch, seq, vocab].
        mask: [batch, seq], 0 at padding.
    """
    log_p = F.log_softmax(reference, dim=-1)
    log_q = F.log_softmax(logits, dim=-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return masked_mean(divergence, mask)


def activation_error(
    hidden: Tensor, target: Tensor, mask: Tensor, *, relative: bool = False
) -> Tensor:
    """Squared distance per entry, averaged over a text's unmasked tokens, then over texts; a
    scalar.

    Args:
        hidden: [batch, seq, size].
        target: broadcasts against `hidden`.
        mask: [batch, seq], 0 where a token does not count.
        relative: divide every token's distance by the mean square of its target, so that a state
            that has become 0 counts 1, whatever its size. By token, not by layer: where one token's
            state is 1e4 times as large as the others' (massive activations, arXiv 2402.17762), a
            mean square over all tokens is that token's, and so is the distance.

    States (1, 3) and (0, 0) of one text, and of another (2, 0) and a masked (9, 9), to the target
    (1, 1): (0 + 4) / 2 = 2 and (1 + 1) / 2 = 1 for the first, (1 + 1) / 2 = 1 for the second;
    ((2 + 1) / 2 + 1) / 2 = 1.25. To the target (2, 2), relative: (1 + 1) / 2 / 4 = .25 and 4 / 4 =
    1 for the first, (0 + 4) / 2 / 4 = .5 for the second; ((.25 + 1) / 2 + .5) / 2 = .5625.
    """
    error = (hidden - target).square().mean(dim=-1)
    if relative:
        size = target.square().mean(dim=-1)
        error = error / size.clamp(min=torch.finfo(size.dtype).eps)
    weights = mask.to(error.dtype)
    return batch_mean((error * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1))


def distillation_loss(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy from softmax(targets) to the model, in nats, averaged over scored tokens; a
    scalar.

    It is KL(softmax(targets) || model) plus the targets' entropy, which does not depend on the
    model: the gradient is the KL's, and 0 where the two agree.

    Args:
        logits, targets: [batch, seq, vocab].
        labels: [batch, seq], `IGNORE` where not scored. Position t is predicted from t-1.

    Targets (1/4, 3/4) and a model of (1/2, 1/2): ln 2 = .6931.
    """
    log_q = F.log_softmax(logits[:, :-1], dim=-1)
    entropy = -(F.softmax(targets[:, :-1], dim=-1) * log_q).sum(dim=-1)
    return masked_mean(entropy, labels[:, 1:] != IGNORE)
