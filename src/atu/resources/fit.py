"""Refuses jobs that cannot fit in memory, and proposes changes where memory ran out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atu import attacks, methods
from atu.distributed import processes
from atu.errors import AtuError, ConfigError, ResourceError, resource_errors
from atu.models.pinned import is_pinned, pinned_folder
from atu.models.trainable import Lora
from atu.resources.bound import Parts, PlannedJob, held, model_config, read_config
from atu.resources.machine import free_bytes, size
from atu.results.artifacts import Artifact

if TYPE_CHECKING:
    from atu.config.params import Params

SWITCH = "ATU_IGNORE_MEMORY"
"""Environment variable that lets a job start even if its bound exceeds the free memory. It is no
parameter of an experiment, since no result depends on it; the jobs of a workflow inherit it."""
LORA = Lora("lora", rank=8, alpha=16)
"""The proposed adapter, of a rank that Hu et al. 2021 try (arXiv 2106.09685, table 6)."""
GPUS = (2, 4, 8)
"""The proposed numbers of GPUs in one machine."""
MORE = "give the job more (mem_mb or a larger GPU in the profile), or take a smaller model"


@contextmanager
def fitting(
    phase: str,
    params: Params,
    *,
    model: Artifact | None = None,
    name: str = "",
    settings: Any = None,
) -> Iterator[None]:
    """Refuse a job whose bound exceeds the free memory, before it loads anything; if memory
    runs out later, the error names the settings that would need less.

    Args:
        model: the folder that holds the job's model; None for `pretrain`, which makes it.
        name: the model, method or attack of `phase`, where it has one.
        settings: of that method or attack.

    Raises:
        ResourceError: it does not fit.
    """
    job = PlannedJob(phase, params, {}, name, settings)
    with suppress(AtuError):  # the job itself reports what is wrong with the folders
        job = replace(job, config=_config(params, model, name))
    if job.config:
        start(job)
    with resource_errors(lambda: relief(job)):
        yield


def _config(params: Params, model: Artifact | None, name: str) -> dict[str, Any]:
    """`transformers` values of the job's model; {} for a job that only pins it."""
    if model is None:
        return model_config(params, name) if trained_here(params, name) else {}
    if is_pinned(model):
        return read_config(pinned_folder(model))
    return read_config(model.file("model/config.json").parent)


def trained_here(params: Params, name: str) -> bool:
    """Whether `pretrain` trains this model instead of only pinning it."""
    return getattr(params.pretrain.models[name], "finetune", True)


def start(job: PlannedJob) -> None:
    """Print the job's bound.

    Raises:
        ResourceError: it exceeds the free memory, and the switch is off.
    """
    count, place = processes.world_size(), job.params.compute.place
    free = free_bytes(place)
    if free is not None and place.type != "cuda":
        free //= count  # the ranks share the machine's memory
    text = require_fit(job, free, count)
    if processes.is_rank_zero():
        print(f"memory: {text}", file=sys.stderr, flush=True)


def require_fit(job: PlannedJob, free: int | None, count: int = 1) -> str:
    """The bound of each of `count` ranks, in words.

    Raises:
        ResourceError: it exceeds the free memory, and the switch is off; names the first change of
            settings that would fit.
    """
    parts = held(job, count)
    text = described(parts) + ("" if free is None else f"; {size(free)} free")
    if free is None or sum(parts.values()) <= free:
        return text
    if os.environ.get(SWITCH, "") not in ("", "0"):
        return f"{text}; started all the same ({SWITCH})"
    smaller = ((line, sum(other.values())) for line, other in changes(job))
    fitting = (f"with `{line}` {size(least)}" for line, least in smaller if least <= free)
    raise ResourceError(
        f"{job.key}: needs {text}; {next(fitting, MORE)}. {SWITCH}=1 starts it all the same"
    )


def described(parts: Parts) -> str:
    """The parts in words, the largest first."""
    if not parts:
        return "unknown for this architecture"
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    named = ", ".join(f"{name} {size(least)}" for name, least in ordered)
    return f"at least {size(sum(parts.values()))} ({named})"


def changes(job: PlannedJob) -> Iterator[tuple[str, Parts]]:
    """Lines of the parameter file or the profile, and the job's bound with each."""
    compute = job.params.compute
    for number in _shares(job):
        yield f"gpu: {number}", held(job, number)
    for line, settings in _adapted(job):
        yield line, held(replace(job, settings=settings))
    if not compute.bfloat16:
        params = job.params.model_copy(update={"compute": replace(compute, precision="bfloat16")})
        yield "compute.precision: bfloat16", held(replace(job, params=params))


def relief(job: PlannedJob) -> list[str]:
    """Lines that reduce the job's memory, the part beyond its bound included."""
    lines = list(_smaller_batch(job))
    if job.trains and not job.params.compute.checkpointing:
        lines.append("compute.checkpointing: true")
    return [*lines, *(line for line, _ in _adapted(job)), *(f"gpu: {n}" for n in _shares(job)[:1])]


def _smaller_batch(job: PlannedJob) -> Iterator[str]:
    """Half of the first batch size in the job's settings or its section."""
    aligns = job.phase == "attack" and attacks.get(job.settings.attack).needs_alignment
    places = [(job.settings, job.key), (getattr(job.params, job.phase), job.phase)]
    for owner, key in [(job.params.align, "align")] if aligns else places:
        for name in ("batch_size", "batch_tokens"):
            if getattr(owner, name, 1) > 1:
                yield f"{key}.{name}: {getattr(owner, name) // 2}"
                return


def _adapted(job: PlannedJob) -> Iterator[tuple[str, Any]]:
    """The settings with LoRA, if the method supports it and does not use it."""
    if not isinstance(getattr(job.settings, "train", LORA), Lora):
        with suppress(ValueError):
            settings = replace(job.settings, train=LORA)
            line = f"{job.key}.train: {{update: lora, rank: {LORA.rank}, alpha: {LORA.alpha}}}"
            yield line, settings


def _shares(job: PlannedJob) -> list[int]:
    """Numbers of GPUs that could share a method's job that runs on one; none of a search that
    fine-tunes its models, in one process.
    """
    if job.phase == "search" and job.params.search.relearn:
        return []
    shared = job.phase in ("unlearn", "search") and job.params.compute.place.type == "cuda"
    if not shared or processes.world_size() > 1:
        return []
    method, compat = methods.get(job.settings.loss), job.params.unlearn.compat(job.settings)
    numbers = []
    with suppress(ConfigError):
        for number in GPUS:
            if method.require_processes(job.key, job.settings, compat, number) == number:
                numbers.append(number)
    return numbers
