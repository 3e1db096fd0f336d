"""The ranks that share one job, processes with a GPU each: who this one is, and what it does with
the others.

Every rank runs the same phase on the same inputs and draws the same batches; of each batch it
computes the rows `rank::world_size`. Losses are means over the rows of all (`mean`), so that
gradients averaged over ranks are those of the whole batch. With one process, which is the rule,
every function here gives back what it is given, and torch.distributed is not imported.

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
"""Environment variable: the file (a `file://` address) by which ranks of one machine meet."""
PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others: for rank 0 to write a checkpoint, for instance. Where one
dies, whoever started them ends the others."""


def _joined() -> Any:
    """torch.distributed, if this process is in a process group; else None."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available():
        return None
    return distributed if distributed.is_initialized() else None


def world_size() -> int:
    """How many ranks share the job."""
    joined = _joined()
    return joined.get_world_size() if joined else 1


def rank() -> int:
    """The rank of this process, from 0."""
    joined = _joined()
    return joined.get_rank() if joined else 0


def is_rank_zero() -> bool:
    """Whether this is rank 0, which writes: folder, checkpoints and progress."""
    return rank() == 0


def backend() -> str | None:
    """The backend of the process group; None for one process alone."""
    joined = _joined()
    if joined is None:
        return None
    return "nccl" if "nccl" in joined.get_backend_config() else "gloo"


def device() -> torch.device | None:
    """Where this rank computes; None for one process alone, which has no place but that of its
    model.
    """
    import torch

    if _joined() is None:
        return None
    if backend() == "gloo":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def join(place: torch.device) -> None:
    """Join the process group that the environment names (RANK, WORLD_SIZE, LOCAL_RANK), as the
    launcher of this package or torchrun sets it.

    Args:
        place: what kind of device models are on; each rank takes the GPU of its local rank.
    """
    import torch
    from torch import distributed

    if place.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Numbers on the CPU (flags, gathered weights) go through gloo on a GPU machine, too.
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
        init_method=os.environ.get(STORE),  # None: MASTER_ADDR and MASTER_PORT, of torchrun
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=PATIENCE,
    )


def leave() -> None:
    """Leave the process group, when all went well. A rank that failed must not: under NCCL it would
    wait here for a collective that the others are in, and they for it.
    """
    joined = _joined()
    if joined is not None:
        joined.destroy_process_group()


def share(items: Any) -> Any:
    """The rows of a batch (a tensor or a sequence) that this rank computes, `rank::world_size`.
    Three rows and two ranks: 0 and 2, and 1.
    """
    return items[rank() :: world_size()]


def own_stream() -> tuple[str, ...]:
    """What this rank adds to the name of a random stream that must not be the others': dropout of
    other rows. Rank 0 adds nothing.
    """
    return () if is_rank_zero() else (f"process {rank()}",)


def mean(total: Tensor, number: Tensor) -> Tensor:
    """The mean over all ranks' rows, as this rank's part of it; a scalar.

    It is `world_size * total / (number of all)`, at least 1: its mean over the ranks is the mean
    over the batch, and so the averaged gradients are the batch's. Sums 6 of 2 and 3 of 1 in two
    ranks: 2 * 6 / 3 = 4 and 2 * 3 / 3 = 2, on average 3 = (6 + 3) / (2 + 1).

    Args:
        total: sum over this rank's rows, with its gradient.
        number: how many values that is.
    """
    joined = _joined()
    if joined is None:
        return total / number.clamp(min=1)
    everyone = number.detach().clone()
    joined.all_reduce(everyone)
    return total * world_size() / everyone.clamp(min=1)


def averages(values: Sequence[float]) -> list[float]:
    """The mean of each number over the ranks."""
    joined = _joined()
    if joined is None:
        return list(values)
    found = _on_cpu(values)
    joined.all_reduce(found)
    return (found / world_size()).tolist()


def total(number: int) -> int:
    """The sum of a count over the ranks."""
    return round(averages([number])[0] * world_size())


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Of each flag, whether it holds in one of the ranks."""
    joined = _joined()
    if joined is None:
        return flags
    found = _on_cpu(flags)
    joined.all_reduce(found, op=joined.ReduceOp.MAX)
    return tuple(value > 0 for value in found.tolist())


def _on_cpu(values: Sequence[float]) -> Tensor:
    import torch

    return torch.tensor(values, dtype=torch.float64)


def agreed(value: T) -> T:
    """What rank 0 has, for something that JSON holds: GPUs may differ in the last bits, and no two
    ranks may decide differently.
    """
    joined = _joined()
    if joined is None:
        return value
    import torch

    text = json.dumps(value).encode()
    length = torch.tensor([len(text)])
    joined.broadcast(length, src=0)
    content = torch.zeros(int(length), dtype=torch.uint8)
    if is_rank_zero():
        content[:] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    joined.broadcast(content, src=0)
    return json.loads(bytes(content.tolist()))


def wait() -> None:
    """Until all are here."""
    any_of(False)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """The mean of every gradient over the ranks, in place. Shards have it already: their
    backward pass averages.
    """
    joined = _joined()
    if joined is None:
        return
    import torch

    gradients = [p.grad for p in parameters if p.grad is not None and not is_shard(p)]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    joined.all_reduce(flat)
    for gradient, mean_of_all in zip(
        gradients, flat.split([g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_((mean_of_all / world_size()).view_as(gradient))


def split_rows(rows: Tensor) -> Tensor:
    """The rows [ceil(batch / world_size), ...] of [batch, ...] that this rank computes: those of
    `share`, and where they are fewer the first row again: every rank has equally many.
    """
    missing = -len(rows) % world_size()
    if missing:
        import torch

        rows = torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])])
    return rows[rank() :: world_size()]


def join_rows(rows: Tensor, number: int) -> Tensor:
    """The first `number` rows of the batch of which every rank computed its `split_rows`, in the
    batch's order, in every rank.
    """
    if _joined() is None:
        return rows
    import torch

    found = torch.stack(gathered(rows), dim=1)  # [share, world_size, ...]
    return found.flatten(0, 1)[:number]


def gathered(tensor: Tensor) -> list[Tensor]:
    """A tensor of every rank, in their order; all have the same shape."""
    joined = _joined()
    if joined is None:
        return [tensor]
    import torch

    found = [torch.empty_like(tensor) for _ in range(world_size())]
    joined.all_gather(found, tensor.contiguous())
    return found


def is_shard(tensor: Tensor) -> bool:
    """Whether every rank holds only a shard of it."""
    if _joined() is None:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def part_like(value: Tensor, like: Tensor) -> Tensor:
    """The shard of a whole tensor that belongs beside the shard `like`; the tensor as it is where
    `like` is no shard or of another shape, as an optimizer's counter is.
    """
    if not is_shard(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    # Every rank has the whole: nothing is sent.
    return distribute_tensor(value.to(like.device), mesh, placements, src_data_rank=None)
