"""Cross-entropy unlearning (CE-U), Yang 2025, arXiv 2503.01224: the model distils its own
predictions without the answer's token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from atu.methods.base import Context, Method, PlainSettings
from atu.training.batches import IGNORE, Batch, following
from atu.training.losses import distillation_loss
from atu.untrusted.bounds import CountOrZero


@dataclass(frozen=True)
class Settings(PlainSettings):
    """Which tokens of an answer are left as they are."""

    loss: Literal["ceu"]
    skip: CountOrZero
    """The first scored tokens of every text that do not count; 1 in the paper and in
    open-unlearning, so that an answer's beginning stays fluent."""


def without_first(labels: Tensor, skip: int) -> Tensor:
    """Labels in which the first `skip` scored tokens of every row are not scored, [batch, seq]."""
    rank = (labels != IGNORE).cumsum(dim=1)
    return labels.masked_fill(rank <= skip, IGNORE)


def suppressed(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits, with -inf at the token that follows, where that token is scored.

    Args:
        logits: [batch, seq, vocab].
        labels: [batch, seq], `IGNORE` where not scored. Position t predicts t+1.
    """
    after = following(labels)[..., None]
    index, scored = after.clamp(min=0), after != IGNORE
    own = logits.gather(2, index)
    return logits.scatter(2, index, own.masked_fill(scored, -torch.inf))


def ceu_loss(context: Context, batch: Batch) -> Tensor:
    """Cross-entropy to the model from its own distribution with the answer's token taken out, in
    nats, averaged over the scored tokens that count; 0 where there are none (open-unlearning: NaN).
    No gradient goes through the target.

    The token and two others with probabilities (1/2, 1/4, 1/4): targets (0, 1/2, 1/2), ln 4.
    """
    logits = context.model(**batch.inputs).logits
    labels = without_first(batch.labels, context.settings.skip)
    return distillation_loss(logits, suppressed(logits.detach(), labels), labels)


METHOD = Method(
    Settings,
    title="CEU",
    does="distils its own predictions without the answer’s token",
    source="2503.01224",
    forget_loss=ceu_loss,
    processes="all",
)
