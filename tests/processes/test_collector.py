"""The collector under load: processes that write traces, and other collectors."""

import copy
import io
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter

import polars as pl
import pytest
import yaml
from servers import until

from atu.config.cells import CELL_PHASES, grid_cells, manifest_path, open_cells
from atu.config.params import Params, method_names
from atu.errors import ArtifactError
from atu.phases import track
from atu.phases.rephrase import ITEMS
from atu.reporting.names import FIGURES
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.jobs import write_folder
from atu.tracking.mirror import mirror
from atu.tracking.records import RunRecord

STEPS = 200
NO_ITEMS = io.BytesIO()
"""Written once, here: a forked process that uses polars' threads waits for ever."""
pl.DataFrame(schema=ITEMS).write_parquet(NO_ITEMS)
FORK = multiprocessing.get_context("fork")
"""Processes that do not import torch anew."""


@pytest.fixture(scope="module")
def params(mini_values):
    """Eight cells: four methods, two seeds."""
    values = copy.deepcopy(mini_values)
    values["grid"] |= {"attacks": [], "seeds": [0, 1]}
    return values


def trace(cell, generation):
    """Rows whose numbers say of which cell and generation they are; a later one is longer."""
    sign = hash(cell) % 1000 + 1000 * generation
    return [
        {"stage": "s", "step": 1, "loss": sign + 1 / step, "norm": -1 / step - sign}
        for step in range(1, STEPS + 10 * generation + 1)
    ]


