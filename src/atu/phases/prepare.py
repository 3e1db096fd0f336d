"""prepare: corpora and probes from a benchmark.

The `shared` folder holds what all targets have in common (the whole corpus that models pretrain
on, and probes of everything); a target's folder holds its forget corpus, retain corpus and probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from atu import benchmarks
from atu.benchmarks.base import ROLES, Prepared
from atu.benchmarks.shared.source import open_readers
from atu.config.dependencies import dependencies
from atu.errors import SourceError
from atu.results.artifacts import Artifact
from atu.results.files import write_json
from atu.results.jobs import write_folder
from atu.results.tables import MEMBERS, ORACLE, PROBES, TASKS, TEXTS, read_table, write_table
from atu.untrusted.targets import Target

PHASE = "prepare"


def run_shared(out: Path, settings: Any) -> None:
    """Write `corpus.parquet` and `probes.parquet` of the whole benchmark, and its `facts.json`."""
    params = dependencies(PHASE, settings)
    with write_folder(out, PHASE, cell={"target": None}, params=params, inputs={}) as job:
        found = benchmarks.get(settings.benchmark).shared(settings, open_readers(settings))
        write_table(job.path("corpus.parquet"), found.corpus, TEXTS)
        write_table(job.path("probes.parquet"), found.probes, PROBES)
        if found.facts is not None:
            write_json(job.path("facts.json"), found.facts)
        job.metrics = {
            "prepare/texts/all": len(found.corpus),
            "prepare/probes/all": len(found.probes),
        }


def run_target(out: Path, settings: Any, target: Target, shared: Artifact) -> None:
    """Write one request's corpora (`forget`, `retain`, `holdout`, which no model ever sees, and
    `oracle` where the oracle is trained on more than `retain`), `members.parquet` for membership
    tests, `probes.parquet`, and its utility tasks.

    Raises:
        SourceError: the benchmark has nothing to forget or nothing to ask for this target.
    """
    corpus = read_table(shared.file("corpus.parquet"))
    benchmark = benchmarks.get(settings.benchmark)
    found = benchmark.prepare(settings, target, corpus, open_readers(settings))
    require_content(found, target)
    write_target(
        out, target, found, params=dependencies(PHASE, settings), inputs={"shared": shared}
    )


def write_target(
    out: Path,
    target: Target,
    found: Prepared,
    *,
    params: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
) -> None:
    """Write one request's tables, whoever has made them."""
    cell = {
        "target": target.label,
        "names": list(target.names),
        "new": list(found.concepts),
    }
    with write_folder(out, PHASE, cell=cell, params=params, inputs=inputs) as job:
        for name in ("forget", "retain", "holdout"):
            write_table(job.path(f"{name}.parquet"), getattr(found, name), TEXTS)
        if found.oracle is not None:
            write_table(job.path(ORACLE), found.oracle, TEXTS)
        write_table(job.path("members.parquet"), found.members, MEMBERS)
        write_table(job.path("probes.parquet"), found.probes, PROBES)
        for name, task in found.tasks.items():
            write_json(job.path(f"{TASKS}/{name}.json"), asdict(task))
        job.metrics = counts(found)


def require_content(found: Prepared, target: Target) -> None:
    """Refuse a target of which nothing can be forgotten, or nothing reported.

    Raises:
        SourceError: says what is missing.
    """
    asked = {(p["role"], p["split"]) for p in found.probes}
    missing = [name for name in ("forget", "retain") if not getattr(found, name)]
    missing += [
        f"{split} question" for split in ("select", "report") if ("target", split) not in asked
    ]
    if missing:
        raise SourceError(f"{target.label}: the benchmark has no {missing[0]} texts for it")


def counts(found: Prepared) -> dict[str, float]:
    """How many texts and probes there are, as metrics."""
    texts = {
        f"prepare/{name}_texts/all": float(len(getattr(found, name)))
        for name in ("forget", "retain", "holdout")
    }
    return texts | {
        f"prepare/probes_{role}/{split}": float(
            sum(p["role"] == role and p["split"] == split for p in found.probes)
        )
        for role in ROLES
        for split in ("select", "report")
    }
