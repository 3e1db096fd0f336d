"""`atu status`: what is done of the grid, what is not, and why.

A manifest says what a job was made from: its parameters, which are compared with those of the
parameter file, and the sha256 of the manifests it read, which are compared with those that stand
there now. No graph is needed for that, but it knows nothing of sources: of these Snakemake's record
has the checksums. `snakemake --dry-run` takes many times as long and says the same, with two
exceptions. What no file says is not seen here: an edited rule, another conda environment. And
Snakemake plans nothing behind an `ancient` input that it makes again (snakemake#4166).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atu.config.cells import collected, job_folders
from atu.config.params import PHASES, Params, oracle_method
from atu.config.roles import ORACLE, ORIGINAL, role_of
from atu.errors import ArtifactError
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import sha256
from atu.results.writer import writer_of
from atu.terminal.printing import open_console, print_entry, print_tables
from atu.terminal.records import Records, last_words
from atu.tracking.records import flatten

STATES = ("done", "running", "stale", "failed", "damaged", "missing")
"""Of a job: its folder is whole and as its inputs ask; a process writes it; it is whole, and the
next run makes it again; its last run broke off; a file is missing or of another size; it has not
been made."""
ENTRY = {"pretrain": 1, "search": 2, "unlearn": 3, "attack": 5}
"""Where in its path a job has the name of its section's entry."""
LONGEST = 300
"""Characters that are shown of a log's end."""


@dataclass(frozen=True)
class JobState:
    """What has become of one job."""

    job: str
    """Its folder, below the results."""
    state: str
    reason: str = ""
    follows: bool = False
    """Whether the only reason is an earlier job."""
    recorded: bool = True
    """Whether Snakemake has a record of its sources, or there is nothing to know of them."""

    @property
    def phase(self) -> str:
        """The phase that makes it."""
        return self.job.split("/")[0]


def job_states(params: Params, results: Path) -> list[JobState]:
    """Every job of the grid, phase by phase."""
    judge = _Judge(params, results)
    return [judge.state(folder) for folder in judge.folders]


class _Judge:
    """The jobs of a grid, each judged once."""

    def __init__(self, params: Params, results: Path) -> None:
        self.params, self.results = params, results
        self.records = Records(results)
        self.folders = sorted(job_folders(params, results), key=self._place)
        self.opened = {folder: self._open(folder) for folder in self.folders}
        self.made = {a.digest: f for f, a in self.opened.items() if isinstance(a, Artifact)}
        self.collected = collected(params, results)
        self.known: dict[Path, JobState] = {}
        self.sums: dict[str, str | None] = {}

    def state(self, folder: Path) -> JobState:
        """The state of one job."""
        if folder not in self.known:
            self.known[folder] = self._judge(folder)
        return self.known[folder]

    def _judge(self, folder: Path) -> JobState:
        name, found = self._name(folder), self.opened[folder]
        log = self.records.log(folder)
        if writer := writer_of(folder):
            return JobState(name, "running", f"{writer}: {_short(last_words(log) or '')}")
        if found is None:
            return self._absent(name, folder)
        if isinstance(found, ArtifactError):
            return JobState(name, "damaged", str(found))
        sums = self._record(found)
        own = next(self._own_reasons(found, sums or {}), None)
        if own:
            return JobState(name, "stale", own)
        if lost := _lost_file(found):
            return JobState(name, "damaged", lost)
        if earlier := next(self._earlier(found, sums or {}), None):
            return JobState(name, "stale", f"after {earlier}", follows=True)
        return JobState(name, "done", recorded=sums is not None)

    def _absent(self, name: str, folder: Path) -> JobState:
        words = last_words(self.records.log(folder))
        if words is None:
            return JobState(name, "missing", "has not run")
        if self.records.ended_well(folder):
            return JobState(
                name, "missing", "its last run ended well; the folder was removed since"
            )
        kept = folder.with_name(f".{folder.name}.checkpoints").is_dir()
        goes_on = "; goes on from its checkpoint" if kept else ""
        said = _short(words) or "the log is empty: it was killed before it said anything"
        return JobState(name, "failed", f"{self.records.log(folder)}: {said}{goes_on}")

    def _own_reasons(self, found: Artifact, sums: dict[str, str]) -> Iterator[str]:
        """Why the job itself is to be made again."""
        if keys := self._changed_params(found):
            yield _listed("", keys)
        if found.folder in self.collected:
            yield from self._changed_collection(found)
        else:
            yield from self._changed_inputs(found, sums)
        if files := [path for path, text in sums.items() if self._is_changed(path, text)]:
            yield _listed("changed since: ", files)
        if self.records.begun(found.folder):
            yield "Snakemake did not see it end, and makes it again"

    def _changed_params(self, found: Artifact) -> list[str]:
        """What the parameter file says otherwise; of a searched method not its settings, which are
        the search's.
        """
        phase, *path = self._name(found.folder).split("/")
        place = ENTRY.get(phase)
        entry = None if place is None or path == ["shared"] else path[place - 1]
        now = json.loads(json.dumps(self.params.section(phase, entry)))
        then = dict(found.manifest["params"])
        if "search" in found.manifest["inputs"]:
            for values in (now, then):
                values.pop("methods", None)
        before, after = (dict(flatten(_rooted(phase, values))) for values in (then, now))
        return [
            f"{key}: {before.get(key, 'not there')} → {after.get(key, 'not there')}"
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key)
        ]

    def _changed_inputs(self, found: Artifact, sums: dict[str, str]) -> Iterator[str]:
        """Inputs that the grid gives or takes, and those that are others now."""
        inputs = found.manifest["inputs"]
        for name, expected in self._conditional(found).items():
            if expected != (name in inputs):
                yield f"{'reads' if expected else 'no longer reads'} `{name}`"
        for name, digest in inputs.items():
            place = self._place_of(digest, sums)
            if digest not in self.made and self._pending(place) is None:
                where = f" ({self._name(place)})" if place in self.opened else ""
                yield f"its input `{name}`{where} is another now"

    def _changed_collection(self, found: Artifact) -> Iterator[str]:
        """Of a job that reads all of some: those that are new or others, and those that left."""
        read = set(found.manifest["inputs"].values())
        there = {path.parent: self.opened[path.parent] for path in self.collected[found.folder]}
        new = [f for f, a in there.items() if not isinstance(a, Artifact) or a.digest not in read]
        if new:
            yield _listed("made without ", [self._name(folder) for folder in new])
        elif len(read) > len(there):
            yield f"made with {len(read) - len(there)} jobs that have left the grid"

    def _conditional(self, found: Artifact) -> dict[str, bool]:
        """The inputs that a job of this phase has or has not: whether this one has."""
        phase, *path = self._name(found.folder).split("/")
        if phase not in ("unlearn", "utility", "privacy"):
            return {}
        _, _, method, _ = path
        if phase == "unlearn":
            return {"search": self.params.searched(method)}
        if phase == "utility":
            return {"before": ORIGINAL in self.params.grid.methods and method != ORIGINAL}
        is_oracle = role_of(self.params.unlearn.methods[method].loss) == ORACLE
        return {"reference": oracle_method(self.params) is not None and not is_oracle}

    def _earlier(self, found: Artifact, sums: dict[str, str]) -> Iterator[str]:
        """The jobs that it reads and that are made again first."""
        for digest in found.manifest["inputs"].values():
            place = self.made.get(digest)
            if place is not None and self.state(place).state == "stale":
                yield self._name(place)
            elif place is None and (pending := self._pending(self._place_of(digest, sums))):
                yield self._name(pending)

    def _pending(self, place: Path | None) -> Path | None:
        """The folder, if the grid has it and it is not there."""
        return place if place in self.opened and self.opened[place] is None else None

    def _place_of(self, digest: str, sums: dict[str, str]) -> Path | None:
        """The folder that a job read this manifest from, if Snakemake has a record of it."""
        paths = (path for path, text in sums.items() if text == digest)
        path = next(paths, None)
        return None if path is None else (self.records.root / path).parent

    def _record(self, found: Artifact) -> dict[str, str] | None:
        """Snakemake's record of the inputs, if it is of this folder and not of another version."""
        sums = self.records.inputs(found.folder)
        if sums is None or not set(found.manifest["inputs"].values()) <= set(sums.values()):
            return None
        return sums

    def _is_changed(self, path: str, text: str) -> bool:
        """Whether a source, a lock or a user's file is another than it was; manifests are compared
        by what manifests say.
        """
        if path not in self.sums:
            file = self.records.root / path
            now = sha256(file) if file.is_file() else ""
            self.sums[path] = None if self.results in file.parents else now
        return self.sums[path] not in (None, text)

    def _open(self, folder: Path) -> Artifact | ArtifactError | None:
        manifest = folder / MANIFEST
        if not manifest.exists():
            return None
        try:
            return Artifact.open(manifest, self._name(folder).split("/")[0])
        except ArtifactError as error:
            return error

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.results).as_posix()

    def _place(self, folder: Path) -> tuple[Any, ...]:
        parts = folder.relative_to(self.results).parts
        return PHASES.index(parts[0]), parts


