"""Every phase on every public benchmark, miniature: what one of them lacks stops none.

RWKU has neither oracle nor wrong answers nor texts held out, WMDP not even a plain question or
anything that is to be kept; TOFU and MUSE are trained on.
"""

import copy

import polars as pl
import pytest
from machines import CPU
from made import models
from made.experiments import TARGETS, sources

from atu.config.fetching import fetch
from atu.config.params import Params
from atu.metrics import memorisation as memo
from atu.metrics.answers import exact_match
from atu.metrics.muse_knowledge import muse_knowledge_fixed
from atu.metrics.rwku_recall import rwku_rouge_l_recall_fixed
from atu.metrics.tofu_recall import tofu_rouge_l_recall_fixed
from atu.phases import (
    align,
    embed,
    prepare,
    pretrain,
    privacy,
    rephrase,
    report,
    search,
    unlearn,
    utility,
)
from atu.privacy.answers import ANSWERS
from atu.results.artifacts import MANIFEST, Artifact

BUILT = ("tofu", "muse")
"""Benchmarks that models are trained on."""


def parameters(folder, name, values):
    """The miniature with this benchmark, with a pinned model where none is trained on it."""
    values = copy.deepcopy(values)
    built = name in BUILT
    methods = ["none", *(["oracle"] if built else []), "atu"]
    values["grid"] |= {"targets": [TARGETS[name]], "methods": methods, "attacks": []}
    values["search"] |= {"targets": [TARGETS[name]], "spaces": {}}
    values["report"]["compare"] = "atu"
    values["prepare"] = {"benchmark": name, "select": 0.5} | sources(folder, name)
    if not built:
        place = models.write_model(folder / "model", "llama", layers=3)
        source = {"place": str(place), "revision": None, "lock": str(folder / "model.json")}
        values["pretrain"]["models"] = {"llama_tiny": {"source": source, "finetune": False}}
    params = Params.model_validate(values)
    assert all(fetch(params, offline=True, update=False))
    return Params.model_validate(values)


class Runner:
    """Runs phases below a folder, each job in its own, and keeps what they wrote."""

    def __init__(self, folder, params):
        self.folder, self.params, self.built = folder, params, params.prepare.benchmark in BUILT
        self.done = {phase: {} for phase in ("unlearn", "rephrase", "utility", "privacy")}

    def job(self, module, name, *inputs, run="run"):
        out = self.folder / module.PHASE / name / MANIFEST
        getattr(module, run)(out, *inputs)
        return Artifact.open(out, module.PHASE)

    def prepare(self):
        """The corpora, the model and its oracle, and an aligned predictor."""
        params, (target,) = self.params, self.params.grid.requests()
        shared = self.job(prepare, "shared", params.prepare, run="run_shared")
        own = self.job(prepare, "one", params.prepare, target, shared, run="run_target")
        model = (params.pretrain, CPU, "llama_tiny", shared)
        self.prepared, self.full = own, self.job(pretrain, "full", *model, None)
        self.oracle = self.job(pretrain, "oracle", *model, own) if self.built else None
        self.embedded = self.job(embed, "one", params.embed, CPU, self.full, own)
        inputs = (params.align, CPU, 0, self.full, self.embedded, own)
        self.aligned = self.job(align, "one", *inputs)

    def cell(self, name):
        """One method, measured."""
        params, prepared = self.params, self.prepared
        aligned = (self.embedded, self.aligned) if name == "atu" else (None, None)
        lm = self.oracle if name == "oracle" else self.full
        inputs = unlearn.UnlearnInputs(lm, prepared, *aligned)
        cell = self.job(unlearn, name, params.unlearn, CPU, name, 0, inputs)
        asked = self.job(rephrase, name, params.rephrase, CPU, cell, prepared)
        before = self.done["utility"].get("none")
        useful = self.job(utility, name, params.utility, CPU, cell, prepared, before)
        reference = self.done["privacy"].get("oracle")
        known = (prepared, asked, reference, not self.built)
        told = self.job(privacy, name, params.privacy, CPU, cell, *known)
        for phase, found in zip(self.done, (cell, asked, useful, told), strict=True):
            self.done[phase][name] = found

    def report(self):
        table = self.job(search, "all", self.params.search, [], run="run_shared")
        cells = {phase: list(found.values()) for phase, found in self.done.items()}
        inputs = report.ReportInputs(
            **cells, align=[self.aligned], pretrain=[self.full], attack=[], search=[table]
        )
        self.page = self.job(report, "all", self.params, inputs)


