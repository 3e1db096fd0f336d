"""Direct preference optimisation (DPO) of one answer over another: Rafailov et al. 2023, arXiv
2305.18290, equation 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atu.training.batches import Batch
from atu.training.likelihood import sequence_nll
from atu.training.means import batch_mean

if TYPE_CHECKING:
    from atu.methods.base import Context


def dpo_from_gains(preferred: Tensor, dispreferred: Tensor, beta: float) -> Tensor:
    """-(2/beta) mean over pairs of log sigmoid(beta (preferred - dispreferred)).

    Both inputs are gains in log-likelihood over the reference, reference NLL - NLL, summed over an
    answer's tokens, in nats, [batch]. The factor 2/beta is not in the DPO paper; TOFU and
    open-unlearning have it, and with it NPO is DPO without the preferred answer.

    At model = reference every pair gives (2/beta) ln 2: 13.863 for beta .1. A preferred answer that
    became three times as likely beside an unchanged one, at beta 1: sigmoid 3/4, 2 ln(4/3) = .5754.
    """
    return -(2 / beta) * batch_mean(F.logsigmoid(beta * (preferred - dispreferred)))


def preference_loss(context: Context, preferred: Batch, dispreferred: Batch, beta: float) -> Tensor:
    """DPO of the answers of one batch over those of another, row for row, against the frozen
    original model.
    """
    assert context.reference is not None
    pair = [preferred, dispreferred]
    with torch.no_grad():
        references = [answer_nlls(context.reference, part) for part in pair]
    first, second = (
        reference - answer_nlls(context.model, part)
        for part, reference in zip(pair, references, strict=True)
    )
    return dpo_from_gains(first, second, beta)


def answer_nlls(model: nn.Module, batch: Batch) -> Tensor:
    """Summed NLL of every answer of the batch, in nats, [batch]."""
    logits = model(**batch.inputs).logits
    return sequence_nll(logits, batch.labels)[0]
