"""Every shipped experiment on a tiny model of its architecture and files of its schema."""

import json
import re

import pytest
import yaml
from made.experiments import SHAPES, shipped, shrink
from trees import ROOT, copy_tree

from atu.config.load import load_params

pytestmark = pytest.mark.workflow
HUB = sorted(SHAPES)
RUN = {"none", "oracle", "atu"}
"""Methods that are run end to end; the graph of all is planned."""


def test_every_experiment_is_here():
    found = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    assert found == {*HUB, "comparison", "world", "hub"}


@pytest.mark.parametrize("name", HUB)
def test_an_experiment_asks_for_its_sources_first(name):
    """Whoever starts it before anything was fetched is told what to do."""
    tree = ROOT / f"experiments/{name}.yaml"
    params = load_params(tree, across=False)
    assert params.experiment == name == params.track.experiment
    with pytest.raises(Exception, match=r"prepare\.source\.lock.*`atu fetch` writes it"):
        load_params(tree)


@pytest.mark.parametrize("name", HUB)
def test_an_experiment_runs_from_end_to_end(name, tmp_path):
    """All of it is planned; the original, the oracle and ATU are run, and reported."""
    tree = copy_tree(tmp_path / "clone", {})
    values = shrink(shipped(name), tmp_path)

    def write():
        (tree.folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    write()
    said = tree.run("python", "-m", "atu", "fetch", "--offline").stdout
    assert said.count("locked in") == said.count(str(tmp_path)) // 2 >= 2
    planned = tree.planned()
    oracles = "oracle" in values["grid"]["methods"]
    assert planned["unlearn_one"] == len(values["grid"]["methods"])
    assert planned["pretrain_oracle"] == oracles
    assert planned["attack_one"] == planned["unlearn_one"] * len(values["grid"]["attacks"])
    grid = values["grid"]
    grid["methods"] = [method for method in grid["methods"] if method in RUN]
    grid["attacks"] = grid["attacks"][-1:]
    write()
    tree.snakemake()
    assert tree.up_to_date()
    folder = tree.folder / "results" / name
    page = (folder / "report/report.html").read_text(encoding="utf-8")
    assert "INVALID" not in re.sub("INVALID marks", "", page)
    metrics = json.loads((folder / "report/metrics.json").read_text(encoding="utf-8"))
    cells = {key.split("/")[1].split(".")[1] for key in metrics}
    assert cells == set(grid["methods"])
    pinned = list(folder.glob("pretrain/*/full/pin.json"))
    assert bool(pinned) is not oracles
