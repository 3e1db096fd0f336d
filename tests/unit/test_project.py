"""What must agree across files: pins, lock, DVC stages and their modules, one word per phase."""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from atu.cli import app
from atu.config.dvc import dvc_text
from atu.config.params import PHASES, Params
from atu.results.sources import PACKAGE, phase_sources

ROOT = Path(__file__).parents[2]
RULES = ROOT / "workflow/rules"
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)$")


def pins(lines):
    found = {}
    for line in lines:
        match = PIN.match(line.strip())
        if match:
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


def locked():
    return pins((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())


def test_every_dependency_is_pinned_as_in_the_lock():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    found = pins(wanted)
    assert len(found) == len(wanted) > 20
    assert found.items() <= locked().items()


def test_conda_users_get_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pins(pip) == locked()
    assert len(pip) == len(locked())


def dvc():
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@pytest.mark.parametrize("phase", PHASES)
def test_one_word_per_phase(phase):
    """Section, module, subcommand, rule file, DVC stage and results folder have one name."""
    assert phase in Params.model_fields
    assert (PACKAGE / "phases" / f"{phase}.py").is_file()
    assert phase in [
        command.name or command.callback.__name__ for command in app.registered_commands
    ]
    rules = (ROOT / "workflow/rules" / f"{phase}.smk").read_text(encoding="utf-8")
    assert re.search(rf"^rule {phase}:", rules, re.MULTILINE)
    stage = dvc()[phase]
    assert stage["cmd"].endswith(f" {phase}")
    assert list(stage["outs"][0]) == ["results/${experiment}/" + phase]
    assert stage["outs"][0]["results/${experiment}/" + phase]["persist"] is True
    assert phase in stage["params"]


def test_dvc_is_as_generated():
    """Red when a module gains an import, until `make dvc`."""
    assert (ROOT / "dvc.yaml").read_text(encoding="utf-8") == dvc_text()


def test_sources_are_what_is_imported():
    """Worked by hand: align trains a predictor on embeddings, but reads no answers."""
    align = phase_sources("align")
    assert {
        "phases/align.py",
        "alignment/loop.py",
        "training/losses.py",
        "models/predictor.py",
    } <= set(align)
    assert "metrics/answers.py" not in align
    assert not [name for name in align if name.startswith(("config/", "cli/", "untrusted/"))]
    assert "benchmarks/world/world.yaml" in phase_sources("prepare")
    assert {"methods/atu.py", "methods/npo.py"} <= set(phase_sources("unlearn"))


def test_editing_utility_never_retrains_align():
    assert "phases/utility.py" not in phase_sources("align") + phase_sources("unlearn")


@pytest.mark.parametrize("phase", ["prepare", "pretrain", "embed", "align", "unlearn"])
def test_editing_an_evaluation_never_retrains_anything(phase):
    """No attack, no report and no phase that only measures is among the sources of training."""
    evaluating = ("attacks/", "privacy/", "reporting/")
    evaluating += ("phases/rephrase", "phases/privacy", "phases/attack")
    assert [name for name in phase_sources(phase) if name.startswith(evaluating)] == []


def test_an_attack_depends_on_every_attack():
    """They are found by looking in their package; no import names them."""
    every = {f"attacks/{path.name}" for path in (PACKAGE / "attacks").glob("*.py")}
    assert len(every) >= 8
    assert every <= set(phase_sources("attack"))
    assert {"models/quantise.py", "metrics/recovery.py", "alignment/loop.py"} <= set(
        phase_sources("attack")
    )


@pytest.mark.parametrize(
    ("phase", "folder", "plugin"),
    [("unlearn", "methods", "ga"), ("search", "methods", "ga"), ("attack", "attacks", "lens")],
)
def test_a_job_depends_on_its_own_plugin_alone(phase, folder, plugin):
    """Its module, the base and what finds them: a new method or attack reruns no other. All else
    is as for all of them."""
    own, every = set(phase_sources(phase, plugin)), set(phase_sources(phase))
    plugins = {name for name in own if re.fullmatch(rf"{folder}/\w+\.py", name)}
    assert plugins == {f"{folder}/{name}.py" for name in ("__init__", "base", plugin)}
    assert {f"phases/{phase}.py", "models/llm.py"} <= own < every


def test_what_only_one_plugin_imports_is_its_own():
    """And a method that imports another depends on that too."""
    assert "models/quantise.py" in phase_sources("attack", "quantise")
    assert "models/quantise.py" not in phase_sources("attack", "lens")
    methods = {name.stem for name in (PACKAGE / "methods").glob("[a-z]*.py")} - {"base"}
    assert {"ga", "npo", "atu"} <= methods
    for method in methods:
        assert f"methods/{method}.py" in phase_sources("unlearn", method)
    together = {name for method in methods for name in phase_sources("unlearn", method)}
    assert together == set(phase_sources("unlearn"))


def test_the_report_depends_on_the_columns_that_attacks_show():
    """And on everything in its own package; the page's template is no module."""
    sources = set(phase_sources("report"))
    every = {f"reporting/{path.name}" for path in (PACKAGE / "reporting").glob("*.py")}
    assert every | {"phases/report.html.jinja", "attacks/lens.py"} <= sources


def test_every_rule_of_a_cluster_has_its_resources():
    """Each rule that computes is either local or named in the profile."""
    profile = yaml.safe_load((ROOT / "cluster/config.yaml").read_text(encoding="utf-8"))
    snakefile = (ROOT / "Snakefile").read_text(encoding="utf-8")
    local = re.findall(r"^    (\w+),$", snakefile.split("localrules:")[1].split("\n\n")[0], re.M)
    computing = {
        name
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for name in re.findall(r"^rule (\w+_\w+):", path.read_text(encoding="utf-8"), re.M)
    }
    assert len(computing) > len(PHASES)
    assert computing == set(local) | set(profile["set-resources"])
    assert not set(local) & set(profile["set-resources"])


class Asked(dict):
    """A job's resources, as the plugin reads them: by name or by attribute."""

    __getattr__ = dict.__getitem__


def test_the_gpus_of_a_cluster_job_are_of_one_machine():
    """What the plugin makes of the profile for every rule. Red without `nodes`: SLURM may then take
    four GPUs from four machines, of which the job's processes see one."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command

    profile = yaml.safe_load((ROOT / "cluster/config.yaml").read_text(encoding="utf-8"))
    given = {"run_uuid": "x", "slurm_logfile": "x", "comment_str": "x", "account": "-A x"}
    for own in profile["set-resources"].values():
        resources = Asked(profile["default-resources"] | own | {"gpu": 4})
        job = SimpleNamespace(resources=resources, threads=1)
        command = get_submit_command(job, given | {"partition": "-p x", "workdir": "."})
        assert "--nodes=1" in command.split()
