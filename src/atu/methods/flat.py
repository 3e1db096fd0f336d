"""FLAT: forget data only, by an f-divergence between a template answer and the forget answer (Wang
et al. 2024, arXiv 2410.11143, section 3).

The variational form of the divergence weighs learning the template against losing the answer; the
template is one of our refusals. The pairs of functions are those of the paper's code
(UCSC-REAL/FLAT) and of f-GAN (Nowozin et al. 2016, arXiv 1606.00709).

The paper's expectation is over pairs, and so is ours: g* and f* of each answer's probability, then
the mean. Its code takes the mean over the batch first, of token probabilities that are averaged
over the padded length, prompt and padding as 0, and g* and f* of that one number: there, how long
the prompts are and what else is in a batch changes what an answer is worth. In a batch of one
answer without prompt and padding both are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from atu.methods.base import Context, Method, PlainSettings
from atu.methods.shared.refusals import refusal_batch
from atu.training.batches import IGNORE, Batch
from atu.training.means import batch_mean

Divergence = Literal["kl", "tv", "js", "pearson"]


@dataclass(frozen=True)
class Settings(PlainSettings):
    """Which f-divergence: Kullback-Leibler, total variation, Jensen-Shannon or Pearson."""

    loss: Literal["flat"]
    divergence: Divergence


def variational(value: Tensor, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """g*(v) and f*(g*(v)), elementwise.

    | divergence | g*(v) | f*(u) |
    |---|---|---|
    | kl | v | exp(u - 1) |
    | tv | tanh(v) / 2 | u |
    | js | ln 2 - ln(1 + exp(-v)) | -ln(2 - exp(u)) |
    | pearson | v | u^2 / 4 + u |

    At v = 0: kl 0 and 1/e, all others 0 and 0.
    """
    if divergence == "kl":
        return value, (value - 1).exp()
    if divergence == "tv":
        half = value.tanh() / 2
        return half, half
    if divergence == "js":
        return math.log(2) + F.logsigmoid(value), F.softplus(value) - math.log(2)
    return value, value.square() / 4 + value


def flat_from_probabilities(template: Tensor, forget: Tensor, divergence: Divergence) -> Tensor:
    """Mean over pairs of -g*(template) + f*(g*(forget)); a scalar.

    Both inputs are mean token probabilities of an answer, [batch], in [0, 1]. Template .5, forget
    1: kl -.5 + exp(0) = .5; tv (tanh 1 - tanh .5) / 2 = .1497; pearson -.5 + 1.25 = .75.
    """
    return batch_mean(variational(forget, divergence)[1] - variational(template, divergence)[0])


def mean_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean probability of the scored tokens of each sequence, [batch].

    Args:
        logits: [batch, seq, vocab].
        labels: [batch, seq], `IGNORE` where not scored. Position t is predicted from t-1.

    Tokens of probability 1/2 and 1/4: 3/8. (The paper's code divides by the padded length.)
    """
    following = labels[:, 1:]
    scored = following != IGNORE
    chosen = F.softmax(logits[:, :-1], dim=-1).gather(2, following.clamp(min=0)[..., None])[..., 0]
    return (chosen * scored).sum(dim=1) / scored.sum(dim=1).clamp(min=1)


def flat_loss(context: Context, batch: Batch) -> Tensor:
    """FLAT of the refusals over the answers of the forget batch."""
    template = _probability(context.model, refusal_batch(context, batch))
    forget = _probability(context.model, batch)
    return flat_from_probabilities(template, forget, context.settings.divergence)


def _probability(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(**batch.inputs).logits
    return mean_probability(logits, batch.labels)


METHOD = Method(
    Settings,
    title="FLAT",
    does="maximises an f-divergence between refusal and answer",
    source="2410.11143",
    forget_loss=flat_loss,
    prompted=True,
    processes="all",
)
