"""`atu audit`: from somebody else's checkpoint to a report and a verdict."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from atu.audit.experiment import COMMAND, EXPERIMENT, Models, experiment_file, render
from atu.config.fetching import fetch
from atu.config.load import check_values, load_params
from atu.config.roles import ORACLE
from atu.errors import ConfigError, visible
from atu.forget.experiment import Shape
from atu.models.adapters import read_adapter
from atu.models.folders import is_adapter
from atu.models.pinned import locate
from atu.phases.report import AUDIT
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import read_json
from atu.results.jobs import write_folder
from atu.results.locks import Lock, Source
from atu.results.writer import only_writer
from atu.untrusted.yaml import parse_yaml
from atu.workfolder.folder import (
    LOCKS,
    MODEL,
    PARAMS,
    is_here,
    keep_params,
    require_params,
    require_place,
    standing_result,
    work_folder,
)
from atu.workfolder.models import pin_model
from atu.workfolder.workflow import run_workflow, snakefile

PHASE = "audit"
ROLES = ("model", "original", ORACLE)


@dataclass(frozen=True)
class AuditRequest:
    """The options of `atu audit`."""

    model: str
    original: str | None
    oracle: str | None
    benchmark: str | None
    params: Path | None
    data: Path | None
    targets: tuple[str, ...]
    attacks: tuple[str, ...] | None
    """None for those of the experiment."""
    out: Path
    work: Path
    offline: bool
    cores: int


def run(request: AuditRequest, *, dry_run: bool) -> None:
    """Run all steps, skipping those that are done, and print the verdict.

    Raises:
        AtuError: an option, a model, the benchmark or the machine is unsuitable.
    """
    snakefile(COMMAND)
    standing_result(request.out, PHASE)
    require_place("--work", request.work)
    if request.work.resolve().is_relative_to(request.out.resolve()):
        raise ConfigError("--work", str(request.work), "is the folder of --out or in it")
    file = experiment_file(request.benchmark, request.params)
    with work_folder(request.work), only_writer(request.work) as lock_file:
        sources = _sources(request)
        models = Models(sources["model"], sources.get("original"), sources.get(ORACLE))
        shape = Shape.of(_whole(request, models))
        text = render(
            file, models, shape, targets=request.targets, attacks=request.attacks,
            data=request.data,
        )  # fmt: skip
        check_values(parse_yaml(text), str(request.work / PARAMS), across=False)
        if dry_run:
            print(text, end="")
            return
        require_params(request.work / PARAMS, COMMAND)
        with contextlib.chdir(request.work):
            keep_params(Path(PARAMS), text)
            params = load_params(Path(PARAMS), across=False)
            for news in fetch(params, offline=request.offline, update=False):
                print(visible(news), file=sys.stderr)
            load_params(Path(PARAMS))  # all that can be refused is, before any work
            run_workflow(COMMAND, EXPERIMENT, request.cores, lock_file)
            _finish(request, Path("results") / params.experiment)


def _sources(request: AuditRequest) -> dict[str, Source]:
    """The source of every model that was named, locked in the work folder."""
    found = {}
    for role in ROLES:
        place = getattr(request, role)
        if place is not None:
            made, adapter = request.work / MODEL / role, role != "original"
            source = pin_model(
                f"--{role}", place, request.work, made, offline=request.offline, adapter=adapter
            )
            found[role] = replace(source, lock=f"{LOCKS}/{role}.json")
    return found


def _whole(request: AuditRequest, models: Models) -> Path:
    """The folder of a whole model among those given, whose layers are counted.

    Raises:
        ConfigError: the checkpoint is an adapter, and its original was not given.
    """

    def folder(source: Source, role: str) -> Path:
        lock = Lock.read(request.work / LOCKS / f"{role}.json")
        return locate(source, lock.revision)

    if models.original is not None:
        return folder(models.original, "original")
    place = folder(models.checkpoint, "model")
    if is_adapter(place):
        read_adapter(place)
        raise ConfigError("--original", None, f"{place} is an adapter: name the model that it was "
                          "trained on")  # fmt: skip
    return place


def _finish(request: AuditRequest, results: Path) -> None:
    """Copy the report to `--out`, and print the verdict."""
    report = Artifact.open(results / "report" / MANIFEST, "report")
    inputs = {"report": report}
    new = not is_here(request.out, PHASE, inputs)
    if new:
        with write_folder(request.out / MANIFEST, PHASE, cell={}, params={}, inputs=inputs) as job:
            for name in report.manifest["artifacts"]:
                if name != "metrics.json":
                    shutil.copyfile(report.file(name), job.path(name))
            shutil.copyfile(PARAMS, job.path(PARAMS))
            job.metrics = report.metrics()
    for line in verdict_lines(report.file(AUDIT)):
        print(visible(line))
    print(f"\n{'Written' if new else 'Nothing to be done'}: {request.out} (report.html, {AUDIT})")


def verdict_lines(path: Path) -> Iterator[str]:
    """The verdicts of an `audit.json`, as a terminal shows them."""
    for verdict in read_json(path).values():
        yield ""
        yield verdict["headline"]
        for part in ("gives_away", "removed", "comes_back", "cost", "missing"):
            yield from (f"  - {sentence}" for sentence in verdict[part])
