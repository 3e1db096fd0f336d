"""SimNPO: NPO without a reference, on length-normalised likelihoods (Fan et al. 2024, arXiv
2410.07163, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from atu.methods.base import Context, Method, PlainSettings
from atu.training.batches import Batch
from atu.training.likelihood import sequence_nll
from atu.training.means import batch_mean
from atu.untrusted.bounds import NonNegative, Positive


@dataclass(frozen=True)
class Settings(PlainSettings):
    """SimNPO's inverse temperature and its margin, which says how unlikely an answer must be before
    it counts as forgotten.
    """

    loss: Literal["simnpo"]
    beta: Positive
    gamma: NonNegative


def simnpo_from_nll(nll: Tensor, count: Tensor, beta: float, gamma: float) -> Tensor:
    """-(2/beta) mean over sequences of log sigmoid(beta nll / count - gamma).

    `nll` are summed NLLs in nats and `count` the scored tokens, [batch] each. An answer of 2 tokens
    of probability 1/3 each has nll / count = ln 3; at beta 1 the sigmoid is 3/4 without margin,
    2 ln(4/3) = .5754, and 1/2 with the margin ln 3, 2 ln 2 = 1.3863.

    The margin stands outside beta, as in the paper; its code (OPTML-Group/Unlearn-Simple) and
    open-unlearning subtract it from nll / count, so that our gamma is beta times theirs.
    """
    return -(2 / beta) * batch_mean(F.logsigmoid(beta * nll / count.clamp(min=1) - gamma))


def simnpo_loss(context: Context, batch: Batch) -> Tensor:
    """SimNPO of the forget batch."""
    logits = context.model(**batch.inputs).logits
    nll, count = sequence_nll(logits, batch.labels)
    return simnpo_from_nll(nll, count, context.settings.beta, context.settings.gamma)


METHOD = Method(
    Settings,
    title="SimNPO",
    does="is NPO by the mean per token, without the original",
    source="2410.07163",
    forget_loss=simnpo_loss,
    processes="all",
)
