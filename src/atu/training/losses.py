"""Losses shared by several phases and methods; each method's own formula is in its file.

Labels follow the Hugging Face convention: they have the shape of `input_ids`, hold `IGNORE` where
a token is not scored, and are shifted here, once. (The reference implementation shifts them in the
data set and lets the model shift them again, so that its GA and NPO train the token after next.)

Every mean is over the whole batch, of which each of several processes has a share: a loss takes its
mean by `masked_mean` or `batch_mean` and by nothing else.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from atu.distributed import processes

IGNORE = -100


def sequence_nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood of each sequence, and its number of scored tokens.

    Args:
        logits: [batch, seq, vocab].
        labels: [batch, seq], `IGNORE` where not scored. Position t is predicted from t-1.

    Returns:
        NLL in nats [batch] and token counts [batch].

    With a uniform distribution over 4 tokens and 3 scored tokens the NLL is 3 ln 4 = 4.1589.
    """
    shifted = labels[:, 1:]
    scored = shifted != IGNORE
    # Of the scored tokens alone, which in questions with answers are few.
    each = F.cross_entropy(logits[:, :-1][scored], shifted[scored], reduction="none")
    nll = logits.new_zeros(scored.shape).masked_scatter(scored, each)
    return nll.sum(dim=1), scored.sum(dim=1)


def mean_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean NLL per scored token over the whole batch, in nats; a scalar."""
    nll, count = sequence_nll(logits, labels)
    return processes.mean(nll.sum(), count.sum())


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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is not 0; 0 when nothing is left. Same shapes; a scalar.

    mean([2, 4, 9] under [1, 1, 0]) = 3.
    """
    weights = mask.to(values.dtype)
    return processes.mean((values * weights).sum(), weights.sum())


def batch_mean(values: Tensor) -> Tensor:
    """Mean of one value per row of the batch, [batch]; a scalar."""
    if processes.count() == 1:
        return values.mean()
    return processes.mean(values.sum(), values.new_tensor(len(values)))


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine in [-1, 1] over the last dimension; a zero vector gives 0."""
    return (F.normalize(first, dim=-1) * F.normalize(second, dim=-1)).sum(dim=-1)


def alignment_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - cos(prediction, embedding of the next k tokens), over full windows (ATU, L_align).

    Args:
        predicted, target: [batch, seq, dim].
        mask: [batch, seq], 1 where the window of the next k encoder tokens is complete.

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
    similarity = F.normalize(predicted, dim=-1) @ F.normalize(concept, dim=-1).T
    return similarity.amax(dim=-1)


def activation_error(hidden: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Squared distance per entry, averaged over a text's unmasked tokens, then over texts; a
    scalar.

    Args:
        hidden: [batch, seq, size].
        target: broadcasts against `hidden`.
        mask: [batch, seq], 0 where a token does not count.

    States (1, 3) and (0, 0) of one text, and of another (2, 0) and a masked (9, 9), to the target
    (1, 1): (0 + 4) / 2 = 2 and (1 + 1) / 2 = 1 for the first, (1 + 1) / 2 = 1 for the second;
    ((2 + 1) / 2 + 1) / 2 = 1.25.
    """
    error = (hidden - target).square().mean(dim=-1)
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
