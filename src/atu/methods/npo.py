"""Negative preference optimisation (NPO), Zhang et al. 2024, arXiv 2404.05868, equation 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from atu.methods.base import Context, Method, PlainSettings
from atu.training.batches import Batch
from atu.training.likelihood import sequence_nll
from atu.training.means import batch_mean
from atu.untrusted.bounds import Positive


@dataclass(frozen=True)
class Settings(PlainSettings):
    """NPO's inverse temperature; NPO tends to GA as it goes to 0."""

    loss: Literal["npo"]
    beta: Positive


def npo_from_nll(nll: Tensor, reference_nll: Tensor, beta: float) -> Tensor:
    """-(2/beta) mean over sequences of log sigmoid(beta (nll - reference_nll)).

    Both inputs are summed NLLs in nats, [batch]. At model = reference every sequence gives
    (2/beta) ln 2: 13.863 for beta 0.1. The mean is over sequences; the reference implementation of
    ATU takes one sigmoid of the batch mean instead (`reference_compat`).
    """
    return -(2 / beta) * batch_mean(F.logsigmoid(beta * (nll - reference_nll)))


def npo_loss(context: Context, batch: Batch) -> Tensor:
    """NPO of the forget batch against the frozen original model."""
    assert context.reference is not None
    nll, count = sequence_nll(context.model(**batch.inputs).logits, batch.labels)
    with torch.no_grad():
        logits = context.reference(**batch.inputs).logits
        reference, _ = sequence_nll(logits, batch.labels)
    if context.reference_compat:
        total = count.sum().clamp(min=1)
        nll, reference = nll.sum()[None] / total, reference.sum()[None] / total
    return npo_from_nll(nll, reference, context.settings.beta)


METHOD = Method(
    Settings,
    title="NPO",
    does="makes the forget answers less likely than in the original, less and less strongly",
    source="2404.05868",
    forget_loss=npo_loss,
    needs_reference=True,
    processes="all",
    # It takes a sigmoid of the batch mean, of which a rank knows only its part.
    compat_alone=True,
)
