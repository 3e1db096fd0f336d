"""How a phase writes its folder: beside, whole or not at all.

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
    """What a phase fills in while it writes its folder."""

    folder: Path
    checkpoints: Store
    """Where a long phase may save on the way; removed when the folder is whole."""
    metrics: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """What a person may want to know and no result depends on; goes to `provenance.json`."""

    def path(self, name: str) -> Path:
        """A path inside the scratch folder, its parents made."""
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

    The manifest holds only what the content determines (artifacts, parameters, inputs), so the
    same inputs and seed give the same bytes; times and versions go to `provenance.json`.

    Of several ranks rank 0 writes; the others get a folder that is thrown away, and read the same
    checkpoints.

    Raises:
        ArtifactError: the place cannot be written, another process is writing it, or a metric is
            not a finite number.
    """
    final = manifest.parent
    _require_ours(manifest, phase)
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
    if not processes.is_first():
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
    """An empty folder beside the final one, which no other process writes meanwhile."""
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


def _require_ours(manifest: Path, phase: str) -> None:
    """Refuse to replace what is not a job's folder, since the older one is removed with all that is
    in it; and to write through a link from the phase's folder down. (`results` and the experiment's
    folder may be links: their owner keeps results on another disk.)
    """
    final = manifest.parent
    if manifest.name != MANIFEST or final.name in ("", ".."):
        raise ArtifactError(f"{manifest}: name the {MANIFEST} of a folder of its own")
    steps = final.parts
    above = len(steps) - steps[::-1].index(phase) if phase in steps else len(steps)
    for place in (Path(*steps[:count]) for count in range(above, len(steps) + 1)):
        if place.is_symlink():
            raise ArtifactError(f"{place}: a link stands where a folder belongs; remove it")
    if not final.exists():
        return
    if not final.is_dir():
        raise ArtifactError(f"{final}: a file stands where the folder belongs; remove it")
    # Snakemake has removed the declared outputs by now; the provenance is not one.
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
    """The record, with the manifest's sha256; or what `final` has, if it is of an equal manifest.

    So a job that is run again and gives the same bytes changes no file, and DVC has nothing to do.
    """
    digest = sha256(scratch / MANIFEST)
    older = final / PROVENANCE
    with suppress(ArtifactError):
        found = read_json(older)
        if isinstance(found, dict) and found.get("manifest") == digest:
            shutil.copy2(older, scratch / PROVENANCE)
            return
    write_json(scratch / PROVENANCE, record | {"manifest": digest})


def _replace(scratch: Path, final: Path) -> None:
    """Put the scratch folder where an older or empty one may stand."""
    old = final.parent / f".{final.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    scratch.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _digests(inputs: Mapping[str, Artifact]) -> dict[str, str]:
    return {name: artifact.digest for name, artifact in inputs.items()}
