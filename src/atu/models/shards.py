"""A language model sharded over ranks by FSDP2 (`torch.distributed.fsdp.fully_shard`): each rank
holds 1/n of every parameter, gradient and optimizer state, and one whole layer at a time. Training
in bfloat16 without checkpointing keeps more than its share: autograd holds autocast's copies of
every layer's matrices for the backward pass.

FSDP2 is called directly and not through accelerate, whose `prepare` takes over the optimizer, the
data loader and mixed precision; here the step loop, the batch streams and `Autocast` own these, for
one process as for many.
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
    """The CPU for a model that will be sharded, since one GPU may be too small for the whole model;
    None for one process.
    """
    return torch.device("cpu") if processes.world_size() > 1 else None


def sharded_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model, in the same mode, whose parameters are sharded over all ranks; it is
    called like the model.

    Outside of a forward or backward pass parameters are shards (`DTensor`s). Tied ones stay tied.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = processes.device()
    assert device is not None
    mesh = init_device_mesh(device.type, (processes.world_size(),))
    copied = copy.deepcopy(model)
    guard = guard_of(copied)
    ignored: set[nn.Parameter] = set()
    if guard is not None:  # it is never trained, and has other types
        ignored = set(guard.to(device).parameters())
    for module in (*decoder_layers(copied), copied):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
    offer_early_exit(copied)
    return copied


def counterparts(
    parameters: list[nn.Parameter], model: nn.Module, other: nn.Module
) -> list[nn.Parameter]:
    """The parameters of `other` with the names of these parameters of `model`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    others = dict(other.named_parameters())
    return [others[names[id(parameter)]] for parameter in parameters]


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the whole model's state on the CPU of rank 0; other ranks get {}.

    (A GPU may be too small for a second model.)
    """
    if processes.world_size() == 1:
        return {name: t.detach().to("cpu", copy=True) for name, t in model.state_dict().items()}
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)  # type: ignore[return-value]
