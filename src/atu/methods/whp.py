"""Who's Harry Potter (Eldan and Russinovich 2023, arXiv 2310.02238, section 2): the model learns
what it would say if it had not read the forget corpus.

Generic predictions come from a copy that is trained further on the forget corpus: the logits that
this raises are lowered. Left out is the paper's second source, the replacement of anchor
terms, such as names, by generic counterparts. The target is the whole distribution over tokens, at
scored tokens only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from atu.methods.base import Context, Method, PlainSettings, Stage
from atu.methods.shared.reinforced import reinforce, reinforced_copy
from atu.training.batches import Batch
from atu.training.losses import distillation_loss
from atu.untrusted.bounds import Count, NonNegative, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Settings(PlainSettings):
    """How the copy is trained, and how far the logits it raised are lowered."""

    loss: Literal["whp"]
    alpha: NonNegative
    reinforce_steps: Count
    reinforce_learning_rate: Positive


def generic_logits(base: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """`base - alpha max(0, reinforced - base)`, elementwise; [..., vocab] (section 2.1).

    Base (0, 0), reinforced (ln 3, -1), alpha 1: (-ln 3, 0), probabilities (1/4, 3/4): a logit that
    was not raised stays. Logits are compared as they are, not normalised.
    """
    return base - alpha * (reinforced - base).clamp(min=0)


def whp_loss(context: Context, batch: Batch, reinforced: PreTrainedModel) -> Tensor:
    """Cross-entropy from the generic predictions to the model, in nats, averaged over the forget
    batch's scored tokens.
    """
    assert context.reference is not None
    with torch.no_grad():
        base, raised = context.reference(**batch.inputs).logits, reinforced(**batch.inputs).logits
        targets = generic_logits(base, raised, context.settings.alpha)
    return distillation_loss(context.model(**batch.inputs).logits, targets, batch.labels)


def stages(context: Context) -> Iterator[Stage]:
    """The copy's training, then distillation in `evaluations` equal stretches."""
    settings = context.settings
    copied, parameters = reinforced_copy(context)
    yield reinforce(
        context, copied, parameters, settings.reinforce_steps, settings.reinforce_learning_rate
    )
    copied.eval().requires_grad_(False)
    yield from Method(Settings, forget_loss=partial(whp_loss, reinforced=copied)).plan(context)


METHOD = Method(
    Settings,
    title="Who’s Harry Potter",
    does="distils what a reinforced copy does not raise",
    source="2310.02238",
    stages=stages,
    needs_reference=True,
    copies=1,
    processes="all",
)
