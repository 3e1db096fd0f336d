"""Representation misdirection for unlearning (RMU), Li et al. 2024, WMDP, arXiv 2403.03218, section
4: hidden states of forget texts are pulled to a random vector, those of retain texts held in place.

    L = E_f [1/T sum_t ||h(t) - c u||^2] + alpha E_r [1/T sum_t ||h(t) - h_ref(t)||^2]

`variant: paper` is this formula: all T tokens of a text count, a prompt's too (the paper's corpora
have none), and every text counts the same. The official code (centerforaisafety/wmdp,
rmu/unlearn.py) differs from it: it takes one mean over the padded batch, so that padding counts and
long texts count more. As in that code, squares are averaged over the hidden size instead of summed,
which scales both terms alike.

`variant: open_unlearning` is what locuslab/open-unlearning (trainer/unlearn/rmu.py) computes: only
scored tokens count, and the sum of every text is divided by the number of tokens of every text in
turn, by a broadcast of [batch] over [batch, 1]. It is the mean of the texts' sums times the mean of
1 / T: in batches of texts of one length the formula above, else short texts make all others count
more. A text without scored tokens makes it NaN.

Settings of the paper, for Zephyr 7B: the states after decoder layer 7, which is `layer: 8` here
(hidden states are counted from the embeddings, as everywhere here); `train: {update: mlp_output,
layers: [5, 6, 7]}`, which is what the official code's parameter 6 of these layers is; c 6.5, alpha
1200 (the code's own defaults are 20 and 100). open-unlearning: layer 7, all parameters, c 2,
alpha 1. The vector is drawn once, for the one forget corpus, from the run's seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from atu.errors import ConfigError
from atu.methods.base import Context, Method, PlainSettings
from atu.models.llm import decoder_layers, hidden_states, parameters_below
from atu.seeding import generator
from atu.training.batches import IGNORE, Batch
from atu.training.losses import activation_error
from atu.untrusted.bounds import Count, NonNegative

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Settings(PlainSettings):
    """RMU's layer, target length and weight of its own retain part."""

    loss: Literal["rmu"]
    variant: Literal["paper", "open_unlearning"]
    """Whose mean over tokens and texts."""
    layer: Count
    """Index of the hidden states, in 1 .. number of layers - 1."""
    steering: NonNegative
    """Length of the vector that forget states are pulled to; c in the paper."""
    alpha: NonNegative
    """Weight of RMU's retain part."""

    @property
    def retains(self) -> bool:
        """Also for RMU's own part."""
        return self.alpha > 0 or super().retains


def control_vector(size: int, steering: float, seed: int) -> Tensor:
    """A vector of length `steering` in a random direction, [size].

    Entries are drawn uniformly from [0, 1) and then scaled, as in the paper: the direction is not
    uniform on the sphere, it leans towards (1, .., 1). The seed decides it.
    """
    drawn = torch.from_numpy(generator(seed, "unlearn", "rmu").random(size)).float()
    return steering * drawn / drawn.norm()


def states_error(hidden: Tensor, target: Tensor, batch: Batch, variant: str) -> Tensor:
    """Squared distance per entry over the tokens that count, as the variant averages it; a scalar.

    Args:
        hidden: [batch, seq, size].
        target: broadcasts against `hidden`.

    Distances 4 and 0 in one text's tokens, 1 in the other's only one, all scored: paper (4 / 2 + 1)
    / 2 = 1.5; open_unlearning (4 + 1) / 2 (1 / 2 + 1) / 2 = 1.875.
    """
    if variant == "paper":
        return activation_error(hidden, target, batch.attention_mask)
    error = (hidden - target).square().mean(dim=-1)
    scored = (batch.labels != IGNORE).to(error.dtype)
    return ((error * scored).sum(dim=1) / scored.sum(dim=1, keepdim=True)).mean()


def rmu_loss(context: Context, batch: Batch) -> Tensor:
    """RMU's forget part plus `alpha` times its retain part on the next retain batch."""
    assert context.reference is not None
    settings = context.settings
    hidden = _states(context.model, batch, settings.layer)
    target = control_vector(hidden.shape[-1], settings.steering, context.seed).to(hidden)
    loss = states_error(hidden, target, batch, settings.variant)
    if settings.alpha:
        retain_batch = next(context.retain)
        with torch.no_grad():
            original = _states(context.reference, retain_batch, settings.layer)
        states = _states(context.model, retain_batch, settings.layer)
        kept = states_error(states, original, retain_batch, settings.variant)
        loss = loss + settings.alpha * kept
    return loss


def _states(model: PreTrainedModel, batch: Batch, layer: int) -> Tensor:
    return hidden_states(model, batch.input_ids, batch.attention_mask, layer)


def check(context: Context) -> None:
    """The loss must reach a parameter that is updated.

    Raises:
        ConfigError: the model has no such layer, or nothing below it is updated.
    """
    layer, count = context.settings.layer, len(decoder_layers(context.model))
    if layer >= count:
        raise ConfigError("layer", layer, f"the model has hidden states 1..{count - 1}")
    below = {id(parameter) for parameter in parameters_below(context.model, layer)}
    if not any(id(parameter) in below for parameter in context.parameters):
        raise ConfigError("layer", layer, "`train` updates nothing below it")


METHOD = Method(
    Settings,
    title="RMU",
    does="moves hidden states in a random direction, and keeps those of retain texts",
    source="2403.03218",
    forget_loss=rmu_loss,
    check=check,
    needs_reference=True,
    depth=lambda settings, _hook: settings.layer,
    processes="all",
)
