"""Representation misdirection for unlearning (RMU), Li et al. 2024, WMDP, arXiv 2403.03218, section
4: hidden states of forget texts are pulled to a random vector, those of retain texts held in place.

    L = E_f [1/T sum_t ||h(t) - c u||^2] + alpha E_r [1/T sum_t ||h(t) - h_ref(t)||^2]

Where this differs from the official code (centerforaisafety/wmdp, rmu/unlearn.py):
- `layer` counts hidden states as everywhere here: `layer` 8 is the output of decoder layer 7, which
  is the official `layer_id` 7;
- padding does not count, and every text counts the same, as in the paper: the official code takes
  one mean over the padded batch (open-unlearning masks padding, and the prompt with it);
- one random vector for the one forget corpus, from the run's seed;
- what is updated is the common setting `train`: the paper updates the MLP output projections of the
  layer and of the two below it.

As in the official code, and unlike the paper's formula, squares are averaged over the hidden size
instead of summed. That scales both terms alike.
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
from atu.training.batches import Batch
from atu.training.losses import activation_error
from atu.untrusted.bounds import Count, NonNegative

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Settings(PlainSettings):
    """RMU's layer, target length and weight of its own retain part."""

    loss: Literal["rmu"]
    layer: Count
    """Index of the hidden states, in 1 .. number of layers - 1."""
    steering: NonNegative
    """Length of the vector that forget states are pulled to; c in the paper."""
    alpha: NonNegative
    """Weight of RMU's retain part."""


def control_vector(size: int, steering: float, seed: int) -> Tensor:
    """A vector of length `steering` in a random direction, [size].

    Entries are drawn uniformly from [0, 1) and then scaled, as in the paper: the direction is not
    uniform on the sphere, it leans towards (1, .., 1). The seed decides it.
    """
    drawn = torch.from_numpy(generator(seed, "unlearn", "rmu").random(size)).float()
    return steering * drawn / drawn.norm()


def rmu_loss(context: Context, batch: Batch) -> Tensor:
    """RMU's forget part plus `alpha` times its retain part on the next retain batch."""
    assert context.reference is not None
    settings = context.settings
    hidden = _states(context.model, batch, settings.layer)
    target = control_vector(hidden.shape[-1], settings.steering, context.seed).to(hidden)
    loss = activation_error(hidden, target, batch.attention_mask)
    if settings.alpha:
        retain_batch = next(context.retain)
        with torch.no_grad():
            original = _states(context.reference, retain_batch, settings.layer)
        states = _states(context.model, retain_batch, settings.layer)
        loss = loss + settings.alpha * activation_error(
            states, original, retain_batch.attention_mask
        )
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
    forget_loss=rmu_loss,
    check=check,
    needs_reference=True,
    depth=lambda settings, _hook: settings.layer,
    processes="all",
)
