"""A language model split over ranks by FSDP2 (`torch.distributed.fsdp.fully_shard`): each holds
1/n of every parameter, gradient and optimizer state, and the whole of one layer at a time. What
training in bfloat16 without checkpointing keeps beside that is whole: for the backward pass
autograd holds autocast's copies of the matrices of every layer.

FSDP2 is called directly and not through accelerate, whose `prepare` wants to own the optimizer, the
data loader and the mixed precision; here these are the step loop's, the batch streams' and
`Autocast`'s, the same for one process and for many.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from atu.distributed import processes
from atu.models.guards.base import guard_of
from atu.models.llm import decoder_layers, offer_early_exit

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def loading_place() -> torch.device | None:
    """Where a model is loaded that is to be split over several ranks: on the CPU, since a GPU may
    have no room for the whole; None for one process.
    """
    return torch.device("cpu") if processes.world_size() > 1 else None


def sharded_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model, in the same mode, whose parameters are split over all ranks; it is used
    as the model is.

    Parameters are shards (`DTensor`s) outside of a forward or backward pass. Tied ones stay tied.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    place = processes.device()
    assert place is not None
    mesh = init_device_mesh(place.type, (processes.world_size(),))
    made = copy.deepcopy(model)
    guard = guard_of(made)
    apart: set[nn.Parameter] = set()
    if guard is not None:  # it is never trained, and of other types
        apart = set(guard.to(place).parameters())
    for module in (*decoder_layers(made), made):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=apart)
    offer_early_exit(made)
    return made


def counterparts(
    parameters: list[nn.Parameter], model: nn.Module, other: nn.Module
) -> list[nn.Parameter]:
    """The parameters of `other` that have the names of these parameters of `model`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = dict(other.named_parameters())
    return [found[names[id(parameter)]] for parameter in parameters]


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state on the CPU, in rank 0; the others get {}.

    (A GPU has no room for a second model.)
    """
    if processes.world_size() == 1:
        return {name: t.detach().to("cpu", copy=True) for name, t in model.state_dict().items()}
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)  # type: ignore[return-value]
