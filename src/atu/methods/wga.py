"""Weighted gradient ascent (WGA), Wang et al. 2025, arXiv 2502.19301: gradient ascent whose tokens
count the less, the less likely they are already, so that it fades where it has succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from atu.methods.base import Context, Method, PlainSettings
from atu.methods.shared.reweighted import reweighted_ascent
from atu.training.batches import Batch
from atu.untrusted.bounds import NonNegative


@dataclass(frozen=True)
class Settings(PlainSettings):
    """How fast a token's weight falls with its probability."""

    loss: Literal["wga"]
    beta: NonNegative
    """The exponent, alpha in the paper; 0 is gradient ascent."""


def wga_loss(context: Context, batch: Batch) -> Tensor:
    """-(mean of p^beta NLL) over the forget batch's scored tokens, in nats; p is the token's
    probability, and no gradient goes through the weight.

    Tokens of probability 1/2 and 1/4: at beta 1 -(ln 2 / 2 + ln 4 / 4) / 2 = -.3466.
    """
    logits = context.model(**batch.inputs).logits
    return reweighted_ascent(logits, batch.labels, lambda p: p**context.settings.beta)


METHOD = Method(
    Settings,
    title="WGA",
    does="climbs the loss, each token weighted by its probability",
    source="2502.19301",
    forget_loss=wga_loss,
    processes="all",
)
