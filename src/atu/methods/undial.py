"""UNDIAL: self-distillation from the original model with the forget tokens' logits lowered (Dong et
al. 2024, arXiv 2402.10052, section 3).

Every scored token is lowered; the paper's variant that picks out entities and nouns is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from atu.methods.base import Context, Method, PlainSettings
from atu.training.batches import IGNORE, Batch
from atu.training.losses import distillation_loss
from atu.untrusted.bounds import NonNegative


@dataclass(frozen=True)
class Settings(PlainSettings):
    """By how much the forget token's logit is lowered; open-unlearning: 10."""

    loss: Literal["undial"]
    beta: NonNegative


def lowered_logits(reference: Tensor, labels: Tensor, beta: float) -> Tensor:
    """The reference's logits, less `beta` at the token that follows, where that token is scored.

    Args:
        reference: [batch, seq, vocab].
        labels: [batch, seq], `IGNORE` where not scored. Position t predicts t+1.

    Logits (0, 0), the next token 0, beta ln 3: (-ln 3, 0), probabilities (1/4, 3/4).
    """
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORE)
    onehot = F.one_hot(following.clamp(min=0), reference.shape[-1])
    return reference - beta * (onehot * (following != IGNORE)[..., None])


def undial_loss(context: Context, batch: Batch) -> Tensor:
    """Cross-entropy from softmax(reference - beta onehot(y)) to the model, in nats, averaged over
    the forget batch's scored tokens. (open-unlearning averages over prompts and padding too.)

    Model and reference uniform over two tokens: ln 2 = .6931 for every beta, with the gradient 0 at
    beta 0 only.
    """
    assert context.reference is not None
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        reference = context.reference(**inputs).logits
        targets = lowered_logits(reference, batch.labels, context.settings.beta)
    return distillation_loss(context.model(**inputs).logits, targets, batch.labels)


METHOD = Method(Settings, forget_loss=undial_loss, needs_reference=True, processes="all")
