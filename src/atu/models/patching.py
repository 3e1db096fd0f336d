"""Hidden states read from a pass of one model and put into a pass of another (or of the same).

Indices are those of `hidden_states`: at index l below the number of layers, what decoder layer l
reads. The last index is what the final norm reads; transformers gives there what the norm returns,
which put back would be normed twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atu.models.llm import decoder_layers, final_norm, read_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def state_readers(model: PreTrainedModel) -> list[nn.Module]:
    """The module that reads the hidden states of each index: the layers, and the final norm."""
    return [*decoder_layers(model), final_norm(model)]


def states_at(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, indices: Sequence[int]
) -> dict[int, Tensor]:
    """The hidden states at these indices, in 1 .. number of layers; [batch, seq, hidden] each."""
    readers = state_readers(model)
    return read_states(model, input_ids, attention_mask, {i: readers[i] for i in indices})


@contextlib.contextmanager
def patched(
    model: PreTrainedModel, index: int, states: Tensor, chosen: Tensor
) -> Iterator[PreTrainedModel]:
    """The model with other hidden states at one index.

    Args:
        states: [batch, seq, hidden], or of one row for all.
        chosen: [batch, seq], or of one row; true where the states are replaced.
    """

    def put(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = args[0] if args else kwargs["hidden_states"]
        hidden = torch.where(chosen[..., None], states.to(own), own)
        if args:
            return (hidden, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": hidden}

    handle = state_readers(model)[index].register_forward_pre_hook(put, with_kwargs=True)
    try:
        yield model
    finally:
        handle.remove()
