"""The way through a DVC remote: record, push, clone, pull, sync, change a parameter, make weights.

The tests run in the order they stand in; each leaves the clone finished and up to date.
"""

import hashlib
import json
import re
import shutil

import pytest
from trees import Tree

CLEAN = "Data and pipelines are up to date."
CELLS = "llama_tiny/Wysturel_Brontanthorpe"
UNLEARNED = f"results/miniature/unlearn/{CELLS}"
WEIGHTS = "model/model.safetensors"
LEFT_BY_A_KILLED_JOB = f"{UNLEARNED}/ga/.0.checkpoints/state.json"


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A folder that serves as a remote."""
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def clone(tree, remote):
    """A clone of the finished tree elsewhere, pulled, with nothing else done in it. What a killed
    job left lay beside the results when they were recorded.
    """
    left = tree.folder / LEFT_BY_A_KILLED_JOB
    left.parent.mkdir()
    left.write_text("half", encoding="utf-8")
    tree.make("record")
    shutil.rmtree(left.parent)
    tree.run("dvc", "remote", "add", "--default", "store", str(remote))
    tree.git("add", "dvc.lock", ".dvc/config")
    tree.git("commit", "--quiet", "-m", "recorded")
    tree.run("dvc", "push")
    folder = remote.parent / "pulled"
    tree.git("clone", "--quiet", str(tree.folder), str(folder))
    made = Tree(folder)
    made.run("dvc", "pull")
    yield made
    shutil.rmtree(folder)


@pytest.fixture
def edited(clone):
    """The clone, with params.yaml put back afterwards."""
    path = clone.folder / "params.yaml"
    before = path.read_bytes()
    yield clone
    path.write_bytes(before)


def stored(remote, path):
    """Whether the remote has this file."""
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return (remote / "files/md5" / digest[:2] / digest[2:]).exists()


def heirs(method, *, since="unlearn"):
    """The folders that depend on what `since` writes for one method."""
    phases = ("unlearn", "rephrase", "privacy")
    found = {f"{phase}/{CELLS}/{method}/0" for phase in phases[phases.index(since) :]}
    if since == "unlearn":
        found |= {f"utility/{CELLS}/{method}/0"}
        found |= {f"attack/{CELLS}/{method}/0/{name}" for name in ("lens", "fresh_predictor")}
    return found | {"report", "track"}


def test_a_pull_brings_everything_but_unlearned_weights(tree, clone, remote):
    """Their manifests, metrics and trajectories are there, and DVC misses nothing."""
    assert clone.run("dvc", "status").stdout.strip() == CLEAN
    assert clone.results("**/*.json*") == tree.results("**/*.json*")
    unlearned = {p.relative_to(tree.folder) for p in tree.folder.glob(f"{UNLEARNED}/*/0/{WEIGHTS}")}
    assert len(unlearned) == 4
    for path in unlearned:
        assert not (clone.folder / path).exists()
    assert not stored(remote, tree.folder / UNLEARNED / f"ga/0/{WEIGHTS}")
    assert not (clone.folder / LEFT_BY_A_KILLED_JOB).exists()
    pretrained = f"results/miniature/pretrain/llama_tiny/full/{WEIGHTS}"
    assert stored(remote, tree.folder / pretrained) and (clone.folder / pretrained).exists()


def test_dvc_shows_headlines_alone(clone):
    """Six numbers per method of all that there are, and every plot finds its data."""
    shown = json.loads(clone.run("dvc", "metrics", "show", "--json").stdout)
    assert list(shown[""]["data"]) == ["results/miniature/report/headline.json"]
    (found,) = (file["data"] for file in shown[""]["data"].values())
    assert set(found) == {"none", "oracle", "atu", "ga"} and len(found["ga"]) == 6
    plots = json.loads(clone.run("dvc", "plots", "show", "--json").stdout)
    assert "errors" not in plots and len(plots["data"]) == 10
    vega = [plot for plots in plots["data"].values() for plot in plots if plot["type"] == "vega"]
    assert len(vega) == 6 and all("'ga'" in str(plot["content"]) for plot in vega)
    path = clone.folder / "results/miniature/report/headline.json"
    before = path.read_bytes()
    found["ga"]["worst_form"] += 0.25
    path.write_text(json.dumps(found), encoding="utf-8")
    changed = json.loads(clone.run("dvc", "metrics", "diff", "--json").stdout)
    path.write_bytes(before)
    ((_, change),) = changed["results/miniature/report/headline.json"].items()
    assert change["diff"] == pytest.approx(0.25)


def test_weights_are_not_made_before_sync(clone):
    """Snakemake knows nothing yet of what was pulled: it would train the original model again."""
    done = clone.make("weights", check=False)
    assert done.returncode != 0
    assert "make sync first" in done.stdout
    assert "prepare_shared" in done.stdout  # what it would have run, or knows nothing of


def test_sync_refuses_what_differs_from_the_lock(clone):
    path = clone.folder / "results/miniature/report/table.csv"
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    done = clone.make("sync", check=False)
    path.write_bytes(before)
    assert done.returncode != 0
    assert "results differ from dvc.lock" in done.stdout


def test_after_sync_nothing_is_to_do(clone):
    clone.make("sync")
    assert clone.up_to_date()
    assert clone.run("dvc", "status").stdout.strip() == CLEAN


def test_a_changed_parameter_runs_only_its_heirs(edited):
    """Of one method: its own cell and what is measured on it. DVC starts at the same phase."""
    edited.edit(unlearn__methods__ga__steps=3)
    assert edited.planned_folders() == heirs("ga")
    text = edited.run("dvc", "repro", "--dry", "unlearn").stdout
    for phase in ("prepare", "pretrain", "embed", "align"):
        assert f"Stage '{phase}' didn't change, skipping" in text
    assert "Running stage 'unlearn'" in text


def test_missing_weights_are_named_and_made_again(tree, edited):
    """A job that needs them fails with the repair; the repair runs the one job whose weights are
    missing, and nothing more is to do than before. Its bytes, too, are those of before: with the
    parameter put back either engine has nothing to do."""
    for method in ("none", "oracle", "atu"):
        shutil.copy(
            tree.folder / UNLEARNED / method / "0" / WEIGHTS,
            edited.folder / UNLEARNED / method / "0" / WEIGHTS,
        )
    original = (edited.folder / "params.yaml").read_bytes()
    edited.edit(rephrase__max_new_tokens=7)
    planned = set().union(*(heirs(m, since="rephrase") for m in ("none", "oracle", "atu", "ga")))
    assert edited.planned_folders() == planned
    wanted = f"results/miniature/rephrase/{CELLS}/ga/0/manifest.json"
    done = edited.snakemake(wanted, check=False)
    log = (edited.folder / f"logs/miniature/rephrase/{CELLS}/ga/0.log").read_text()
    assert done.returncode != 0
    assert f"{UNLEARNED}/ga/0/{WEIGHTS}: listed in manifest.json but missing; `make weights`" in log
    made = edited.make("weights").stdout
    assert re.findall(r"^Job \d+: (\w+)$", made, re.MULTILINE) == ["unlearn_one"]
    assert f"output: {UNLEARNED}/ga/0/manifest.json" in made
    assert "all there" in edited.make("weights").stdout
    assert edited.planned_folders() == planned
    (edited.folder / "params.yaml").write_bytes(original)
    edited.run("dvc", "checkout")  # Snakemake removed the failed job's older results
    edited.make("sync")
    assert edited.up_to_date()
    for path in edited.folder.glob(f"{UNLEARNED}/*/0/{WEIGHTS}"):
        assert path.read_bytes() == (tree.folder / path.relative_to(edited.folder)).read_bytes()


def test_weights_are_kept_by_those_who_want_them(clone, remote):
    """One line of .dvcignore fewer, and they are recorded and pushed."""
    path = clone.folder / ".dvcignore"
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("results/")]
    assert len(kept) == len(lines) - 1
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    clone.make("record")
    clone.run("dvc", "push", "unlearn")
    assert stored(remote, clone.folder / UNLEARNED / f"ga/0/{WEIGHTS}")
