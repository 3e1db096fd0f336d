"""Direct preference optimisation (DPO) of a refusal over the forget answer, as unlearning in TOFU
(Maini et al. 2024, arXiv 2401.06121) and RWKU (Jin et al. 2024, arXiv 2406.10890).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from atu.methods.base import Context, Method, PlainSettings
from atu.methods.shared.preference import preference_loss
from atu.methods.shared.refusals import refusal_batch
from atu.training.batches import Batch
from atu.untrusted.bounds import Positive


@dataclass(frozen=True)
class Settings(PlainSettings):
    """DPO's inverse temperature."""

    loss: Literal["dpo"]
    beta: Positive


def dpo_loss(context: Context, batch: Batch) -> Tensor:
    """DPO of the refusals over the answers of the forget batch."""
    return preference_loss(context, refusal_batch(context, batch), batch, context.settings.beta)


METHOD = Method(
    Settings,
    title="DPO",
    does="prefers a refusal to the answer",
    source="2305.18290",
    forget_loss=dpo_loss,
    needs_reference=True,
    prompted=True,
    processes="all",
)
