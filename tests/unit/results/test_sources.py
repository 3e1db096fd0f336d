"""What each phase's result depends on: no evaluation formula, no guard, method, attack or benchmark
but its own; and an import that would bring one in is found."""

import re
import shutil
from pathlib import Path

import pytest

from atu import attacks, benchmarks, methods
from atu.metrics.registry import registry
from atu.probes.measures import MEASURES, measure
from atu.results import sources
from atu.results.sources import PACKAGE, phase_sources

DECIDED_BY = {
    "metrics/selection.py", "metrics/worst_form.py", "metrics/sampling.py", "metrics/answers.py",
}  # fmt: skip
"""The formulas by which unlearning on the world stops and chooses: its own score, and the measure
of the world's probes."""
RELEARNED = {"metrics/recovery.py"}
"""The formulas of what a search may ask besides."""
EVALUATING = r"phases/(rephrase|utility|privacy|attack|report)|privacy/|reporting/|attacks/"
KINDS = r"models/guards/(?!__init__|base)"
LOSSES = r"training/losses|methods/"
JOBS = {
    ("prepare", "tofu"): f"{EVALUATING}|models/|methods/|benchmarks/(?!__init__|base|sh|tofu)",
    ("prepare", "muse"): f"{EVALUATING}|models/|methods/|benchmarks/(?!__init__|base|muse)",
    ("prepare", "world"): f"{EVALUATING}|models/|methods/|benchmarks/(?!__init__|base|world/)",
    ("pretrain",): f"{EVALUATING}|benchmarks/|{KINDS}|{LOSSES}",
    ("embed",): f"{EVALUATING}|benchmarks/|{KINDS}|{LOSSES}|training/likelihood",
    ("align",): f"{EVALUATING}|benchmarks/|{KINDS}|{LOSSES}",
    ("search", "ga", "answers"): f"{EVALUATING}(?!base|relearn)|benchmarks/|{KINDS}"
    "|methods/(?!__init|base|ga|sh)",
    ("unlearn", "ga", "answers"): f"{EVALUATING}|benchmarks/|{KINDS}|methods/(?!__init|base|ga|sh)",
    ("unlearn", "eco", "answers"): f"{EVALUATING}|benchmarks/|models/guards/logit",
    ("rephrase", "uld", "answers"): f"benchmarks/|methods/|models/guards/embed|{LOSSES}",
    ("privacy", "ga", "answers"): f"benchmarks/|methods/|{KINDS}|{LOSSES}",
    ("attack", "lens", "eco", "answers"): r"attacks/(?!__|base|lens)|models/guards/logit|methods/",
}  # fmt: skip
"""Jobs, as their rules name them: what must not be among their sources."""
FORMULAS = {
    f"metrics/{entry.function.__module__.rpartition('.')[2]}.py" for entry in registry().values()
}
"""The files that define a metric."""


def violations(job):
    """Sources of a job that it must not have."""
    found = phase_sources(*job)
    bad = {name for name in found if re.match(JOBS[job], name)}
    if job[0] in ("prepare", "pretrain", "embed", "align"):
        bad |= FORMULAS.intersection(found)
    if job[0] in ("search", "unlearn"):
        bad |= FORMULAS.intersection(found) - DECIDED_BY
    return bad - RELEARNED if job[0] == "search" else bad


@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_a_job_depends_on_what_decides_its_result_only(job):
    assert violations(job) == set()


def test_the_formulas_are_seen():
    """Else nothing would be found among the sources."""
    assert len(FORMULAS) > 12
    assert {"metrics/memorisation.py", *DECIDED_BY} <= FORMULAS


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """A function that adds a line to a module of a copy of the package, whose sources are asked."""
    copy = tmp_path / "atu"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "PACKAGE", copy)

    def plant(module, line):
        path = copy / module
        path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{line}\n", encoding="utf-8")
        forget()

    def forget():
        sources._tree.cache_clear()
        sources._imports.cache_clear()

    yield plant
    forget()


@pytest.mark.parametrize(
    ("job", "module", "line", "brought"),
    [
        (("prepare", "tofu"), "benchmarks/base.py",
         "from atu.metrics.answers import exact_match", {"metrics/answers.py"}),
        (("prepare", "tofu"), "benchmarks/tofu.py",
         "from atu.benchmarks import muse", {"benchmarks/muse.py"}),
        (("pretrain",), "inference/generation.py",
         "from atu.benchmarks.world import forms",
         {"benchmarks/world/__init__.py", "benchmarks/world/forms.py", "benchmarks/world/people.py",
          "benchmarks/world/texts.py", "benchmarks/world/world.yaml", "benchmarks/base.py"}),
        (("embed",), "training/batches.py",
         "from atu.training.losses import kl_to_reference", {"training/losses.py"}),
        (("align",), "models/llm.py",
         "def f():\n    from atu.models.guards.embedding_noise import EmbeddingNoise",
         {"models/guards/embedding_noise.py"}),
        (("unlearn", "ga", "answers"), "unlearning/trajectory.py",
         "import atu.metrics.membership", {"metrics/membership.py"}),
        (("search", "ga", "answers"), "methods/ga.py",
         "from . import npo", {"methods/npo.py"}),
    ],
)  # fmt: skip
def test_a_planted_import_is_found(plant, job, module, line, brought):
    plant(module, line)
    assert brought <= violations(job)


def test_files_that_are_no_modules():
    """A module that names a file beside it depends on it."""
    assert "benchmarks/world/world.yaml" in phase_sources("prepare", "world")
    assert "benchmarks/world/world.yaml" not in phase_sources("prepare", "tofu")
    assert "reporting/page.html.jinja" in phase_sources("report")


def test_without_a_name_all_plugins_count():
    """As for a DVC stage, which is one for all jobs of its phase."""
    every = {
        "methods": (methods, "unlearn"),
        "attacks": (attacks, "attack"),
        "benchmarks": (benchmarks, "prepare"),
    }
    for package, (module, phase) in every.items():
        found = phase_sources(phase)
        for name in module.registry():
            assert {f"{package}/{name}.py", f"{package}/{name}/__init__.py"} & set(found), name
    assert {f"metrics/{home}.py" for home in MEASURES.values()} <= set(phase_sources("unlearn"))
    assert "models/guards/embedding_noise.py" in phase_sources("unlearn")
    assert "models/guards/embedding_noise.py" in phase_sources("rephrase")


def test_all_jobs_of_a_phase_are_its_stage():
    """Nothing that a job depends on is missing from the whole phase's sources."""
    homes = sorted(set(MEASURES.values()))
    together = {f for name in methods.registry() for f in phase_sources("unlearn", name, *homes)}
    assert together == set(phase_sources("unlearn"))


def test_what_only_one_plugin_imports_is_its_own():
    assert "models/quantise.py" in phase_sources("attack", "quantise", "ga")
    assert "models/quantise.py" not in phase_sources("attack", "lens", "ga")


@pytest.mark.parametrize("name", MEASURES)
def test_measures_are_where_they_are_said_to_be(name):
    found = measure(name)
    assert found.id == name
    assert found.function.__module__ == f"atu.metrics.{MEASURES[name]}"


def test_every_benchmark_names_its_measures():
    """Its jobs depend on these files, so none may be missing; the world goes by exact match."""
    for name, benchmark in benchmarks.registry().items():
        assert benchmark.measures, name
        assert set(benchmark.measures) <= set(MEASURES), name
    assert benchmarks.get("world").measures == ("exact_match@own-2",)
    assert Path(measure("exact_match@own-2").function.__code__.co_filename).name == "answers.py"
