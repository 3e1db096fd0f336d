"""What must agree across files: pins, lock, DVC stages and their modules, one word per phase."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from atu.cli import app
from atu.config import PHASES, Params
from atu.sources import INFRASTRUCTURE, PACKAGE, phase_sources

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("phase", PHASES)
def test_dvc_depends_on_the_modules_of_the_phase(phase):
    """Red when a module gains an import that dvc.yaml does not list."""
    listed = {dep for dep in dvc()[phase]["deps"] if dep.startswith("src/")}
    assert listed == {f"src/atu/{name}" for name in phase_sources(phase)}


def test_sources_are_what_is_imported():
    """Worked by hand: align trains a predictor on embeddings, but reads no answers."""
    align = phase_sources("align")
    assert {"phases/align.py", "alignment.py", "losses.py", "models/predictor.py"} <= set(align)
    assert "metrics/answers.py" not in align
    assert not {f"{name}.py" for name in INFRASTRUCTURE} & set(align)
    assert "data/world.yaml" in phase_sources("prepare")
    assert {"methods/atu.py", "methods/npo.py"} <= set(phase_sources("unlearn"))


def test_editing_utility_never_retrains_align():
    assert "phases/utility.py" not in phase_sources("align") + phase_sources("unlearn")
