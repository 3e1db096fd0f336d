"""A method and an attack of another package: installed, named in the parameters, and run."""

import copy
import re
import sys
from pathlib import Path

import pytest
import yaml
from machines import CPU

from atu import attacks, methods
from atu.config.params import Params
from atu.errors import ConfigError
from atu.phases import attack, unlearn
from atu.results import sources
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.sources import phase_sources
from atu.results.tables import read_frame

PAGE = Path(__file__).parents[2] / "docs/add-a-method.md"
ATTACK = '''
"""Shouting: the questions in capital letters."""

from dataclasses import dataclass
from typing import Literal

from atu.attacks.base import Attack, Column, Result, answer_items
from garden.words import louder


@dataclass(frozen=True)
class Settings:
    attack: Literal["shout"]


def run(context):
    probes = context.questions("target")
    prompts = [louder(probe["prompt"]) for probe in probes]
    return Result(answer_items(context, context.model, probes, "shouted", prompts))


def columns(settings):
    return [Column("shouted", ("shouted",))]


ATTACK = Attack(Settings, run, columns)
'''
FILES = {
    "garden/__init__.py": "",
    "garden/words.py": "louder = str.upper\n",
    "garden/shout.py": ATTACK,
    "garden-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: garden\nVersion: 1.0\n",
    "garden-1.0.dist-info/entry_points.txt": (
        "[atu.methods]\nflatten = garden.flatten:METHOD\n"
        "[atu.attacks]\nshout = garden.shout:ATTACK\n"
    ),
}


def forget():
    """Look for plug-ins again."""
    for module in (methods, attacks):
        module.registry.cache_clear()
    sources._tree.cache_clear()
    sources._imports.cache_clear()


@pytest.fixture(scope="module")
def page():
    """The method of docs/add-a-method.md and its section."""
    text = PAGE.read_text(encoding="utf-8")
    code, section = (re.search(rf"```{k}\n(.*?)```", text, re.DOTALL) for k in ("python", "yaml"))
    return code[1], yaml.safe_load(section[1])


@pytest.fixture
def garden(tmp_path, monkeypatch, page):
    """The folder of an installed package with both."""
    for name, text in (FILES | {"garden/flatten.py": page[0]}).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield tmp_path / "garden"
    for name in [name for name in sys.modules if name.split(".")[0] == "garden"]:
        del sys.modules[name]
    forget()


@pytest.fixture
def values(mini_values, page):
    """The miniature's parameters with both, the method shortened."""
    values = copy.deepcopy(mini_values)
    short = page[1]["flatten"] | {"steps": 2, "evaluations": 1}
    values["unlearn"]["methods"]["flatten"] = short
    values["attack"]["attacks"]["shout"] = {"attack": "shout"}
    return values


def test_they_run_like_any_other(garden, values, chain, tmp_path):
    params = Params.model_validate(values).model_copy(update={"compute": CPU})
    inputs = unlearn.UnlearnInputs(chain.full, chain.prepared, None, None)
    made = tmp_path / "unlearn" / MANIFEST
    unlearn.run(made, params.unlearn, CPU, "flatten", 0, inputs)
    unlearned = Artifact.open(made, "unlearn")
    assert unlearned.manifest["params"] == params.section("unlearn", "flatten")
    assert unlearned.metrics()["unlearn/model_steps/all"] == 2
    assert [row["stage"] for row in unlearned.read_jsonl("trace.jsonl")] == ["stretch 1"] * 2
    out = tmp_path / "attack" / MANIFEST
    attack.run(out, params.attack, CPU, "shout", unlearned, chain.prepared, None, None)
    found = read_frame(Artifact.open(out, "attack").file("items.parquet"))
    assert set(found["condition"]) == {"shouted"}
    assert len(found)


def test_their_files_are_sources_of_their_own_jobs(garden):
    """What they import of their package too; and of no other job."""
    inside = {f"{garden}/{name}.py" for name in ("shout", "words")}
    assert inside <= set(phase_sources("attack", "shout", "flatten", "answers"))
    assert f"{garden}/flatten.py" in phase_sources("unlearn", "flatten", "answers")
    for job in (("attack", "lens", "ga"), ("unlearn", "ga"), ("unlearn",), ("attack",)):
        assert not [name for name in phase_sources(*job) if "garden" in name]


def test_what_is_not_named_does_not_run(garden, mini_values):
    Params.model_validate(mini_values)
    phase_sources("unlearn", "ga")
    assert {"flatten", "shout"} <= {*methods.registry(), *attacks.registry()}
    assert "garden" not in sys.modules


def test_what_is_not_installed_is_unknown(values):
    with pytest.raises(ConfigError, match=r"flatten.*unknown; known are altpo, atu, "):
        Params.model_validate(values)
