"""Gradient ascent (GA): raise the loss of the forget texts. GradDiff is GA with an `nll` retain
term (Maini et al. 2024, TOFU, arXiv 2401.06121, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from atu.methods.base import Context, Method, PlainSettings
from atu.training.batches import Batch
from atu.training.likelihood import mean_nll


@dataclass(frozen=True)
class Settings(PlainSettings):
    """GA has no settings of its own."""

    loss: Literal["ga"]


def ga_loss(context: Context, batch: Batch) -> Tensor:
    """-(mean NLL per answer token) of the forget batch, in nats.

    Tokens with probabilities 1/2 and 1/8: NLL (ln 2 + ln 8) / 2 = 2 ln 2, so the loss is -1.3863.
    """
    logits = context.model(**batch.inputs).logits
    return -mean_nll(logits, batch.labels)


METHOD = Method(
    Settings,
    title="Gradient ascent",
    does="climbs the loss of the forget answers",
    source="2401.06121",
    forget_loss=ga_loss,
    processes="all",
)
