"""What a sweep plans: docs/add-a-method.md to the letter, alignment once, several targets."""

import re
from pathlib import Path

import pytest
import yaml

from atu.benchmarks.world.people import build_world

PAGE = Path(__file__).parents[2] / "docs/add-a-method.md"


@pytest.fixture(scope="module")
def people(mini_values):
    """The names of the miniature's world, the target first."""
    drawn = mini_values["prepare"]
    names = build_world(drawn["seed"], drawn["people"], drawn["holdout_people"]).people
    target = mini_values["grid"]["targets"][0]
    return [target, *(name for name in names if name != target)]


@pytest.fixture(scope="module")
def blocks():
    """The page's Python block and its YAML blocks."""
    page = PAGE.read_text(encoding="utf-8")
    return {
        kind: re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "yaml")
    }


def test_a_method_is_one_file_and_one_section(untouched, blocks):
    """Only the new method's jobs are planned, besides those that gather all; and they run."""
    (source,) = blocks["python"]
    section, _ = (yaml.safe_load(text) for text in blocks["yaml"])
    path = untouched.folder / "src/atu/methods/flatten.py"
    path.write_text(source, encoding="utf-8")
    try:
        params = yaml.safe_load((untouched.folder / "params.yaml").read_text(encoding="utf-8"))
        untouched.edit(
            unlearn__methods=params["unlearn"]["methods"] | section,
            grid__methods=[*params["grid"]["methods"], "flatten"],
        )
        attacks = len(params["grid"]["attacks"])
        assert untouched.planned() == {
            "unlearn_one": 1,
            "rephrase_one": 1,
            "utility_one": 1,
            "privacy_one": 1,
            "attack_one": attacks,
            "report_one": 1,
            "track_one": 1,
        }
        untouched.snakemake("rephrase")
        answered = untouched.results("rephrase/**/flatten/0/manifest.json")
        assert len(answered) == 1
    finally:
        path.unlink()


def test_a_searched_method_plans_one_search(untouched, blocks):
    """The search first, then the method's cell again at what it chose; nothing is aligned anew."""
    _, space = (yaml.safe_load(text) for text in blocks["yaml"])
    rate = space["flatten"]["learning_rate"]
    untouched.edit(search__spaces={"ga": {"learning_rate": rate}})
    planned = untouched.planned()
    assert (planned["search_one"], planned["search_shared"], planned["unlearn_one"]) == (1, 1, 1)
    assert "align_one" not in planned


def test_a_sweep_aligns_once(untouched, mini_values):
    """Thresholds, steps and methods plan no alignment; a seed plans one, whatever the methods."""
    untouched.edit(
        unlearn__methods__atu__quantiles=[0.5, 0.2],
        unlearn__methods__atu__steps=6,
        unlearn__methods__ga__steps=6,
        grid__methods=[*mini_values["grid"]["methods"], "npo", "rmu"],
    )
    planned = untouched.planned()
    assert planned["unlearn_one"] == 4
    assert "align_one" not in planned
    untouched.edit(grid__seeds=[0, 1, 2])
    planned = untouched.planned()
    assert planned["unlearn_one"] == 4 + 2 * 6
    assert planned["align_one"] == 2
    assert "embed_one" not in planned


def test_a_second_oracle_is_trained_and_measured(untouched, mini_values):
    """It alone is new, and its privacy is read against the oracle's."""
    untouched.edit(grid__methods=[*mini_values["grid"]["methods"], "second_oracle"])
    planned = untouched.planned()
    once = ("pretrain_oracle", "unlearn_one", "rephrase_one", "privacy_one")
    assert {name: planned[name] for name in once} == dict.fromkeys(once, 1)
    text = untouched.snakemake("--dry-run", "--printshellcmds").stdout
    (trains,) = [line for line in text.splitlines() if "--second" in line]
    folder = "results/miniature/pretrain/llama_tiny/second_oracle-Wysturel_Brontanthorpe"
    assert f"--out {folder}/manifest.json" in trains
    (starts,) = [line for line in text.splitlines() if "--method second_oracle" in line]
    assert f"--pretrain {folder}/manifest.json" in starts
    (reads,) = [line for line in text.splitlines() if "atu privacy" in line]
    assert "/oracle/0/manifest.json" in reads


def test_requests_for_several_targets(untouched, people):
    """One name more at once, and one after the other: each request has its corpora, its oracle,
    its embeddings and its cells; the sequence's first step is the cell that is there."""
    first, second = people[:2]
    untouched.edit(grid__together=[[first, second]], grid__sequences=[[first, second]])
    planned = untouched.planned()
    expected = ("prepare_one", "pretrain_oracle", "embed_one", "align_one")
    assert {name: planned[name] for name in expected} == dict.fromkeys(expected, 2)
    assert planned["unlearn_one"] == 2 * 4
    text = untouched.snakemake("--dry-run", "--printshellcmds").stdout
    slugs = [name.replace(" ", "_") for name in (first, second)]
    later = f"--out results/miniature/unlearn/llama_tiny/{'.then.'.join(slugs)}/ga/0/manifest.json"
    (start,) = [line for line in text.splitlines() if later in line]
    assert f"results/miniature/unlearn/llama_tiny/{slugs[0]}/ga/0/manifest.json" in start