@pytest.fixture(scope="module", params=list(TARGETS))
def chain(request, tmp_path_factory, mini_values):
    """A benchmark's name, and everything that was run on it."""
    folder = tmp_path_factory.mktemp(request.param)
    runner = Runner(folder / "results", parameters(folder, request.param, mini_values))
    runner.prepare()
    order = ["none", "oracle", "atu"] if runner.built else ["none", "atu"]
    for name in sorted(order, key=lambda name: name != "oracle"):
        runner.cell(name)
    runner.report()
    return request.param, runner


COLUMNS = {
    "rwku": "target questions (n) | target, worst form (n) | neighbours (n) | BBH | MMLU",
    "tofu": "target questions (n) | target, worst form (n) | neighbours (n) | other people (n) | "
    "general facts (n) | generation",
    "muse": "target questions (n) | target, worst form (n) | other people (n) | generation",
    "wmdp": "target, worst form (n) | wmdp_bio",
}
"""What the main table begins with: what the benchmark asks, and the utility tasks it has."""
PRIVACY = {
    "rwku": set(),
    "tofu": {"quality", "utility", "leak"},
    "muse": {"leak", "verbatim"},
    "wmdp": {"verbatim"},
}
"""Which numbers there are: TOFU's two, MUSE's PrivLeak, and continued passages."""
NUMBERS = {
    "quality": f"privacy/target.{memo.tofu_truth_ratio.id}.{memo.tofu_forget_quality.id}/report",
    "utility": f"privacy/all.{memo.tofu_model_utility.id}/report",
    "leak": f"privacy/forget.{memo.muse_priv_leak.id}/report",
    "verbatim": f"privacy/passage.{memo.muse_verbatim.id}/report",
}


def test_the_report_has_what_the_benchmark_asks(chain):
    name, found = chain
    table = (found.page.folder / "table.md").read_text(encoding="utf-8")
    assert table.startswith(f"| method | {COLUMNS[name]}")
    assert (found.page.folder / "report.html").stat().st_size > 10_000


def test_privacy_has_what_the_benchmark_can_say(chain):
    """RWKU's passages are told in its membership texts, which are passages too."""
    name, found = chain
    metrics = found.done["privacy"]["atu"].metrics()
    expected = PRIVACY[name] | ({"verbatim"} if name == "rwku" else set())
    assert {label for label, key in NUMBERS.items() if key in metrics} == expected
    if name == "muse":
        assert metrics["privacy/passage.n/report"] == 3


def test_answers_have_the_same_columns_everywhere(chain):
    """Of WMDP there is none: it has no plain question."""
    name, found = chain
    answers = pl.read_parquet(found.done["privacy"]["atu"].file("answers.parquet"))
    assert dict(answers.schema) == ANSWERS
    assert answers.is_empty() is (name == "wmdp")


def test_only_what_is_asked_is_averaged(chain):
    name, found = chain
    metrics = found.done["rephrase"]["atu"].metrics()
    roles = {key.split("/")[1].split(".")[0] for key in metrics}
    assert (
        roles
        == {
            "rwku": {"target", "neighbour"},
            "tofu": {"target", "neighbour", "other", "general"},
            "muse": {"target", "other"},
            "wmdp": {"target"},
        }[name]
    )


def test_numbers_are_named_after_the_benchmarks_measure(chain):
    """That of TOFU and MUSE is not among the scores that every item has."""
    name, found = chain
    form = "choice" if name == "wmdp" else "question"
    measure = {
        "rwku": rwku_rouge_l_recall_fixed.id, "tofu": tofu_rouge_l_recall_fixed.id,
        "muse": muse_knowledge_fixed.id, "wmdp": exact_match.id,
    }[name]  # fmt: skip
    metrics = found.done["rephrase"]["atu"].metrics()
    assert {f"rephrase/target.{part}.{measure}/report" for part in (form, "worst")} <= set(metrics)


def test_the_oracle_is_asked_what_it_never_saw(chain):
    """And the model that saw everything is not asked anything as unseen."""
    name, found = chain
    unseen = "pretrain/exact_match_unseen_question/held_out"
    assert unseen not in found.full.metrics()
    if name in BUILT:
        assert unseen in found.oracle.metrics()
