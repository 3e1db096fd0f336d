"""Unlearning from logit difference (ULD), Ji et al. 2024, arXiv 2406.08607: a small assistant is
trained to remember the forget texts and to know nothing of the retain texts, and its logits are
subtracted from the model's at inference. The weights do not change.

The assistant starts as the model's first layers with its embeddings, norm and head, as in the
paper. The logits are z - alpha a; as in the published code, where the model's probability of a
token is below a share `top` of the largest, the token keeps its logit.

Where this differs:
- All of the assistant's weights are trained, its head among them; the paper adds LoRA to the layers
  and shares the head. At this size a copy is cheap, and it leaves the model's weights alone.
- The assistant's logits are centred before they are subtracted. A uniform assistant has equal
  logits, not zero ones; with the filter, it would otherwise shift the tokens above the filter
  against those below.
- The filter is the ratio of probabilities alone; the published code moreover spares no token of
  the likeliest `top` x vocabulary, which makes the same number mean two things.
- No paraphrases of the forget texts and no perturbed answers are made as further data: the forget
  corpus has paraphrases already. The uniform term covers the real tokens of the retain texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from atu.errors import ConfigError
from atu.methods.base import Context, Method, OptimizerSettings, Stage, done
from atu.models.guards.logit_difference import LogitDifference
from atu.models.llm import decoder_layers
from atu.training.likelihood import mean_nll
from atu.training.means import masked_mean
from atu.untrusted.bounds import Count, Fraction, NonNegative


@dataclass(frozen=True)
class Settings(OptimizerSettings):
    """The assistant and how it is subtracted; the optimizer trains the assistant."""

    loss: Literal["uld"]
    layers: Count
    """Decoder layers of the assistant."""
    alpha: NonNegative
    """Factor on the assistant's logits."""
    top: Fraction
    """Share of the largest probability below which a token keeps its logit; 0 subtracts all."""
    uniform_weight: NonNegative
    """Weight of the uniform term on retain texts."""


def uniform_divergence(logits: Tensor, mask: Tensor) -> Tensor:
    """KL(uniform || softmax), mean over unmasked positions, in nats.

    p = (3/4, 1/4): -(ln 3/4 + ln 1/4) / 2 - ln 2 = 0.1438.

    Args:
        logits: [batch, seq, vocab].
        mask: [batch, seq].
    """
    mean = logits.log_softmax(dim=-1).mean(dim=-1)
    return masked_mean(-mean - math.log(logits.shape[-1]), mask)


def assistant_loss(context: Context, guard: LogitDifference) -> tuple[Tensor, dict[str, float]]:
    """NLL of the next forget batch plus the weighted uniform term of the next retain batch."""
    forget, retain = next(context.forget), next(context.retain)
    remember = mean_nll(guard.assistant(**forget.inputs).logits, forget.labels)
    logits = guard.assistant(**retain.inputs).logits
    uniform = uniform_divergence(logits, retain.attention_mask)
    parts = {"forget": remember.item(), "retain": uniform.item()}
    return remember + context.settings.uniform_weight * uniform, parts


def check(context: Context) -> None:
    """The assistant cannot copy more layers than the model has.

    Raises:
        ConfigError: it would.
    """
    most = len(decoder_layers(context.model))
    if context.settings.layers > most:
        raise ConfigError("layers", context.settings.layers, f"the model has {most} to copy")


def stages(context: Context) -> Iterator[Stage]:
    """Train the assistant and attach the guard."""
    settings = context.settings
    guard = LogitDifference.of(context.model, settings.layers, settings.alpha, settings.top)
    yield Stage(
        name="assistant",
        steps=settings.steps,
        loss=lambda: assistant_loss(context, guard),
        parameters=list(guard.assistant.parameters()),
        learning_rate=settings.learning_rate,
        part="assistant",
        evaluate=False,
    )
    guard.attach(context.model)
    yield done("difference")


METHOD = Method(
    Settings,
    title="ULD",
    does="subtracts the logits of an assistant that knows the target alone",
    source="2406.08607",
    stages=stages,
    check=check,
    assistant=lambda settings: settings.layers,
    keeps_weights=True,
)
