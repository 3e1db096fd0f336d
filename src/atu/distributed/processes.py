"""The ranks of one job, processes with a GPU each, and their collective operations.

Every rank runs the same phase on the same inputs and draws the same batches; of each batch it
computes the rows `rank::world_size`. Losses are means over the rows of all ranks (`mean`), so that
gradients averaged over ranks are those of the whole batch. With a single process, the usual case,
every function returns its input, and torch.distributed is not imported.

All ranks must call these functions in the same order, since each waits for the others.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")
STORE = "ATU_STORE"
"""Environment variable: the `file://` address at which the ranks of one machine rendezvous."""
PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others, for instance for rank 0 to write a checkpoint. If one dies,
the launcher ends the others."""


def _distributed() -> Any:
    """torch.distributed, if this process is in a process group; else None."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available():
        return None
    return distributed if distributed.is_initialized() else None


def world_size() -> int:
    """How many ranks share the job."""
    distributed = _distributed()
    return distributed.get_world_size() if distributed else 1


def rank() -> int:
    """The rank of this process, from 0."""
    distributed = _distributed()
    return distributed.get_rank() if distributed else 0


def is_rank_zero() -> bool:
    """Whether this is rank 0, which writes the folder, checkpoints and progress."""
    return rank() == 0


def backend() -> str | None:
    """The backend of the process group; None for a single process."""
    distributed = _distributed()
    if distributed is None:
        return None
    return "nccl" if "nccl" in distributed.get_backend_config() else "gloo"


def device() -> torch.device | None:
    """The device of this rank; None for a single process, which uses its model's device."""
    import torch

    if _distributed() is None:
        return None
    if backend() == "gloo":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def join(place: torch.device) -> None:
    """Join the process group of the environment (RANK, WORLD_SIZE, LOCAL_RANK), as this package's
    launcher or torchrun sets it.

    Args:
        place: the kind of device for models; each rank takes the GPU of its local rank.
    """
    import torch
    from torch import distributed

    if place.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Tensors on the CPU (flags, gathered weights) go through gloo on a GPU machine, too.
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
        init_method=os.environ.get(STORE),  # None: MASTER_ADDR and MASTER_PORT, of torchrun
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=PATIENCE,
    )


def leave() -> None:
    """Leave the process group after success. A rank that failed must not: under NCCL it would wait
    here for the collective in which the others wait for it.
    """
    distributed = _distributed()
    if distributed is not None:
        distributed.destroy_process_group()


def share(items: Any) -> Any:
    """The rows of a batch (a tensor or a sequence) that this rank computes:
    `items[rank::world_size]`. Three rows and two ranks: 0 and 2, and 1.
    """
    return items[rank() :: world_size()]


def rank_stream() -> tuple[str, ...]:
    """The suffix of this rank for the name of a random stream that differs by rank, such as
    dropout. Rank 0 has none.
    """
    return () if is_rank_zero() else (f"process {rank()}",)


def mean(total: Tensor, number: Tensor) -> Tensor:
    """The part of the mean over all ranks' rows that this rank contributes; a scalar.

    It is `world_size * total / (number over all ranks, at least 1)`: the average over ranks is the
    mean over the batch, so averaged gradients are the batch's. Sums 6 of 2 and 3 of 1 in two ranks:
    2 * 6 / 3 = 4 and 2 * 3 / 3 = 2, on average 3 = (6 + 3) / (2 + 1).

    Args:
        total: sum over this rank's rows, with its gradient.
        number: how many values were summed.
    """
    distributed = _distributed()
    if distributed is None:
        return total / number.clamp(min=1)
    number_of_all = number.detach().clone()
    distributed.all_reduce(number_of_all)
    return total * world_size() / number_of_all.clamp(min=1)


def averages(values: Sequence[float]) -> list[float]:
    """The mean of each number over the ranks."""
    distributed = _distributed()
    if distributed is None:
        return list(values)
    sums = _on_cpu(values)
    distributed.all_reduce(sums)
    return (sums / world_size()).tolist()


def total(number: int) -> int:
    """The sum of a count over the ranks."""
    return round(averages([number])[0] * world_size())


def any_of(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set on any rank."""
    distributed = _distributed()
    if distributed is None:
        return flags
    raised = _on_cpu(flags)
    distributed.all_reduce(raised, op=distributed.ReduceOp.MAX)
    return tuple(value > 0 for value in raised.tolist())


def _on_cpu(values: Sequence[float]) -> Tensor:
    import torch

    return torch.tensor(values, dtype=torch.float64)


def agreed(value: T) -> T:
    """Rank 0's value, which JSON must be able to hold. GPUs may differ in the last bits, but all
    ranks must decide alike.
    """
    distributed = _distributed()
    if distributed is None:
        return value
    import torch

    text = json.dumps(value).encode()
    length = torch.tensor([len(text)])
    distributed.broadcast(length, src=0)
    content = torch.zeros(int(length), dtype=torch.uint8)
    if is_rank_zero():
        content[:] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    distributed.broadcast(content, src=0)
    return json.loads(bytes(content.tolist()))


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average every gradient over the ranks, in place. Shards are averaged already, by their
    backward pass.
    """
    distributed = _distributed()
    if distributed is None:
        return
    import torch

    gradients = [p.grad for p in parameters if p.grad is not None and not is_shard(p)]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, mean_of_all in zip(
        gradients, flat.split([g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_((mean_of_all / world_size()).view_as(gradient))


def split_rows(rows: Tensor) -> Tensor:
    """The rows [ceil(batch / world_size), ...] of [batch, ...] that this rank computes: those of
    `share`, filled up with the first row so that every rank has equally many.
    """
    missing = -len(rows) % world_size()
    if missing:
        import torch

        rows = torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])])
    return rows[rank() :: world_size()]


def join_rows(rows: Tensor, number: int) -> Tensor:
    """The first `number` rows, in batch order and on every rank, of the batch of which each rank
    computed its `split_rows`.
    """
    if _distributed() is None:
        return rows
    import torch

    stacked = torch.stack(gathered(rows), dim=1)  # [share, world_size, ...]
    return stacked.flatten(0, 1)[:number]


def gathered(tensor: Tensor) -> list[Tensor]:
    """The tensors of all ranks, in rank order; all have the same shape."""
    distributed = _distributed()
    if distributed is None:
        return [tensor]
    import torch

    tensors = [torch.empty_like(tensor) for _ in range(world_size())]
    distributed.all_gather(tensors, tensor.contiguous())
    return tensors


def is_shard(tensor: Tensor) -> bool:
    """Whether each rank holds only a shard of the tensor."""
    if _distributed() is None:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def part_like(value: Tensor, like: Tensor) -> Tensor:
    """The shard of a whole tensor that corresponds to the shard `like`; the whole tensor if `like`
    is no shard or has another shape, as for an optimizer's counter.
    """
    if not is_shard(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    # Every rank has the whole: nothing is sent.
    return distribute_tensor(value.to(like.device), mesh, placements, src_data_rank=None)
