"""Refusal training (RT): a refusal becomes the answer to every forget prompt. RWKU's rejection
tuning (Jin et al. 2024, arXiv 2406.10890); with an `nll` retain term TOFU's preference optimisation
(Maini et al. 2024, arXiv 2401.06121, section 3), which others call IDK.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from atu.methods.base import Context, Method, PlainSettings
from atu.methods.shared.refusals import refusal_batch
from atu.training.batches import Batch
from atu.training.likelihood import mean_nll


@dataclass(frozen=True)
class Settings(PlainSettings):
    """RT has no settings of its own."""

    loss: Literal["rt"]


def rt_loss(context: Context, batch: Batch) -> Tensor:
    """Mean NLL per refusal token, in nats, of the refusals to the forget batch's prompts; the
    forget answers are not read.

    Refusal tokens of probability 1/2 and 1/8: (ln 2 + ln 8) / 2 = 2 ln 2 = 1.3863.
    """
    refusal = refusal_batch(context, batch)
    logits = context.model(**refusal.inputs).logits
    return mean_nll(logits, refusal.labels)


METHOD = Method(
    Settings,
    title="Rejection tuning",
    does="trains on refusals",
    source="2406.10890",
    forget_loss=rt_loss,
    prompted=True,
    processes="all",
)
