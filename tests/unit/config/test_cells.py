import re
from pathlib import Path

import pytest

from atu.config.cells import (
    CELL_PHASES,
    Cell,
    attack_manifest,
    collected,
    damaged_models,
    grid_cells,
    manifest_path,
    open_cells,
    open_models,
)
from atu.config.load import load_params
from atu.config.params import Params
from atu.errors import ArtifactError
from atu.results.artifacts import MANIFEST
from atu.results.jobs import write_folder

ROOT = Path(__file__).parents[3]
RESULTS = Path("results/x")
CELL = Cell("llama_tiny", "Ada Example", "Ada_Example", "ga", 3)


@pytest.fixture
def params():
    """A function that gives the shipped parameters with another grid."""
    shipped = load_params(ROOT / "params.yaml")

    def change(**grid):
        return shipped.model_copy(update={"grid": shipped.grid.model_copy(update=grid)})

    return change


def test_cells_come_in_the_order_of_the_file(params):
    """2 targets x 2 methods x 2 seeds, the seeds moving fastest."""
    grid = params(targets=["B B", "A"], methods=["npo", "ga"], seeds=[1, 0])
    found = [(c.target, c.slug, c.method, c.seed) for c in grid_cells(grid)]
    assert found == [
        (target, slug, method, seed)
        for target, slug in (("B B", "B_B"), ("A", "A"))
        for method in ("npo", "ga")
        for seed in (1, 0)
    ]


def test_requests_for_several_names_have_cells(params):
    """Two names at once are one cell, a sequence one per step; its first step is the single
    target's cell, where there is one."""
    grid = params(
        targets=["A", "B"], together=[["A", "B"]], sequences=[["A", "C"], ["C", "A", "B"]],
        methods=["ga"], seeds=[0],
    )  # fmt: skip
    assert [(cell.target, cell.slug) for cell in grid_cells(grid)] == [
        ("A", "A"), ("B", "B"), ("A + B", "A+B"), ("A, then C", "A.then.C"), ("C", "C"),
        ("C, then A", "C.then.A"), ("C, then A, then B", "C.then.A.then.B"),
    ]  # fmt: skip
    only = params(targets=["B"], together=[], sequences=[["A", "C"]], methods=["ga"], seeds=[0])
    assert [cell.target for cell in grid_cells(only)] == ["B", "A", "A, then C"]


@pytest.mark.parametrize(
    ("phase", "folder"),
    [
        ("prepare", "Ada_Example"),
        ("embed", "llama_tiny/Ada_Example"),
        ("align", "llama_tiny/Ada_Example/3"),
        ("unlearn", "llama_tiny/Ada_Example/ga/3"),
        ("rephrase", "llama_tiny/Ada_Example/ga/3"),
        ("utility", "llama_tiny/Ada_Example/ga/3"),
        ("privacy", "llama_tiny/Ada_Example/ga/3"),
    ],
)
def test_a_folder_has_the_keys_that_its_phase_depends_on(phase, folder):
    assert manifest_path(RESULTS, phase, CELL) == RESULTS / phase / folder / MANIFEST


def test_no_two_cells_share_a_folder(params):
    """6 methods x 3 seeds."""
    cells = list(grid_cells(params(seeds=[0, 1, 10])))
    assert len({manifest_path(RESULTS, "unlearn", cell) for cell in cells}) == len(cells) == 18


def test_an_attack_has_a_folder_below_its_cell(params):
    """No two attacks or cells share one."""
    assert attack_manifest(RESULTS, CELL, "lens") == (
        RESULTS / "attack/llama_tiny/Ada_Example/ga/3/lens" / MANIFEST
    )
    grid = params(seeds=[0, 1])
    every = {
        attack_manifest(RESULTS, cell, name) for cell in grid_cells(grid) for name in ("a", "b")
    }
    assert len(every) == 2 * len(list(grid_cells(grid)))


@pytest.fixture
def results(tmp_path, store, params):
    """The folders of a grid of two methods and two attacks, as Snakemake would leave them."""
    grid = params(methods=["none", "ga"], attacks=["lens", "context"])
    for cell in grid_cells(grid):
        for phase in ("align", *CELL_PHASES):
            folder = manifest_path(Path(), phase, cell).parent
            store(folder, phase, {"method": cell.method if phase != "align" else None})
        for name in grid.grid.attacks:
            folder = attack_manifest(Path(), cell, name).parent
            store(folder, "attack", {"method": cell.method, "attack": name})
    for variant in ("full", "oracle-Wysturel_Brontanthorpe"):
        store(f"pretrain/llama_tiny/{variant}", "pretrain", {"oracle_of": variant})
    return grid, tmp_path


def test_open_cells(results):
    """Cells of one seed share their alignment."""
    none, ga = open_cells(*results)
    assert set(none) == {
        "align", "unlearn", "rephrase", "utility", "privacy", "attack/lens", "attack/context",
    }  # fmt: skip
    assert [cell["utility"].cell["method"] for cell in (none, ga)] == ["none", "ga"]
    assert none["align"].digest == ga["align"].digest
    assert none["unlearn"].digest != ga["unlearn"].digest
    for cell, method in ((none, "none"), (ga, "ga")):
        for name in ("lens", "context"):
            found = cell[f"attack/{name}"].cell
            assert (found["method"], found["attack"]) == (method, name)


