"""Every shipped experiment on a tiny model of its architecture and files of its schema: each is
planned, one is run. Every benchmark's phases are in `unit/benchmarks/test_phases.py`.
"""

import json
import re

import pytest
from made.experiments import SHAPES, shipped, shrink
from trees import ROOT, copy_tree

from atu.config.fetching import fetch
from atu.config.load import load_params
from atu.config.params import Params

HUB = sorted(SHAPES)
LAPTOP = ("rwku_smollm2", "tofu_smollm2")
"""Of a small real model, with locks that are committed."""
RUN = "tofu_llama"
"""It fine-tunes a model that was fetched, and an oracle; `atu forget` runs on a pinned one."""
METHODS = {"none", "oracle", "atu"}
"""What is run of it."""


def test_every_experiment_is_here():
    found = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    own = {
        "ablation",
        "ablation_partial",
        "comparison",
        "comparison_chosen",
        "comparison_rest",
        "defaults",
        "metric_pools",
    }
    own |= {"world"}
    assert found == {*HUB, *LAPTOP, *own, "hub"}


@pytest.mark.parametrize("name", HUB)
def test_an_experiment_asks_for_its_sources_first(name):
    """Whoever starts it before anything was fetched is told what to do."""
    tree = ROOT / f"experiments/{name}.yaml"
    params = load_params(tree, across=False)
    assert params.experiment == name == params.track.experiment
    with pytest.raises(Exception, match=r"prepare\.source\.lock.*`atu fetch` writes it"):
        load_params(tree)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree for one experiment after the other."""
    return copy_tree(tmp_path_factory.mktemp("tree") / "clone", {})


@pytest.mark.parametrize("name", HUB)
def test_an_experiment_is_planned(tree, name, tmp_path):
    """Every method and attack of it, and an oracle where it has one."""
    values = shrink(shipped(name), tmp_path)
    assert all(fetch(Params.model_validate(values), offline=True, update=False))
    tree.write(values)
    planned = tree.planned()
    grid = values["grid"]
    assert planned["unlearn_one"] == len(grid["methods"])
    assert planned["pretrain_oracle"] == ("oracle" in grid["methods"])
    assert planned["attack_one"] == len(grid["methods"]) * len(grid["attacks"])


def test_an_experiment_runs_from_end_to_end(tree, tmp_path):
    """What it names is fetched; the original, the oracle and ATU are run, and reported."""
    values = shrink(shipped(RUN), tmp_path)
    grid = values["grid"]
    grid["methods"] = [method for method in grid["methods"] if method in METHODS]
    grid["attacks"] = grid["attacks"][-1:]
    tree.write(values)
    said = tree.run("python", "-m", "atu", "fetch", "--offline").stdout
    assert said.count("locked in") == said.count(str(tmp_path)) // 2 >= 2
    tree.snakemake()
    assert tree.up_to_date()
    folder = tree.folder / "results" / RUN
    page = (folder / "report/report.html").read_text(encoding="utf-8")
    assert "INVALID" not in re.sub("INVALID marks|is INVALID", "", page)
    metrics = json.loads((folder / "report/metrics.json").read_text(encoding="utf-8"))
    assert {key.split("/")[1].split(".")[1] for key in metrics} == METHODS
