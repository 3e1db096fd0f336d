"""`atu memory`: the bound of every kind of job in a grid, and the peaks of finished jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from atu.errors import ResourceError
from atu.resources.bound import PlannedJob, held, model_config
from atu.resources.fit import described, require_fit, trained_here
from atu.resources.machine import aligned, size
from atu.results.artifacts import MANIFEST, PROVENANCE
from atu.results.files import read_json

if TYPE_CHECKING:
    from atu.config.params import Params

Kind = tuple[str, str]
"""A model, and a phase with its method or attack."""


def grid_jobs(params: Params) -> Iterator[tuple[Kind, PlannedJob]]:
    """Every kind of job in the grid that loads a model."""
    for model in params.grid.models:
        config = model_config(params, model)
        if trained_here(params, model):
            yield (model, "pretrain"), PlannedJob("pretrain", params, config, model)
        yield (model, "align"), PlannedJob("align", params, config)
        for name in params.grid.methods:
            settings = params.unlearn.methods[name]
            for phase in ("search", "unlearn") if params.searched(name) else ("unlearn",):
                yield (model, f"{phase} {name}"), PlannedJob(phase, params, config, name, settings)
        for phase in ("rephrase", "utility", "privacy"):
            yield (model, phase), PlannedJob(phase, params, config)
        for name in params.grid.attacks:
            settings = params.attack.attacks[name]
            yield (model, f"attack {name}"), PlannedJob("attack", params, config, name, settings)


def peaks(results: Path) -> dict[Kind, list[int]]:
    """Peaks of finished jobs in bytes, by kind: of the GPU if one was used, else of the process."""
    by_kind: dict[Kind, list[int]] = {}
    for path in sorted(results.glob(f"**/{MANIFEST}")):  # which a job that is made again lacks
        record = path.with_name(PROVENANCE)
        if path.parent.name.startswith(".") or not record.is_file():  # unfinished
            continue
        memory = read_json(record).get("memory")
        if memory is None:  # of an older version
            continue
        manifest = read_json(path)
        phase, cell = manifest["phase"], manifest["cell"]
        named = {"search": "method", "unlearn": "method", "attack": "attack"}.get(phase)
        job = f"{phase} {cell[named]}" if named in cell else phase
        peak = memory["gpu_bytes"] or memory["process_bytes"]
        by_kind.setdefault((cell.get("model", ""), job), []).append(peak)
    return by_kind


def grid_table(params: Params, results: Path, free: int | None) -> str:
    """One line per kind of job; below, the jobs that do not fit."""
    rows = [("model", "job", "measured", "bound")]
    refused, measured = [], peaks(results)
    for kind, job in grid_jobs(params):
        done = measured.get(kind, [])
        most = f"{size(max(done))} (of {len(done)})" if done else ""
        rows.append((*kind, most, described(held(job))))
        try:
            require_fit(job, free)
        except ResourceError as error:
            refused.append(f"{kind[0]}: {error}")
    return "\n".join([*aligned(rows), *refused]) + "\n"
