"""UNDIAL: self-distillation from the original model with the forget tokens' logits lowered (Dong et
al. 2024, arXiv 2402.10052, section 3).

`variant: paper`: every scored token's logit is lowered by `beta` in the original's prediction of
it, and the cross-entropy to that is averaged over the scored tokens. What is lowered is the text's
own next token, likeliest or not. The official code (dong-river/LLM_unlearning, `DITrainer`) is
this for passages without prompts, cut to one length; its strengths are 3 and 10. The paper's
variant that picks out entities and nouns is left out.

`variant: open_unlearning` is what locuslab/open-unlearning (`compute_undial_loss`) computes: the
label -100 of a token that is not scored is taken for a token's number, counted from the end of the
vocabulary, so that token `vocabulary - 100` is lowered at every such position; and the mean is over
all positions, prompts and padding included. The two variants are equal where all tokens are scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from atu.errors import ConfigError
from atu.methods.base import Context, Method, PlainSettings
from atu.training.batches import IGNORE, Batch, following
from atu.training.losses import distillation_loss
from atu.untrusted.bounds import NonNegative


@dataclass(frozen=True)
class Settings(PlainSettings):
    """By how much the forget token's logit is lowered, and where."""

    loss: Literal["undial"]
    variant: Literal["paper", "open_unlearning"]
    beta: NonNegative
    """The paper: 3 and 10; open-unlearning: 10."""


def lowered_logits(reference: Tensor, labels: Tensor, beta: float) -> Tensor:
    """The reference's logits, less `beta` at the token that follows, where that token is scored.

    Args:
        reference: [batch, seq, vocab].
        labels: [batch, seq], `IGNORE` where not scored. Position t predicts t+1.

    Logits (0, 0), the next token 0, beta ln 3: (-ln 3, 0), probabilities (1/4, 3/4).
    """
    after = following(labels)[..., None]
    index, scored = after.clamp(min=0), after != IGNORE
    own = reference.gather(2, index)
    return reference.scatter(2, index, own - beta * scored.to(own))


def as_token_numbers(labels: Tensor, vocabulary: int) -> Tensor:
    """Labels as open-unlearning reads them: -100 as token `vocabulary - 100`, which is scored.

    Raises:
        ConfigError: there is no such token.
    """
    found = torch.where(labels == IGNORE, vocabulary + IGNORE, labels)
    if (found[:, 1:] < 0).any():
        raise ConfigError(
            "variant", "open_unlearning",
            f"lowers token {vocabulary} - 100 where none is scored; use `paper`",
        )  # fmt: skip
    return found


def undial_loss(context: Context, batch: Batch) -> Tensor:
    """Cross-entropy from softmax(reference - beta onehot(y)) to the model, in nats, averaged over
    the forget batch's scored tokens, or as in open-unlearning.

    Model and reference uniform over two tokens: ln 2 = .6931 for every beta, with the gradient 0 at
    beta 0 only.
    """
    assert context.reference is not None
    labels = batch.labels
    with torch.no_grad():
        reference = context.reference(**batch.inputs).logits
        if context.settings.variant == "open_unlearning":
            labels = as_token_numbers(labels, reference.shape[-1])
        targets = lowered_logits(reference, labels, context.settings.beta)
    return distillation_loss(context.model(**batch.inputs).logits, targets, labels)


METHOD = Method(
    Settings,
    title="UNDIAL",
    does="distils the original with the answer’s logit lowered",
    source="2402.10052",
    forget_loss=undial_loss,
    needs_reference=True,
    processes="all",
)
