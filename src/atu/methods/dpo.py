"""Direct preference optimisation (DPO) of a refusal over the forget answer: Rafailov et al. 2023,
arXiv 2305.18290, equation 7, as unlearning in TOFU (Maini et al. 2024, arXiv 2401.06121) and RWKU
(Jin et al. 2024, arXiv 2406.10890).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atu.methods.base import Context, Method, PlainSettings
from atu.methods.shared.refusals import refusal_batch
from atu.training.batches import Batch
from atu.training.likelihood import sequence_nll
from atu.training.means import batch_mean
from atu.untrusted.bounds import Positive


@dataclass(frozen=True)
class Settings(PlainSettings):
    """DPO's inverse temperature."""

    loss: Literal["dpo"]
    beta: Positive


def dpo_from_gains(preferred: Tensor, dispreferred: Tensor, beta: float) -> Tensor:
    """-(2/beta) mean over pairs of log sigmoid(beta (preferred - dispreferred)).

    Both inputs are gains in log-likelihood over the reference, reference NLL - NLL, summed over an
    answer's tokens, in nats, [batch]. The factor 2/beta is not in the DPO paper; TOFU and
    open-unlearning have it, and with it NPO is DPO without the preferred answer.

    At model = reference every pair gives (2/beta) ln 2: 13.863 for beta .1. A refusal that became
    three times as likely beside an unchanged answer, at beta 1: sigmoid 3/4, 2 ln(4/3) = .5754.
    """
    return -(2 / beta) * batch_mean(F.logsigmoid(beta * (preferred - dispreferred)))


def dpo_loss(context: Context, batch: Batch) -> Tensor:
    """DPO of the refusals over the answers of the forget batch."""
    assert context.reference is not None
    pair = [refusal_batch(context, batch), batch]
    with torch.no_grad():
        references = [answer_nll(context.reference, part) for part in pair]
    refusal, forget = (
        reference - answer_nll(context.model, part)
        for part, reference in zip(pair, references, strict=True)
    )
    return dpo_from_gains(refusal, forget, context.settings.beta)


def answer_nll(model: nn.Module, batch: Batch) -> Tensor:
    """Summed NLL of every answer of the batch, in nats, [batch]."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return sequence_nll(logits, batch.labels)[0]


METHOD = Method(
    Settings, forget_loss=dpo_loss, needs_reference=True, prompted=True, processes="all"
)
