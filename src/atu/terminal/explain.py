"""`atu explain`: what made a number."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from atu.config.params import PHASES
from atu.errors import ArtifactError, ConfigError
from atu.metrics.registry import METRIC_ID, Metric, registry
from atu.results.artifacts import MANIFEST, METRICS, PROVENANCE, Artifact
from atu.results.files import read_json
from atu.terminal.behind import Behind, behind
from atu.terminal.printing import one_line, open_console
from atu.tracking.records import flatten

LISTED = 12
"""Numbers that a message lists at most."""
LONGEST = 200
"""Characters that are shown of a text of an item."""
TOLD = ("code", "command", "device", "libraries", "seconds", "started", "threads")
"""What is told of a job's provenance."""


@dataclass(frozen=True)
class Explanation:
    """A number and whatever it came from."""

    key: str
    value: float
    file: Path
    cell: dict[str, Any]
    formulas: list[dict[str, str]]
    """The registered metrics that its key names."""
    items: Behind | None
    params: dict[str, str]
    inputs: dict[str, str]
    """The folders that the job read, by their names in its manifest; what is gone by its sha256."""
    provenance: dict[str, Any]
    again: list[str]
    """Commands that make the folder again: through Snakemake, and the job alone."""


def explanation(results: Path, metric: str, run: str | None) -> Explanation:
    """What made the number `metric` of the job `run`.

    Args:
        metric: a key of `metrics.json`, or a part of one that no other holds.
        run: words of the job's cell or folder, with `/` between them: `atu/0`.

    Raises:
        ConfigError: no job or no number is so called, or several; lists them.
        ArtifactError: nothing is finished there, or a file is not as its manifest says.
    """
    finished = _finished(results)
    job, key = _find(finished, results, metric, run)
    value = job.metrics()[key]
    path = job.folder / PROVENANCE
    record = read_json(path) if path.is_file() else {}
    provenance = record if isinstance(record, dict) else {}
    by_digest = {artifact.digest: artifact for artifact in finished}
    inputs = job.manifest["inputs"]
    return Explanation(
        key=key,
        value=value,
        file=job.folder / METRICS,
        cell=job.cell,
        formulas=[_formula(entry) for entry in _formulas(key)],
        items=behind(job, key, value, by_digest),
        params=dict(flatten(job.manifest["params"])),
        inputs={
            name: by_digest[digest].folder.as_posix() if digest in by_digest else f"gone: {digest}"
            for name, digest in inputs.items()
        },
        provenance={name: provenance[name] for name in TOLD if name in provenance},
        again=[*_again(job, results, provenance)],
    )


def _finished(results: Path) -> list[Artifact]:
    paths = [
        path
        for path in sorted(results.glob(f"*/**/{MANIFEST}"))
        if path.relative_to(results).parts[0] in PHASES
        and not any(part.startswith(".") for part in path.relative_to(results).parts)
    ]
    if not paths:
        raise ArtifactError(
            f"{results}: holds no finished job; name an experiment's folder below results/, or run "
            "`snakemake` first"
        )
    return [Artifact.open(path, path.relative_to(results).parts[0]) for path in paths]


def _find(
    finished: Sequence[Artifact], results: Path, metric: str, run: str | None
) -> tuple[Artifact, str]:
    """The one job that has the number, and the number's key."""
    jobs = [job for job in finished if _is_called(job, results, run)]
    if not jobs:
        raise ConfigError("--run", run, f"no finished job; there are {_names(finished, results)}")
    phase = metric.split("/")[0]
    if phase in PHASES:
        jobs = [job for job in jobs if job.manifest["phase"] == phase]
    keys = [(job, key) for job in jobs for key in job.metrics()]
    found = [pair for pair in keys if pair[1] == metric] or [p for p in keys if metric in p[1]]
    if len(found) == 1:
        return found[0]
    names = list(dict.fromkeys(key for _, key in found or keys))
    if not found:
        near = get_close_matches(metric, names, LISTED, 0.3) or names
        raise ConfigError(
            "METRIC",
            metric,
            f"no number is so called, and an INVALID one is not written; there are {_some(near)}",
        )
    if len(names) > 1:
        raise ConfigError("METRIC", metric, f"is a part of several; name one: {_some(names)}")
    raise ConfigError(
        "--run", run, f"has several jobs; name one: {_names([job for job, _ in found], results)}"
    )


def _is_called(job: Artifact, results: Path, run: str | None) -> bool:
    folder = job.folder.relative_to(results).as_posix()
    known = {*folder.split("/"), *map(str, job.cell.values())}
    return run is None or run.strip("/") == folder or set(run.strip("/").split("/")) <= known


def _names(jobs: Sequence[Artifact], results: Path) -> str:
    return _some([job.folder.relative_to(results).as_posix() for job in jobs])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _formulas(key: str) -> list[Metric]:
    known = registry()
    return [known[name] for name in METRIC_ID.findall(key) if name in known]


def _formula(entry: Metric) -> dict[str, str]:
    return {
        "id": entry.id, "summary": entry.summary, "source": entry.source, "defect": entry.defect,
    }  # fmt: skip


def _again(job: Artifact, results: Path, provenance: Mapping[str, Any]) -> Iterator[str]:
    """Both run in the folder that holds `results/`; Snakemake makes missing inputs first."""
    manifest = str(job.folder / MANIFEST)
    yield f"snakemake --cores 1 --force {shlex.quote(manifest)}"
    words = provenance.get("command")
    if isinstance(words, list) and words:
        yield f"python -m atu {shlex.join(map(str, words[1:]))}"


def print_explanation(found: Explanation) -> None:
    """Section by section: the number, its formula, its items, and how it was made."""
    console = open_console()
    value = "null" if found.value is None else f"{found.value:.6g}"
    console.print(Text(one_line(f"{found.key} = {value}"), "bold"), soft_wrap=True)
    _section(console, "in", [str(found.file)])
    _section(console, "of", [f"{name} {value}" for name, value in found.cell.items()])
    _section(console, "formula", _told_formulas(found.formulas))
    _section(console, "items", _told_items(found.items))
    _section(console, "parameters", [f"{name}: {value}" for name, value in found.params.items()])
    _section(console, "inputs", [f"{name}: {place}" for name, place in found.inputs.items()])
    told = dict(flatten(found.provenance))
    told.pop("command", None)
    _section(console, "made by", [f"{name}: {value}" for name, value in told.items()])
    _section(console, "again", found.again)


def _section(console: Console, head: str, lines: Sequence[str]) -> None:
    console.print(Text(head, "bold"))
    for line in lines or ["none"]:
        console.print(Text(f"  {one_line(line)}"), soft_wrap=True)


def _told_formulas(formulas: Sequence[Mapping[str, str]]) -> list[str]:
    lines = []
    for entry in formulas:
        lines += [f"{entry['id']}: {entry['summary']}", f"  source: {entry['source']}"]
        lines += [f"  known defect: {entry['defect']}"] if entry["defect"] else []
    return lines or ["no registered formula: a count, or what the phase itself measures"]


def _told_items(items: Behind | None) -> list[str]:
    if items is None:
        return ["it is no number about items of this folder"]
    how = "it is their mean" if items.is_mean else "it is computed from them, and not their mean"
    lines = [f"{items.count} in {items.file}: {items.rule}; {how}"]
    for row in items.examples:
        texts = {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in row.items()}
        lines.append("  " + "; ".join(f"{k} {_short(v)}" for k, v in texts.items()))
    if items.count > len(items.examples):
        lines.append(f"  and {items.count - len(items.examples)} more")
    return lines


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
