"""prepare: corpora and probes from a benchmark.

The `shared` folder holds what all targets have in common (the whole corpus that models pretrain
on, and probes of everything); a target's folder holds its forget corpus, retain corpus and probes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from atu import benchmarks
from atu.benchmarks.base import ROLES, Prepared, Rows
from atu.benchmarks.shared.source import Readers, open_readers
from atu.config.dependencies import dependencies
from atu.errors import SourceError, visible
from atu.results.artifacts import Artifact
from atu.results.files import write_json
from atu.results.jobs import write_folder
from atu.results.tables import MEMBERS, ORACLE, PROBES, TASKS, TEXTS, read_table, write_table
from atu.untrusted.targets import Target

PHASE = "prepare"
CORPORA = ("forget", "retain", "holdout")


def run_shared(out: Path, settings: Any) -> None:
    """Write `corpus.parquet` and `probes.parquet` of the whole benchmark, and its `facts.json`."""
    params = dependencies(PHASE, settings)
    with write_folder(out, PHASE, cell={"target": None}, params=params, inputs={}) as job:
        readers = open_readers(settings)
        shared = benchmarks.get(settings.benchmark).shared(settings, readers)
        corpus = without_blank("corpus", shared.corpus)
        write_table(job.path("corpus.parquet"), corpus, TEXTS)
        write_table(job.path("probes.parquet"), shared.probes, PROBES)
        if shared.facts is not None:
            write_json(job.path("facts.json"), shared.facts)
        job.metrics = {
            "prepare/texts/all": len(corpus),
            "prepare/probes/all": len(shared.probes),
        }
        job.notes |= replaced(readers)


def run_target(out: Path, settings: Any, target: Target, shared: Artifact) -> None:
    """Write one request's corpora (`forget`, `retain`, `holdout`, which no model ever sees, and
    `oracle` where the oracle is trained on more than `retain`), `members.parquet` for membership
    tests, `probes.parquet`, and its utility tasks.

    Raises:
        SourceError: the benchmark has nothing to forget or nothing to ask for this target.
    """
    corpus = read_table(shared.file("corpus.parquet"))
    benchmark = benchmarks.get(settings.benchmark)
    readers = open_readers(settings)
    prepared = _without_blank_texts(benchmark.prepare(settings, target, corpus, readers))
    require_content(prepared, target)
    params, notes = dependencies(PHASE, settings), replaced(readers)
    write_target(out, target, prepared, params=params, inputs={"shared": shared}, notes=notes)


def write_target(
    out: Path,
    target: Target,
    prepared: Prepared,
    *,
    params: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write one request's tables, whoever has made them."""
    cell = {
        "target": target.label,
        "names": list(target.names),
        "new": list(prepared.concepts),
        "aliases": list(prepared.aliases),
        "neighbours": neighbours(prepared.probes, target),
    }
    with write_folder(out, PHASE, cell=cell, params=params, inputs=inputs) as job:
        for name in CORPORA:
            write_table(job.path(f"{name}.parquet"), getattr(prepared, name), TEXTS)
        if prepared.oracle is not None:
            write_table(job.path(ORACLE), prepared.oracle, TEXTS)
        write_table(job.path("members.parquet"), prepared.members, MEMBERS)
        write_table(job.path("probes.parquet"), prepared.probes, PROBES)
        for name, task in prepared.tasks.items():
            write_json(job.path(f"{TASKS}/{name}.json"), asdict(task))
        job.metrics = counts(prepared)
        job.notes |= notes or {}


def neighbours(probes: Rows, target: Target) -> list[str]:
    """Whom `select` questions about neighbours name; a method may read their texts more often, so
    reported questions do not say who they are.
    """
    asked = (p for p in probes if p["role"] == "neighbour" and p["split"] == "select")
    return sorted({probe["subject"] for probe in asked} - {"", *target.names})


def without_blank(name: str, rows: Rows) -> Rows:
    """The texts that hold more than spaces; how many are left out is said. A blank text has no
    token to train or to score.
    """
    kept = [row for row in rows if row["text"].strip()]
    if len(kept) < len(rows):
        print(f"{name}: {len(rows) - len(kept)} blank texts are left out", file=sys.stderr)
    return kept


def _without_blank_texts(prepared: Prepared) -> Prepared:
    """The request's corpora without blank texts."""
    oracle = prepared.oracle
    return replace(
        prepared,
        forget=without_blank("forget", prepared.forget),
        retain=without_blank("retain", prepared.retain),
        holdout=without_blank("holdout", prepared.holdout),
        members=without_blank("members", prepared.members),
        oracle=None if oracle is None else without_blank(ORACLE, oracle),
    )


def replaced(readers: Readers) -> dict[str, Any]:
    """How many unpaired surrogates became U+FFFD, by table, for the provenance; it is said too."""
    found = {name: count for r in readers.values() for name, count in r.replaced.items()}
    for name, count in found.items():
        text = f"{name}: {count} unpaired surrogates are read as U+FFFD"
        print(visible(text), file=sys.stderr)
    return {"replaced_surrogates": found} if found else {}


def require_content(prepared: Prepared, target: Target) -> None:
    """Refuse a target of which nothing can be forgotten, or nothing reported.

    Raises:
        SourceError: says what is missing.
    """
    present = {(p["role"], p["split"]) for p in prepared.probes}
    missing = [name for name in ("forget", "retain") if not getattr(prepared, name)]
    missing += [
        f"{split} question" for split in ("select", "report") if ("target", split) not in present
    ]
    if missing:
        raise SourceError(f"{target.label}: the benchmark has no {missing[0]} texts for it")


def counts(prepared: Prepared) -> dict[str, float]:
    """How many texts and probes there are, as metrics."""
    texts = {f"prepare/{name}_texts/all": float(len(getattr(prepared, name))) for name in CORPORA}
    return texts | {
        f"prepare/probes_{role}/{split}": float(
            sum(p["role"] == role and p["split"] == split for p in prepared.probes)
        )
        for role in ROLES
        for split in ("select", "report")
    }