def _rooted(phase: str, values: dict[str, Any]) -> dict[str, Any]:
    """A job's parameters by their keys in the parameter file."""
    others = {key: values[key] for key in ("compute", "unlearn") if key in values}
    return {phase: {k: v for k, v in values.items() if k not in others}} | others


def _lost_file(found: Artifact) -> str | None:
    """What is wrong with the first listed file that is missing or of another size. What is in them
    is not read: weights are large.
    """
    for name, listed in found.manifest["artifacts"].items():
        path = found.folder / name
        if not path.is_file() or path.stat().st_size != listed["bytes"]:
            try:
                found.file(name)
            except ArtifactError as error:
                return str(error)
    return None


def _listed(before: str, names: Sequence[str]) -> str:
    """The first two, and how many more there are."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{before}{', '.join(names[:2])}{more}"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def print_status(states: Sequence[JobState], everything: bool) -> None:
    """Counts per phase; then the jobs that need attention, or `everything`."""
    console = open_console()
    counts = Counter((job.phase, job.state) for job in states)
    phases = dict.fromkeys(job.phase for job in states)
    shown = [
        state for state in STATES if state != "damaged" or any(s.state == state for s in states)
    ]
    rows = [[phase, *(str(counts[phase, state] or "") for state in shown)] for phase in phases]
    rows.append(["all", *(str(sum(job.state == state for job in states)) for state in shown)])
    print_tables(["phase", *shown], rows, console)
    told = [job for job in states if everything or _needs_attention(job)]
    if told:
        console.print()
    for job in told:
        print_entry(console, f"{job.state:8}{job.job}", job.reason)
    for note in _notes(states, everything):
        console.print()
        console.print(note)


def _needs_attention(job: JobState) -> bool:
    return job.state not in ("done", "missing") and not job.follows


def _notes(states: Sequence[JobState], everything: bool) -> Iterator[str]:
    follow = sum(job.follows for job in states)
    if follow and not everything:
        yield f"{follow} more are stale because an earlier job is made again; --all lists them."
    unknown = sum(not job.recorded for job in states)
    if unknown:
        yield (
            f"Of {unknown} done jobs Snakemake has no record: whether their sources have changed "
            "is not known. After a pull or a checkout `make sync` records them."
        )
