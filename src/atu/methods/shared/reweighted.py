"""Gradient ascent whose tokens have weights, which depend on how likely they are."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from atu.distributed import processes
from atu.training.batches import IGNORE


def reweighted_ascent(logits: Tensor, labels: Tensor, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """-(mean over scored tokens of weight times NLL), in nats; a scalar, 0 where none is scored.

    Weights are constants for the gradient.

    Args:
        logits: [batch, seq, vocab].
        labels: [batch, seq], `IGNORE` where not scored. Position t is predicted from t-1.
        weigh: the weight of each token from its probability, [n_scored].

    Tokens of probability 1/2 and 1/4, each weighted by it: -(ln 2 / 2 + ln 4 / 4) / 2 = -ln 2 / 2.
    """
    following = labels[:, 1:]
    scored = following != IGNORE
    nll = F.cross_entropy(logits[:, :-1][scored], following[scored], reduction="none")
    weights = weigh((-nll.detach()).exp())
    return -processes.mean((weights * nll).sum(), scored.sum())