@pytest.mark.parametrize("phase", CELL_PHASES)
def test_a_missing_cell_is_named(results, phase):
    grid, folder = results
    path = manifest_path(folder, phase, list(grid_cells(grid))[1])
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{path}: missing; run `snakemake {phase}` first"):
        open_cells(grid, folder)


def test_a_missing_attack_is_named(results):
    grid, folder = results
    path = attack_manifest(folder, list(grid_cells(grid))[1], "context")
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{path}: missing; run `snakemake attack` first"):
        open_cells(grid, folder)


def test_attacks_that_the_grid_does_not_list_are_not_opened(results, params):
    """They may lie there from an earlier grid."""
    _, folder = results
    cell = open_cells(params(methods=["none"], attacks=["lens"]), folder)[0]
    assert "attack/lens" in cell and "attack/context" not in cell
    assert not any(
        key.startswith("attack")
        for key in open_cells(params(methods=["none"], attacks=[]), folder)[0]
    )


def test_the_full_model_and_every_targets_oracle_are_opened(results, params):
    """Without an oracle in the grid, of a model that came trained, the model alone."""
    assert [a.cell["oracle_of"] for a in open_models(*results)] == ["full"]
    opened = open_models(params(methods=["none", "oracle"]), results[1])
    assert [artifact.cell["oracle_of"] for artifact in opened] == [
        "full", "oracle-Wysturel_Brontanthorpe",
    ]  # fmt: skip


def test_a_second_oracle_is_a_model_of_its_own(results, params):
    both = params(methods=["none", "oracle", "second_oracle"])
    with pytest.raises(ArtifactError, match=r"second_oracle-Wysturel_Brontanthorpe/manifest\.json"):
        open_models(both, results[1])


def test_a_missing_oracle_is_named(results, params):
    """Privacy is measured against it."""
    grid = params(methods=["none", "oracle"], targets=["Wysturel Brontanthorpe", "Ada Example"])
    with pytest.raises(ArtifactError, match=r"oracle-Ada_Example/manifest\.json: missing"):
        open_models(grid, results[1])


def test_the_grid_is_that_of_the_parameters():
    """The shipped experiment: one model, target and seed, seven methods."""
    shipped: Params = load_params(ROOT / "params.yaml")
    assert [cell.method for cell in grid_cells(shipped)] == shipped.grid.methods


def test_a_request_for_several_names_has_an_oracle_of_its_own(results, params, store):
    grid = params(methods=["none", "oracle"], together=[["A", "B"]], sequences=[["A", "B"]])
    names = ("oracle-A+B", "oracle-A", "oracle-A.then.B")
    for name in names:
        with pytest.raises(ArtifactError, match=rf"{re.escape(name)}/manifest\.json: missing"):
            open_models(grid, results[1])
        store(f"pretrain/llama_tiny/{name}", "pretrain", {"oracle_of": name})
    opened = [artifact.cell["oracle_of"] for artifact in open_models(grid, results[1])]
    assert opened == ["full", "oracle-Wysturel_Brontanthorpe", *names]


def test_damaged_models_are_found(tmp_path, params):
    """Of four cells one is whole, one has lost its weights, one has those of another version, and
    one was never made: that one is Snakemake's to make."""
    grid = params(methods=["none", "oracle", "ga", "npo"], seeds=[0])
    paths = [manifest_path(tmp_path, "unlearn", cell) for cell in grid_cells(grid)]
    for path in paths[:3]:
        with write_folder(path, "unlearn", cell={}, params={}, inputs={}) as job:
            job.path("model/model.safetensors").write_text("hello")
    (paths[1].parent / "model/model.safetensors").unlink()
    (paths[2].parent / "model/model.safetensors").write_text("hallo")
    assert damaged_models(grid, tmp_path) == paths[1:3]


def test_the_jobs_that_collect_name_what_they_read(params):
    """Two methods, one attack: 2 cells of alignment, four phases and the attack; the full model and
    the table of searches for the report, and the report for MLflow."""
    grid = params(targets=["A"], methods=["none", "ga"], attacks=["lens"])
    read = {
        folder.relative_to(RESULTS).as_posix(): {
            path.parent.relative_to(RESULTS).as_posix() for path in paths
        }
        for folder, paths in collected(grid, RESULTS).items()
    }
    cells = {"align/llama_tiny/A/0"} | {
        f"{phase}/llama_tiny/A/{method}/0{'/lens' if phase == 'attack' else ''}"
        for phase in (*CELL_PHASES, "attack")
        for method in ("none", "ga")
    }
    assert read == {
        "embed/shared": {"prepare/A"}, "search/shared": set(),
        "report": cells | {"pretrain/llama_tiny/full", "search/shared"},
        "track": cells | {"report"},
    }  # fmt: skip
