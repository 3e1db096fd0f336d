"""How a phase writes its folder: whole or not at all.

`write_folder` gives the phase a scratch folder next to the final one, adds `metrics.json`,
`manifest.json` and `provenance.json`, and renames it: a folder either is complete or does not
exist.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atu.distributed import processes
from atu.errors import ArtifactError
from atu.results.artifacts import MANIFEST, METRICS, PROVENANCE, SCHEMA, Artifact
from atu.results.checkpoints import Store, code_digest
from atu.results.files import read_json, sha256, write_json
from atu.results.provenance import collect_provenance, library_versions
from atu.results.writer import only_writer


@dataclass
class Job:
    """A phase's folder while it is being written."""

    folder: Path
    checkpoints: Store
    """Checkpoints of a long phase; removed when the folder is complete."""
    metrics: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """Information for people on which no result depends; goes to `provenance.json`."""

    def path(self, name: str) -> Path:
        """A path inside the scratch folder; creates its parents."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def write_folder(
    manifest: Path,
    phase: str,
    *,
    cell: Mapping[str, Any],
    params: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
) -> Iterator[Job]:
    """Write the folder of `manifest` whole or not at all.

    The manifest holds only the artifacts, parameters and inputs, so the same inputs and seed give
    the same bytes; times and versions go to `provenance.json`.

    Rank 0 writes. The other ranks get a temporary folder that is discarded, and read the same
    checkpoints.

    Raises:
        ArtifactError: the folder cannot be written, another process is writing it, or a metric is
            not a finite number.
    """
    final = manifest.parent
    _require_job_folder(manifest, phase)
    finish = collect_provenance()
    identity = {
        "phase": phase,
        "cell": dict(cell),
        "params": dict(params),
        "inputs": _digests(inputs),
        "code": code_digest(),
        "libraries": library_versions(),
    }
    store = Store(final.parent / f".{final.name}.checkpoints", identity)
    if not processes.is_rank_zero():
        with tempfile.TemporaryDirectory(prefix="atu-") as unused:
            yield Job(Path(unused), store)
        return
    with _scratch_beside(final) as scratch:
        job = Job(scratch, store)
        yield job
        _seal(job, phase, dict(cell), dict(params), inputs)
        _write_provenance(scratch, final, finish() | job.notes)
        _replace(scratch, final)
        job.checkpoints.clear()


@contextmanager
def _scratch_beside(final: Path) -> Iterator[Path]:
    """An empty folder beside the final one, locked against other processes."""
    scratch = final.parent / f".{final.name}.partial"
    with ExitStack() as stack:
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_writer(final))
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
        except OSError as error:
            raise ArtifactError(f"{final}: cannot be written ({error.strerror})") from None
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        yield scratch


def _require_job_folder(manifest: Path, phase: str) -> None:
    """Refuse to replace anything but a job's folder, since the old one is removed with its content;
    and to write through a link from the phase's folder down. (`results` and the experiment's folder
    may be links, so that results can be on another disk.)
    """
    final = manifest.parent
    if manifest.name != MANIFEST or final.name in ("", ".."):
        raise ArtifactError(f"{manifest}: name the {MANIFEST} of a folder of its own")
    steps = final.parts
    above = len(steps) - steps[::-1].index(phase) if phase in steps else len(steps)
    for place in (Path(*steps[:count]) for count in range(above, len(steps) + 1)):
        if place.is_symlink():
            raise ArtifactError(f"{place}: is a link instead of a folder; remove it")
    if not final.exists():
        return
    if not final.is_dir():
        raise ArtifactError(f"{final}: is a file instead of a folder; remove it")
    # Snakemake has removed the declared outputs by now, but not the provenance.
    known = any((final / name).exists() for name in (MANIFEST, METRICS, PROVENANCE))
    if not known and any(path.is_file() for path in final.rglob("*")):
        raise ArtifactError(f"{final}: holds files that no job wrote; move them away")


def _seal(
    job: Job,
    phase: str,
    cell: dict[str, Any],
    params: dict[str, Any],
    inputs: Mapping[str, Artifact],
) -> None:
    bad = [name for name, value in job.metrics.items() if not math.isfinite(value)]
    if bad:
        raise ArtifactError(f"{job.folder}: metrics that are not finite numbers: {', '.join(bad)}")
    write_json(job.folder / METRICS, job.metrics)
    files = sorted(path for path in job.folder.rglob("*") if path.is_file())
    artifacts = {
        path.relative_to(job.folder).as_posix(): {
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
        }
        for path in files
    }
    manifest = {
        "schema": SCHEMA,
        "phase": phase,
        "cell": cell,
        "params": params,
        "inputs": _digests(inputs),
        "artifacts": artifacts,
    }
    write_json(job.folder / MANIFEST, manifest)


def _write_provenance(scratch: Path, final: Path, record: dict[str, Any]) -> None:
    """Write the record with the manifest's sha256, or keep that of `final` if the manifest is
    equal.

    So a job that runs again and gives the same bytes changes no file, and DVC has nothing to do.
    """
    digest = sha256(scratch / MANIFEST)
    older = final / PROVENANCE
    with suppress(ArtifactError):
        existing = read_json(older)
        if isinstance(existing, dict) and existing.get("manifest") == digest:
            shutil.copy2(older, scratch / PROVENANCE)
            return
    write_json(scratch / PROVENANCE, record | {"manifest": digest})


def _replace(scratch: Path, final: Path) -> None:
    """Move the scratch folder to its final place, replacing an older one."""
    old = final.parent / f".{final.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    scratch.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _digests(inputs: Mapping[str, Artifact]) -> dict[str, str]:
    return {name: artifact.digest for name, artifact in inputs.items()}
