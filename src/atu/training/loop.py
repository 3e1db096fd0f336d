"""The one step loop: accumulate, clip, step, schedule, trace. It knows no method and no phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from atu.distributed import processes
from atu.errors import TrainingError
from atu.progress import Progress
from atu.training.keeper import Keeper, Trace
from atu.training.muon import Muon

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LossFunction = Callable[[], tuple[Tensor, dict[str, float]]]


def constant(_progress: float) -> float:
    """No schedule."""
    return 1.0


FLOOR = 0.02
"""The factor that `warmup_linear` falls to."""


def warmup_linear(warmup: float) -> Callable[[float], float]:
    """A learning-rate factor: rises over the first `warmup` share of steps, falls to `FLOOR`."""

    def factor(progress: float) -> float:
        up = min(1.0, progress / warmup) if warmup else 1.0
        return up * (FLOOR + (1 - FLOOR) * (1 - progress))

    return factor


def make_optimizers(
    kind: str,
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
    weight_decay: float = 0.0,
    matrix_learning_rate: float | None = None,
    vectors: Sequence[nn.Parameter] = (),
) -> list[torch.optim.Optimizer]:
    """`adamw`, `sgd`, or `muon` (Jordan et al. 2024) for matrices beside AdamW for the rest.

    With `muon`, `parameters` are the hidden weight matrices, stepped at `matrix_learning_rate`, and
    `vectors` (embeddings, norms, biases) go to AdamW at `learning_rate`.
    """
    if kind == "sgd":
        return [torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay)]
    if kind == "adamw":
        return [torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)]
    if kind != "muon":
        raise ValueError(f"unknown optimizer {kind!r}")
    assert matrix_learning_rate is not None
    muon = Muon(parameters, lr=matrix_learning_rate, weight_decay=weight_decay)
    rest = torch.optim.AdamW(
        vectors, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay
    )
    return [muon, rest]


def split_matrices(model: PreTrainedModel) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The hidden weight matrices, and all other parameters (embeddings, output head, norms)."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = model.get_output_embeddings()
    outer = tables if head is None else [*tables, head]
    excluded = {id(parameter) for module in outer for parameter in module.parameters()}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in excluded]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in model.parameters() if id(p) not in chosen]


def run_steps(
    label: str,
    steps: int,
    loss: LossFunction,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    clip: float,
    trace: Trace,
    keeper: Keeper | None = None,
    part: str = "model",
    seek: Callable[[int], None] | None = None,
    schedule: Callable[[float], float] = constant,
    accumulate: int = 1,
    fullest: LossFunction | None = None,
) -> None:
    """Minimise `loss`, called once per micro-batch, for `steps` optimizer steps.

    Args:
        label: names the work in progress lines, traces and errors.
        loss: returns a scalar and the numbers to trace. With several ranks each returns its part,
            whose mean over the ranks is that of the whole batch (`processes.mean`).
        clip: largest gradient norm over all parameters.
        keeper: saves checkpoints and knows how many steps an earlier process took; None for short
            work.
        part: names what is trained; one part may be trained in several stretches.
        seek: called with the number of steps already taken, to move what `loss` reads there.
        schedule: factor on every learning rate, as a function of the share of steps done.
        accumulate: micro-batches whose mean gradient makes one step.
        fullest: the loss of the batch that needs the most memory. It runs once after the first
            step, when the optimizers have their state, so that running out of memory fails at once.

    Raises:
        TrainingError: loss or gradient norm is not finite, or the loss depends on nothing that is
            trained; names label and step.
        StoppedError: the process was asked to stop.
    """
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    first = keeper.enter(label, part, parameters, optimizers, steps) if keeper else 0
    if first and seek is not None:
        seek(first)
    progress = Progress(label, steps, done=first)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    for step in range(first, steps):
        factor = schedule((step + 1) / steps)
        _set_rates(optimizers, base, factor)
        value, parts = _accumulated(label, loss, accumulate)
        processes.average_gradients(parameters)
        norm = _clipped(parameters, clip)
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise TrainingError(
                f"{label}: loss {value} and gradient norm {norm} at step {step + 1}; "
                "lower the learning rate"
            )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        trace.add(
            stage=label,
            part=part,
            step=step + 1,
            loss=value,
            gradient_norm=norm,
            rate_factor=factor,
            **parts,
        )
        progress.update({"loss": value})
        if keeper is not None:
            keeper.stepped(step + 1)
        if fullest is not None and step == first:
            _rehearse(fullest, optimizers)
    _set_rates(optimizers, base, 1.0)
    progress.close()


def _rehearse(loss: LossFunction, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """A forward and a backward pass that change nothing, not even torch's generators."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        loss()[0].backward()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)


def _clipped(parameters: Sequence[nn.Parameter], clip: float) -> float:
    """The gradients' norm over all parameters, before they are scaled to at most `clip`."""
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    return float(norm.full_tensor() if processes.is_shard(norm) else norm)  # type: ignore[attr-defined]


def _set_rates(
    optimizers: Iterable[torch.optim.Optimizer], base: list[list[float]], factor: float
) -> None:
    for optimizer, rates in zip(optimizers, base, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor


def _accumulated(label: str, loss: LossFunction, accumulate: int) -> tuple[float, dict[str, float]]:
    """Mean loss over micro-batches and ranks; the mean gradient stays in the parameters."""
    total = 0.0
    sums: dict[str, float] = {}
    for _ in range(accumulate):
        value, parts = loss()
        if not value.requires_grad:
            raise TrainingError(
                f"{label}: the loss depends on nothing that is trained; see `train`"
            )
        (value / accumulate).backward()
        total += value.item() / accumulate
        for name, part in parts.items():
            sums[name] = sums.get(name, 0.0) + part / accumulate
    total, *means = processes.averages([total, *sums.values()])
    return total, dict(zip(sums, means, strict=True))
