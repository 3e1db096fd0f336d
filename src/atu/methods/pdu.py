"""Constrained entropic unlearning by a primal-dual method (PDU), Entesari et al. 2025, arXiv
2506.05314: flatten the logits on forget texts, subject to a bound on the retain loss.

    minimise E_f (max logit - mean logit)^2   subject to   retain loss <= bound

With a multiplier, the loss of a step is forget + multiplier (retain - bound); after it the
multiplier rises by `multiplier_rate` times what the retain loss exceeds the bound by, or falls, not
below 0. The authors advise a bound somewhat above the original model's retain loss, and a
multiplier of 50 or 100 in the beginning, since squared logits are large.

As in the authors' code (trainer/unlearn/pdu.py in locuslab/open-unlearning), and unlike in all
other methods here, a scored token counts at its own position, so that the prediction after an
answer's last token is flattened, and that of its first token is not. That code can also take a
step of the multiplier after every epoch; this one takes it after every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from atu.methods.base import Context, Method, PlainSettings, Stage, retain_loss
from atu.methods.shared.counting import counted_stretches
from atu.training.batches import IGNORE
from atu.training.means import masked_mean
from atu.untrusted.bounds import CountOrZero, NonNegative


@dataclass(frozen=True)
class Settings(PlainSettings):
    """The bound on the retain loss, and the multiplier that enforces it."""

    loss: Literal["pdu"]
    bound: NonNegative
    """Of the weighted sum of `retain`, in nats if it is its NLL."""
    multiplier: NonNegative
    """In the first step."""
    multiplier_rate: NonNegative
    """Its step; 0 leaves it as it is."""
    warmup: CountOrZero
    """Steps before the multiplier moves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.retain.weights():
            raise ValueError("PDU bounds the retain loss; give `retain` a weight")
        if self.wrapper != "none":
            raise ValueError(f"wrapper: {self.wrapper} knows no bound; use `none`")


def flattening_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(Largest - mean logit)^2, averaged over the positions of scored tokens; a scalar.

    Args:
        logits: [batch, seq, vocab].
        labels: [batch, seq], `IGNORE` where not scored.

    Logits (3, 0, 0) and, where it is not scored, (9, 0, 0): (3 - 1)^2 = 4.
    """
    margin = logits.amax(dim=-1) - logits.mean(dim=-1)
    return masked_mean(margin.square(), labels != IGNORE)


def step_loss(context: Context, multiplier: Tensor, moves: bool) -> tuple[Tensor, dict[str, float]]:
    """The loss of the next batches. With `moves` the multiplier then takes its step, which counts
    from the next loss on.
    """
    settings, batch = context.settings, next(context.forget)
    forget = flattening_loss(context.model(**batch.inputs).logits, batch.labels)
    retain, terms = retain_loss(context)
    excess = retain - settings.bound
    parts = {"forget": forget.item(), "multiplier": multiplier.item()} | terms
    loss = forget + parts["multiplier"] * excess
    if moves:
        multiplier.add_(settings.multiplier_rate * excess.detach()).clamp_(min=0)
    return loss, parts


def stages(context: Context) -> Iterator[Stage]:
    """`evaluations` equal stretches. The multiplier is among their parameters, without a gradient,
    so that checkpoints hold it.
    """
    settings = context.settings
    first = torch.tensor(settings.multiplier, device=context.device)
    multiplier = nn.Parameter(first, requires_grad=False)
    yield from counted_stretches(
        settings,
        [*context.parameters, multiplier],
        lambda number: step_loss(context, multiplier, moves=number >= settings.warmup),
    )


METHOD = Method(
    Settings,
    title="PDU",
    does="flattens the forget answers’ logits under a bound on the retain loss",
    source="2506.05314",
    stages=stages,
)
