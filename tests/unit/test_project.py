"""What must agree across files: pins, lock, DVC stages and their modules, one word per phase."""

import ast
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from atu import attacks, benchmarks, methods
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
    docs, dev = (project["optional-dependencies"][extra] for extra in ("docs", "dev"))
    assert "atu[docs]" in dev
    wanted = project["dependencies"] + docs + [entry for entry in dev if entry != "atu[docs]"]
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


def test_the_report_depends_on_the_columns_that_attacks_show():
    """And on everything in its own package but what notebooks read; the page's template, style and
    script are no modules."""
    sources = set(phase_sources("report"))
    every = {f"reporting/{path.name}" for path in (PACKAGE / "reporting").glob("*.py")}
    every -= {"reporting/frames.py"}
    every |= {f"reporting/page.{end}" for end in ("html.jinja", "css", "js")}
    assert every | {"attacks/lens.py"} <= sources


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


ROLES_AND_PRESETS = {
    "config/roles.py", "methods/base.py", "forget/experiment.py", "audit/experiment.py",
}  # fmt: skip
"""Where names may stand: the two rows that are no methods, and the settings of `atu forget` and
`atu audit`."""
WORDS = {"atu", "concept", "context", "none", "wmdp"}
"""Names that also mean something else: this package, what is forgotten, a filter of lm-eval, a kind
of utility task."""


def test_what_is_particular_to_a_plugin_stands_in_its_file():
    """No other file decides by the name of a method, an attack or a benchmark."""
    kinds = {"methods": methods, "attacks": attacks, "benchmarks": benchmarks}
    names = {name for kind in kinds.values() for name in kind.registry()} - WORDS
    assert len(names) > 20
    found = {}
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        own = place.parts[0] in kinds and names & {place.stem, *place.parts}
        if own or place.as_posix() in ROLES_AND_PRESETS:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        literals = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        if said := literals & names:
            found[place.as_posix()] = said
    assert found == {"untrusted/targets.py": {"oracle"}}
