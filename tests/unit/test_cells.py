from pathlib import Path

import pytest

from atu.artifacts import MANIFEST
from atu.cells import Cell, grid_cells, manifest_path, open_cells, open_models
from atu.config import Params, load_params
from atu.errors import ArtifactError

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize(
    ("phase", "folder"),
    [
        ("prepare", "Ada_Example"),
        ("embed", "llama_tiny/Ada_Example"),
        ("align", "llama_tiny/Ada_Example/3"),
        ("unlearn", "llama_tiny/Ada_Example/ga/3"),
        ("rephrase", "llama_tiny/Ada_Example/ga/3"),
        ("utility", "llama_tiny/Ada_Example/ga/3"),
    ],
)
def test_a_folder_has_the_keys_that_its_phase_depends_on(phase, folder):
    assert manifest_path(RESULTS, phase, CELL) == RESULTS / phase / folder / MANIFEST


def test_no_two_cells_share_a_folder(params):
    """7 methods x 3 seeds."""
    cells = list(grid_cells(params(seeds=[0, 1, 10])))
    assert len({manifest_path(RESULTS, "unlearn", cell) for cell in cells}) == len(cells) == 21


@pytest.fixture
def results(tmp_path, store, params):
    """The folders of a grid of two methods, as Snakemake would leave them."""
    grid = params(methods=["none", "ga"])
    for cell in grid_cells(grid):
        for phase in ("align", "unlearn", "rephrase", "utility"):
            folder = manifest_path(Path(), phase, cell).parent
            store(folder, phase, {"method": cell.method if phase != "align" else None})
    for variant in ("full", "oracle-Wysturel_Brontanthorpe"):
        store(f"pretrain/llama_tiny/{variant}", "pretrain", {"oracle_of": variant})
    return grid, tmp_path


def test_open_cells(results):
    """Cells of one seed share their alignment."""
    none, ga = open_cells(*results)
    assert set(none) == {"align", "unlearn", "rephrase", "utility"}
    assert [cell["utility"].cell["method"] for cell in (none, ga)] == ["none", "ga"]
    assert none["align"].digest == ga["align"].digest
    assert none["unlearn"].digest != ga["unlearn"].digest


def test_a_missing_cell_is_named(results):
    grid, folder = results
    path = manifest_path(folder, "rephrase", list(grid_cells(grid))[1])
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{path}: missing; run `snakemake rephrase` first"):
        open_cells(grid, folder)


@pytest.mark.parametrize(
    ("methods", "variants"),
    [
        (["none", "ga"], ["full"]),
        (["none", "oracle"], ["full", "oracle-Wysturel_Brontanthorpe"]),
    ],
)
def test_oracles_are_opened_where_the_grid_has_them(results, params, methods, variants):
    opened = open_models(params(methods=methods), results[1])
    assert [artifact.cell["oracle_of"] for artifact in opened] == variants


def test_the_grid_is_that_of_the_parameters():
    """The shipped experiment: one model, target and seed, seven methods."""
    shipped: Params = load_params(ROOT / "params.yaml")
    assert [cell.method for cell in grid_cells(shipped)] == shipped.grid.methods
