"""A whole grid as a run leaves it: jobs, Snakemake's records of them, and logs."""

import copy
import json
import os
import shutil

import pytest

from atu.config.cells import collected, job_folders
from atu.config.params import Params
from atu.phases import report
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import sha256, write_json
from atu.results.jobs import write_folder
from atu.terminal.records import Records
from atu.terminal.status import ENTRY

METHODS = ("none", "oracle", "ga")
INPUTS = {
    "prepare": ["prepare/shared"],
    "embed": ["pretrain/{model}/full", "prepare/{target}"],
    "align": ["pretrain/{model}/full", "embed/{model}/{target}", "prepare/{target}"],
    "unlearn": ["pretrain/{model}/full", "prepare/{target}"],
    "rephrase": ["unlearn/{cell}", "prepare/{target}"],
    "utility": ["unlearn/{cell}", "prepare/{target}"],
    "privacy": ["unlearn/{cell}", "prepare/{target}", "rephrase/{cell}"],
    "attack": ["unlearn/{cell}", "prepare/{target}"],
}
"""What the jobs of a phase read, in short; those of `pretrain` and the collecting jobs aside."""


class Grid:
    """A grid's results, of which tests change something."""

    def __init__(self, root, params):
        self.root, self.params = root, params
        self.results = root / "results" / params.experiment
        self.records = Records(self.results)
        self.source = root / "src" / "atu" / "phases" / "some.py"

    def folder(self, name):
        """The folder of a job."""
        return self.results / name

    def run(self):
        """Make all jobs, each after what it reads."""
        self.source.parent.mkdir(parents=True)
        self.source.write_text("x = 1\n", encoding="utf-8")
        for folder in sorted(job_folders(self.params, self.results)):
            self.make(folder.relative_to(self.results).as_posix())

    def make(self, name):
        """Make one job, with Snakemake's record of it and its log, unless it is there."""
        if (self.folder(name) / MANIFEST).exists():
            return
        read = self._inputs(name)
        for path in read.values():
            self.make(path.relative_to(self.results).as_posix())
        inputs = {key: self.open(path) for key, path in read.items()}
        phase, *rest = name.split("/")
        entry = rest[ENTRY[phase] - 1] if phase in ENTRY and rest != ["shared"] else None
        cell = dict(zip(("model", "target", "method", "seed"), rest, strict=False))
        self.write(name, self.params.section(phase, entry), inputs, cell)
        self.record(name, inputs)
        self.log(name, "")
        self.records.log(self.folder(name)).with_suffix(".tsv").touch()

    def write(self, name, params, inputs, cell):
        """Write the folder of one job."""
        manifest, phase = self.folder(name) / MANIFEST, name.split("/")[0]
        with write_folder(manifest, phase, cell=cell, params=params, inputs=inputs) as job:
            job.path("content.txt").write_text(f"of {name}", encoding="utf-8")

    def _inputs(self, name):
        phase, *rest = name.split("/")
        folder = self.folder(name)
        if folder in (reads := collected(self.params, self.results)):
            return {str(n): path.parent for n, path in enumerate(reads[folder])}
        if phase == "pretrain":
            own = rest[1].removeprefix("oracle-")
            read = ["prepare/shared", *([] if own == "full" else [f"prepare/{own}"])]
        elif rest == ["shared"]:
            read = []
        else:
            model, target = (rest[0], rest[1]) if len(rest) > 1 else (None, rest[0])
            words = {"model": model, "target": target, "cell": "/".join(rest[:4])}
            read = [text.format(**words) for text in INPUTS[phase]]
        found = {text.removesuffix("/shared").split("/")[0]: self.folder(text) for text in read}
        if phase in ("utility", "privacy"):
            key, first = {"utility": ("before", "none"), "privacy": ("reference", "oracle")}[phase]
            if rest[2] != first:
                found[key] = self.folder("/".join([phase, *rest[:2], first, rest[3]]))
        return found

    def record(self, name, inputs):
        """Snakemake's record of the job, with one source."""
        read = [*(a.folder / MANIFEST for a in inputs.values()), self.source]
        sums = {p.relative_to(self.root).as_posix(): f"sha256:{sha256(p)}" for p in read}
        file = self.records._file("metadata", self.folder(name))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"input_checksums": sums}), encoding="utf-8")

    def open(self, folder):
        """The folder of a job, opened."""
        return Artifact.open(folder / MANIFEST, folder.relative_to(self.results).parts[0])

    def log(self, name, text):
        """Write the log of a job, as of a run that has just begun."""
        log = self.records.log(self.folder(name))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text, encoding="utf-8")
        if log.with_suffix(".tsv").exists():
            os.utime(log.with_suffix(".tsv"), (0, 0))


@pytest.fixture(scope="session")
def finished(tmp_path_factory, mini_values):
    """A whole grid: one model and target, the original, the oracle and GA, one attack."""
    values = copy.deepcopy(mini_values)
    values["experiment"] = "x"
    values["grid"] |= {
        "targets": ["Ada"], "methods": ["none", "oracle", "ga"], "attacks": ["lens"]
    }  # fmt: skip
    values["report"]["compare"] = "ga"
    made = Grid(tmp_path_factory.mktemp("grid"), Params.model_validate(values))
    made.run()
    return made


@pytest.fixture
def grid(tmp_path, finished):
    """A copy of `finished`, of which a test may change anything."""
    shutil.copytree(finished.root, tmp_path, dirs_exist_ok=True)
    return Grid(tmp_path, finished.params)


@pytest.fixture
def change(finished):
    """A function that gives the parameters of `finished` with other values of its grid."""

    def change(**grid):
        new = finished.params.grid.model_copy(update=grid)
        return finished.params.model_copy(update={"grid": new})

    return change


@pytest.fixture
def reported(world, make_params, store, monkeypatch, ga_leaks):
    """A function that writes the cells of the original, the oracle and GA, and the report about
    them, and gives the results' folder; `extra` items are of all, other keywords GA's, as in
    `make_cell`."""

    def make(seeds=(0,), methods=METHODS, extra=(), **own):
        for method in methods:
            for seed in seeds:
                options = {"extra": extra} | ({} if method == "none" else {"leaks": ga_leaks})
                results = world(method, seed, **(options | own if method == "ga" else options))
        search = {"search.json": lambda path: write_json(path, [])}
        store("results/world/search/shared", "search", {"method": None}, files=search)
        store("results/world/pretrain/m/full", "pretrain", {"oracle_of": None})
        phases = ("rephrase", "utility", "privacy", "unlearn", "align", "pretrain", "search")
        found = {
            phase: [Artifact.open(p, phase) for p in sorted(results.glob(f"{phase}/**/{MANIFEST}"))]
            for phase in phases
        }
        monkeypatch.setattr(report, "_write_figures", draw_nothing)
        manifest = results / "report" / MANIFEST
        report.run(manifest, make_params(), report.ReportInputs(attack=[], **found))
        return results

    return make


def draw_nothing(job, *_):
    """Figures take most of a report's time."""
    for name in report.FIGURES:
        job.path(name).write_text("<svg >not drawn</svg>")
