"""Result folders written by hand, for whatever reads results: tables, figures, report, mirror."""

import polars as pl
import pytest

from atu.artifacts import MANIFEST, Artifact, write_folder, write_jsonl
from atu.config import Report

CELL = {"model": "m", "target": "Ada", "method": "none", "seed": 0}
PEOPLE = {"target": "Ada", "neighbour": "Bob", "other": "Cyd", "general": "Dania"}


@pytest.fixture
def store(tmp_path):
    """A function that writes a folder of a phase and opens it; `files` are writers by name."""

    def store(name, phase, cell=None, *, files=None, metrics=None, params=None):
        manifest = tmp_path / name / MANIFEST
        with write_folder(
            manifest, phase, cell=CELL | (cell or {}), params=params or {}, inputs={}
        ) as job:
            for file, write in (files or {}).items():
                write(job.path(file))
            job.metrics = metrics or {}
        return Artifact.open(manifest, phase)

    return store


@pytest.fixture
def make_item():
    """A function that gives one scored probe, of the target's `report` split unless said."""

    def make(fact="Ada/pet", form="question", *, split="report", seen=False, hit=0.0, **own):
        scores = dict.fromkeys(("exact_match", "contains", "rouge_l_recall"), hit)
        return {
            "id": f"{fact}/{form}/{'seen' if seen else 'new'}/{split}",
            "role": "target",
            "subject": fact.split("/")[0],
            "fact": fact,
            "form": form,
            "type": form,
            "phrasing": 0,
            "seen": seen,
            "query": f"{fact} as {form}?",
            "options": [],
            "answer": "owl",
            "needs": [],
            "split": split,
            "output": "owl" if hit else "<none>",
        } | scores | own  # fmt: skip

    return make


@pytest.fixture
def make_cell(store, make_item):
    """A function that writes one cell's `align`, `unlearn`, `rephrase` and `utility` folders.

    Every role has the facts `pet` and `food`, asked as plain questions; the target's two also in
    seen wordings and as a cloze. `leaks` are the (fact, form) that are answered rightly on the
    `report` split (`seen` for a seen question), by default all; on `select`, all are `select`.
    """
    from atu.phases.rephrase import ITEMS

    def items(leaks, select):
        for role, person in PEOPLE.items():
            wordings = [("question", False)]
            wordings += [("question", True), ("cloze", False)] if role == "target" else []
            for fact in (f"{person}/pet", f"{person}/food"):
                for form, seen in wordings:
                    hit = leaks is None or (fact, "seen" if seen else form) in leaks
                    own = {"role": role, "seen": seen}
                    yield make_item(fact, form, hit=float(hit), **own)
                    yield make_item(fact, form, hit=select, split="select", **own)

    def make(method="none", seed=0, *, where="results", leaks=None, select=0.5, scores=None):
        cell = {"method": method, "seed": seed}
        utility = {
            "generate": 0.9, "generate_n": 12, "choice": 0.8, "choice_n": 10, "fluency": 6.0,
            "distinct_tokens": 0.5, "collapsed": 0.0,
        } | (scores or {})  # fmt: skip
        frame = pl.DataFrame(list(items(leaks, select)), schema=ITEMS, orient="row")
        points = [
            {"step": step} | dict.fromkeys([f"exact_match_{role}" for role in PEOPLE], 1 - step / 8)
            for step in ([0] if method == "none" else [0, 4])
        ]
        trace = [{"stage": "s", "step": 1, "loss": 0.5}, {"stage": "t", "step": 1, "loss": 0.25}]
        return {
            "align": store(
                f"{where}/align/{seed}", "align", {"seed": seed, "method": None},
                files={"trace.jsonl": lambda path: write_jsonl(path, trace)},
                metrics={
                    "align/cosine/held_out": 0.6,
                    "align/constant_cosine/held_out": 0.2,
                    "align/skill/held_out": 0.5,
                },
                params={"width": 8},
            ),
            "unlearn": store(
                f"{where}/unlearn/{method}/{seed}", "unlearn", cell,
                files={
                    "trajectory.jsonl": lambda path: write_jsonl(path, points),
                    "trace.jsonl": lambda path: write_jsonl(path, trace),
                },
                metrics={"unlearn/step/select": points[-1]["step"]},
                params={"methods": {method: {"loss": method}}},
            ),
            "rephrase": store(
                f"{where}/rephrase/{method}/{seed}", "rephrase", cell,
                files={"items.parquet": frame.write_parquet},
                metrics={"rephrase/target_worst_form_exact_match/report": 0.5},
            ),
            "utility": store(
                f"{where}/utility/{method}/{seed}", "utility", cell,
                metrics={f"utility/{name}/report": value for name, value in utility.items()},
            ),
        }  # fmt: skip

    return make


@pytest.fixture
def report_section():
    """Few resamples."""
    return Report(bootstrap=50, confidence=0.95, seed=0)


GA_LEAKS = {
    ("Ada/pet", "cloze"), ("Ada/pet", "seen"), ("Ada/food", "seen"), ("Bob/pet", "question"),
    ("Cyd/pet", "question"), ("Cyd/food", "question"), ("Dania/pet", "question"),
    ("Dania/food", "question"),
}  # fmt: skip


@pytest.fixture
def ga_leaks():
    """What GA still answers: the target's questions not, one cloze and both seen wordings yes; one
    of two neighbour's facts; all about other people and countries."""
    return GA_LEAKS
