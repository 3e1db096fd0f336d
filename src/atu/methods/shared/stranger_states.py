"""Hidden states as of a stranger: the losses that make the target one to every layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atu.methods.base import Context
from atu.methods.shared.strangers import Introduced
from atu.models.llm import decoder_layers, hidden_states_at
from atu.models.patching import patched, states_at
from atu.seeding import generator
from atu.training.batches import Batch
from atu.training.losses import activation_error


def stranger_error(
    context: Context, batch: Batch, hidden: Mapping[int, Tensor], introduced: Introduced
) -> Tensor:
    """Relative distance (`activation_error`) of the hidden states from those of the original model
    with strangers in the target's place, from the first name on, averaged over layers; a scalar.

    Args:
        hidden: the model's, at every layer that counts.
        introduced: the batch with strangers.
    """
    assert context.reference is not None
    with torch.no_grad():
        wanted = hidden_states_at(
            context.reference, introduced.input_ids, batch.attention_mask, list(hidden)
        )
    errors = [
        activation_error(states, wanted[layer], introduced.after, relative=True)
        for layer, states in hidden.items()
    ]
    return torch.stack(errors).mean()


def restored_error(context: Context, batch: Batch, introduced: Introduced) -> Tensor:
    """`stranger_error` behind the name, where the name's hidden states are the original's at one
    index, drawn for this batch from 1 to the last layer's input; averaged over all indices above.

    With its own states of the name a model need only forget in its first layers: whatever then
    stands there, the layers above know nothing about it. What they know of the original's states
    is left in them, and a fine-tune that teaches a few facts finds the way back to it. Put in
    again, at every index in turn, those states tell nothing: each layer has forgotten for itself.
    (To put states back is causal tracing's intervention, arXiv 2202.05262. Latent adversarial
    training, arXiv 2407.15549, searches for states that bring an answer back; these are known.)

    The names' own tokens are not compared: from the index on, what a layer adds there to the
    original's states need not undo them, if nothing behind reads it.

    Args:
        batch: of the forget stream, by whose batches drawn so far the index is drawn.
    """
    assert context.reference is not None
    model, reference, mask = context.model, context.reference, batch.attention_mask
    last = len(decoder_layers(model))
    rng = generator(context.seed, "restored", str(context.forget.drawn))
    index = int(rng.integers(1, last))
    above = range(index + 1, last + 1)
    with torch.no_grad():
        original = hidden_states_at(reference, batch.input_ids, mask, [index])[index]
        wanted = states_at(reference, introduced.input_ids, mask, above)
    with patched(model, index, original, introduced.named):
        states = states_at(model, batch.input_ids, mask, above)
    behind = introduced.after * ~introduced.named
    return torch.stack(
        [activation_error(states[i], wanted[i], behind, relative=True) for i in above]
    ).mean()