def write_traced(manifest, phase, cell, rows, inputs):
    """A job's folder; its trace grows row by row, as training does, and is seen to."""
    keys = {k: getattr(cell, k) for k in ("model", "target", "method", "seed")}
    with write_folder(manifest, phase, cell=keys, params={}, inputs=inputs) as job:
        with job.path("trace.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, sort_keys=True) + "\n")
                file.flush()
        if phase == "rephrase":
            job.path("items.parquet").write_bytes(NO_ITEMS.getvalue())
        job.metrics = {f"{phase}/number/all": len(rows)}
    return Artifact.open(manifest, phase)


def write_cell(results, cell, generation):
    """All folders of a cell; the alignment, which methods share, with the first of them."""
    path = manifest_path(results, "align", cell)
    if cell.method == "none":
        write_traced(path, "align", cell, [], {})
    before = {}
    for phase in CELL_PHASES:
        rows = trace(cell, generation) if phase == "unlearn" else []
        made = write_traced(manifest_path(results, phase, cell), phase, cell, rows, before)
        before = {phase: made}


class Writers:
    """One process per cell, writing its folders again and again until `stop`."""

    def __init__(self, results, cells):
        self.generation = [FORK.Value("i", 0) for _ in cells]
        self.written = [FORK.Value("i", 0) for _ in cells]
        self._over = FORK.Event()
        self.processes = [
            FORK.Process(target=self._write, args=(results, cell, number), daemon=True)
            for number, cell in enumerate(cells)
        ]

    def _write(self, results, cell, number):
        while not self._over.is_set():
            write_cell(results, cell, self.generation[number].value)
            self.written[number].value += 1

    def all_write(self):
        """Wait until each has written its cell once more, from the beginning."""
        before = [count.value for count in self.written]
        until(
            lambda: all(now.value >= b + 2 for now, b in zip(self.written, before, strict=True)),
            "a cell of every process",
        )

    def __enter__(self):
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for process in self.processes:
            process.join(30)
            assert process.exitcode == 0


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results/miniature"


@pytest.fixture
def store(tmp_path, monkeypatch, new_database):
    """An empty SQLite store; returns a function that reads every active run: id and points."""
    path = tmp_path / "store.db"
    shutil.copy(new_database, path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")

    def read():
        with sqlite3.connect(path) as database:
            runs = database.execute(
                "select value, runs.run_uuid, status from runs join tags using (run_uuid) "
                "where tags.key = 'atu.cell' and lifecycle_stage = 'active'"
            ).fetchall()
            points = {
                run: Counter(
                    database.execute(
                        "select key, step, value from metrics where run_uuid = ?", [run]
                    ).fetchall()
                )
                for _, run, _ in runs
            }
        assert {status for *_, status in runs} <= {"FINISHED"}
        assert len({cell for cell, *_ in runs}) == len(runs)
        return {cell: (run, points[run]) for cell, run, _ in runs}

    return read


def write_report(params, results):
    """A report's folder with stand-ins for what it shows, made from the cells as they are."""
    inputs = {
        f"{phase}/{number}": artifact
        for number, cell in enumerate(open_cells(params, results))
        for phase, artifact in cell.items()
    }
    with write_folder(
        results / "report" / MANIFEST, "report", cell={"experiment": "miniature"}, params={},
        inputs=inputs,
    ) as job:  # fmt: skip
        for name in (*FIGURES, "report.html", "table.md"):
            job.path(name).write_text("x", encoding="utf-8")
        job.path("cells.csv").write_text("model,target,method,seed\n", encoding="utf-8")
        job.path("verdicts.json").write_text("{}", encoding="utf-8")


def collect(params, results):
    """What `atu track` does."""
    report = Artifact.open(results / "report" / MANIFEST, "report")
    cells = open_cells(params, results)
    track.run(
        results / "track" / MANIFEST, params.track,
        report=report, cells=cells, names=method_names(params),
    )  # fmt: skip


def collect_between(params, results):
    """Again and again until it succeeds: a folder may just be replaced, which must be said."""
    while True:
        try:
            collect(params, results)
            return
        except ArtifactError as error:
            assert "missing" in str(error) or "altered" in str(error)


def expected(cells, generations):
    """Per cell every point that its trace and metrics have."""
    found = {"report": Counter()}
    for cell, generation in zip(cells, generations, strict=True):
        rows = trace(cell, generation)
        finals = {"align": 0, "rephrase": 0, "utility": 0, "privacy": 0, "unlearn": len(rows)}
        found[f"{cell.model}/{cell.target}/{cell.method}/{cell.seed}"] = Counter(
            [(f"{phase}/number all", 0, float(n)) for phase, n in finals.items()]
            + [
                (f"unlearn.trace/{key}", number + 1, row[key])
                for number, row in enumerate(rows)
                for key in ("loss", "norm")
            ]
        )
    return found


def test_eight_processes_write_while_the_collector_runs(params, results, store):
    """Whole runs only, each once, with every point once; and no run of two states."""
    params = Params.model_validate(params)
    cells = list(grid_cells(params))
    with Writers(results, cells) as writers:
        assert len(writers.processes) == 8
        writers.all_write()
        write_report_between(params, results)
        before = [count.value for count in writers.written]
        collect_between(params, results)
        first = store()
        assert {cell: points for cell, (_, points) in first.items()} == expected(cells, [0] * 8)
        writers.all_write()
        collect_between(params, results)
        assert store() == first
        assert all(now.value > b for now, b in zip(writers.written, before, strict=True))

        writers.generation[5].value = 1
        writers.all_write()
    with pytest.raises(ArtifactError, match=r"not the one that .* was made from"):
        collect(params, results)
    assert store() == first
    write_report(params, results)
    collect(params, results)
    second = store()
    generations = [int(number == 5) for number in range(8)]
    assert {cell: points for cell, (_, points) in second.items()} == expected(cells, generations)
    changed = [cell for cell, (run, _) in second.items() if first[cell][0] != run]
    assert len(changed) == 1


def write_report_between(params, results):
    while True:
        try:
            write_report(params, results)
            return
        except ArtifactError as error:
            assert "missing" in str(error)


def test_collectors_of_several_folders_share_one_database(tmp_path, store):
    """Four at once, each three times: none finds the database locked, nothing is lost."""
    curve = [("loss", step, 1 / step) for step in range(1, 1500)]

    def run(number):
        for again in range(3):
            records = [RunRecord(f"{number}/{n}", "x", {"again": str(again)}, {}, curve)
                       for n in range(3)]  # fmt: skip
            mirror(records, f"experiment {number}", tmp_path / str(number))

    processes = [FORK.Process(target=run, args=(number,)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    found = store()
    assert set(found) == {f"{number}/{n}" for number in range(4) for n in range(3)}
    assert all(points == Counter(curve) for _, points in found.values())


def test_a_second_collector_is_refused_until_the_first_is_gone(params, results, store, tmp_path):
    """The first waits for a server that never answers; SIGKILL of it leaves no lock behind."""
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(params), encoding="utf-8")
    params = Params.model_validate(params)
    for cell in grid_cells(params):
        write_cell(results, cell, 0)
    write_report(params, results)
    command = [sys.executable, "-m", "atu", "track", "--params", str(file)]
    command += ["--results", str(results), "--out", str(results / "track" / MANIFEST)]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        first = subprocess.Popen(
            command, env=os.environ | {"MLFLOW_TRACKING_URI": uri}, stderr=subprocess.DEVNULL
        )
        silent.settimeout(90)
        with silent.accept()[0]:
            with pytest.raises(ArtifactError, match="is writing track; wait for it"):
                collect(params, results)
            first.send_signal(signal.SIGKILL)
            first.wait()
    assert not (results / "track").exists()
    collect(params, results)
    assert len(store()) == 9
