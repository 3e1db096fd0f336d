"""What every job does first: checked parameters, determinism, and the ranks that share it."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

from atu.distributed import launch
from atu.errors import ConfigError

CHECKPOINTED = ("pretrain", "align", "search", "unlearn")
"""Phases that train long enough to be asked to stop, and to go on later."""

KEPT_MEMORY = 256 * 2**20
"""Bytes. Blocks of a quarter of it and more go back at once: a large model's memory is its own."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def start(params: Path, phase: str, threads: int) -> Any:
    """The checked parameters, with threads, determinism and offline mode set up for a phase."""
    from atu.config.load import load_params
    from atu.config.params import MODEL_PHASES
    from atu.training.keeper import Interval, Stop

    loaded = load_params(params)
    if phase in CHECKPOINTED:
        Interval.from_environment()
        Stop.listen()
    quiet_libraries()
    keep_freed_memory()
    import torch

    torch.set_num_threads(threads)
    if phase in MODEL_PHASES:
        settle_machine(loaded.compute)
    return loaded


def go_online(offline: bool) -> None:
    """Let a command that a person typed download, unless with `offline` or where nothing may."""
    os.environ["HF_HUB_OFFLINE"] = "1" if offline else os.environ.get("HF_HUB_OFFLINE", "0")
    quiet_libraries()


def work_beside(out: Path, work: Path | None) -> Path:
    """The work folder of a command: what was named, else `<out>.work`."""
    return (work or out.absolute().with_name(f"{out.absolute().name}.work")).absolute()


def results_of(results: Path | None, experiment: str) -> Path:
    """The folder of results that was named, else the experiment's."""
    return results or Path("results") / experiment


def settle_machine(compute: Any) -> None:
    """Make sure that this machine has what is asked for, and let it compute the same every time.

    Raises:
        ConfigError: it has not.
    """
    compute.require()
    if compute.place.type == "cuda":
        import torch

        # On a CPU it changes nothing that is used here, and importing what it needs takes a
        # second. Some kernels have no deterministic form: they say so and run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def takes_part(loaded: Any, count: int) -> bool:
    """Whether this process is to do the job, alone or as one of `count`, whom it meets; not if it
    has started them, and they have done it.

    Raises:
        ConfigError: the machine has too few GPUs.
        SystemExit: one of them failed, and has said why.
    """
    if count == 1:
        return launch.number() == 0
    place = loaded.compute.place
    launch.require_devices(count, place)
    if launch.started():
        from atu.distributed import processes

        processes.join(place)
        return True
    status = launch.run([sys.executable, "-m", "atu", *sys.argv[1:]], count)
    if status:
        raise SystemExit(status)
    return False


def used(settings: Any, section: Any, method: str, processes: int) -> int:
    """How many ranks a method's job uses of those that it is given."""
    from atu import methods

    return methods.get(settings.loss).require_processes(
        f"unlearn.methods.{method}",
        settings,
        section.compat(settings),
        launch.rank_count(processes),
    )


def quiet_libraries() -> None:
    """No telemetry, no advice, no hub look-ups from inside a job."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def keep_freed_memory() -> None:
    """Let glibc keep what was freed, up to `KEPT_MEMORY`, for what is allocated next.

    Without this a training step gives its activations back to the system and gets them again, page
    by page and zeroed, which is up to a tenth of a small model's processor time.
    """
    settings = getattr(ctypes.CDLL(None), "mallopt", None)
    if settings is not None:
        settings(_TRIM_THRESHOLD, KEPT_MEMORY)
        settings(_MMAP_THRESHOLD, KEPT_MEMORY // 4)


def open_input(manifest: Path, phase: str) -> Any:
    """The folder of a finished job.

    Raises:
        ArtifactError: it is of another phase, or not whole.
    """
    from atu.results.artifacts import Artifact

    return Artifact.open(manifest, phase)


def choose(entries: dict[str, Any], name: str, key: str) -> str:
    """The name, if it is one of the parameter file's.

    Raises:
        ConfigError: it is none, with those that are.
    """
    if name not in entries:
        raise ConfigError(key, name, f"not in the parameter file, which has {', '.join(entries)}")
    return name
