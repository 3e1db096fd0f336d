"""SatImp, Yang et al. 2025, arXiv 2505.11953: gradient ascent whose tokens count by saturation, how
much is left to forget, times importance, how much the token tells beyond its context.

Both are read from the token's probability p, as in the paper's soft variant: p^beta1 (1 - p)^beta2.
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
    """The exponents; open-unlearning: 5 and 1, with a weight of 10 on the retain NLL."""

    loss: Literal["satimp"]
    beta1: NonNegative
    """Of p: what is forgotten already counts less."""
    beta2: NonNegative
    """Of 1 - p: what follows from its context counts less."""


def satimp_loss(context: Context, batch: Batch) -> Tensor:
    """-(mean of p^beta1 (1 - p)^beta2 NLL) over the forget batch's scored tokens, in nats; no
    gradient goes through the weight.

    Tokens of probability 1/2 and 1/4, beta1 = beta2 = 1: -(ln 2 / 4 + 3/16 ln 4) / 2 = -.2166.
    """
    settings = context.settings
    logits = context.model(**batch.inputs).logits
    return reweighted_ascent(
        logits, batch.labels, lambda p: p**settings.beta1 * (1 - p) ** settings.beta2
    )


METHOD = Method(
    Settings,
    title="SatImp",
    does="climbs the loss, each token weighted by p^β₁ (1 − p)^β₂",
    source="2505.11953",
    forget_loss=satimp_loss,
    processes="all",
)
