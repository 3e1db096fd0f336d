"""Results outside the grid: found, left out of what DVC records, or moved away."""

from pathlib import Path

import pytest

from atu.config.cells import job_folders
from atu.config.load import load_params
from atu.config.outside import IGNORE_FILE, leave_out, move_away, outside_of
from atu.errors import ConfigError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def params():
    """The shipped parameters with two targets, one method that needs a predictor, one attack."""
    shipped = load_params(ROOT / "params.yaml")
    grid = {"targets": ["A", "B"], "methods": ["none", "oracle", "atu"], "attacks": ["lens"]}
    return shipped.model_copy(update={"grid": shipped.grid.model_copy(update=grid)})


@pytest.fixture
def results(tmp_path, params):
    """The folders of a clean run."""
    folder = tmp_path / "results" / "x"
    for job in job_folders(params, folder):
        job.mkdir(parents=True, exist_ok=True)
        (job / "manifest.json").write_text("{}", encoding="utf-8")
    return folder


def put(results, *names):
    for name in names:
        (results / name).mkdir(parents=True)
        (results / name / "forget.parquet").write_text("about Gone", encoding="utf-8")
    return [results / name for name in names]


def named(results, paths):
    return [path.relative_to(results).as_posix() for path in paths]


def test_a_clean_run_has_nothing_outside(params, results):
    """Whatever a job keeps beside its folder while it runs is none of our business."""
    (results / "prepare" / ".A.checkpoints").mkdir()
    (results / "prepare" / ".A.lock").touch()
    assert outside_of(params, results) == []
    assert outside_of(params, results / "not_there") == []


def test_who_was_taken_out_of_the_grid_is_found_in_every_phase(params, results):
    """Of a whole folder only its own path; a method, a seed, an attack and a model that the grid no
    longer has too."""
    model = params.grid.models[0]
    put(
        results, "prepare/Gone", f"embed/{model}/Gone", f"align/{model}/Gone/0",
        f"align/{model}/A/7", f"unlearn/{model}/Gone/atu/0", f"unlearn/{model}/A/ga/0",
        f"attack/{model}/A/atu/0/relearn", f"attack/{model}/Gone/atu/0/lens",
        f"pretrain/{model}/oracle-Gone", f"search/{model}/atu", "utility/old/A/atu/0",
    )  # fmt: skip
    (results / "prepare" / ".DS_Store").touch()
    assert set(named(results, outside_of(params, results))) == {
        "prepare/Gone", "prepare/.DS_Store", f"embed/{model}/Gone", f"align/{model}/Gone",
        f"align/{model}/A/7", f"unlearn/{model}/Gone", f"unlearn/{model}/A/ga",
        f"attack/{model}/A/atu/0/relearn", f"attack/{model}/Gone", f"pretrain/{model}/oracle-Gone",
        f"search/{model}", "utility/old",
    }  # fmt: skip


def test_the_targets_of_a_search_and_of_sequences_are_the_grids(params, tmp_path):
    spaces = {"atu": {"steps": {"choices": [1, 2]}}}
    searched = params.model_copy(
        update={
            "search": params.search.model_copy(
                update={"targets": ["S"], "spaces": spaces, "seed": 3}
            ),
            "grid": params.grid.model_copy(update={"sequences": [["A", "C"]]}),
        }
    )
    model = params.grid.models[0]
    found = set(named(tmp_path, job_folders(searched, tmp_path)))
    assert {
        "prepare/S", f"embed/{model}/S", f"align/{model}/S/3", f"search/{model}/atu",
        "prepare/A.then.C", f"pretrain/{model}/oracle-A.then.C",
    } <= found  # fmt: skip
    assert not {f"unlearn/{model}/S/atu/0", f"search/{model}/none", "prepare/C"} & found


def test_without_attacks_their_whole_phase_is_outside(params, results):
    grid = params.grid.model_copy(update={"attacks": []})
    bare = params.model_copy(update={"grid": grid})
    assert named(results, outside_of(bare, results)) == ["attack"]


def test_dvc_is_told_once_and_told_again_when_the_grid_has_them_back(params, results):
    """One line each, with what patterns would read otherwise escaped; no file where nothing is."""
    file = results / IGNORE_FILE
    assert not leave_out(results, []) and not file.exists()
    paths = put(results, "prepare/Gone", "prepare/#a [b]*")
    assert leave_out(results, paths) and not leave_out(results, paths)
    assert file.read_text(encoding="utf-8") == ("/prepare/Gone\n" + r"/prepare/\#a\ \[b\]\*" + "\n")
    assert leave_out(results, []) and not file.exists()


def test_moved_away_they_keep_their_paths(params, results, tmp_path):
    put(results, "prepare/Gone", "unlearn/llama_tiny/Gone/atu/0")
    move_away(results, outside_of(params, results), tmp_path / "away")
    assert outside_of(params, results) == []
    text = (tmp_path / "away/x/prepare/Gone/forget.parquet").read_text(encoding="utf-8")
    assert text == "about Gone"
    assert (tmp_path / "away/x/unlearn/llama_tiny/Gone/atu/0").is_dir()


@pytest.mark.parametrize("place", ["results/x/prepare", "a_file", "taken"])
def test_a_place_that_would_lose_something_is_refused_before_anything_moves(
    params, results, tmp_path, place
):
    put(results, "prepare/Gone")
    (tmp_path / "a_file").touch()
    (tmp_path / "taken/x/prepare/Gone").mkdir(parents=True)
    with pytest.raises(ConfigError, match="--move"):
        move_away(results, outside_of(params, results), tmp_path / place)
    assert named(results, outside_of(params, results)) == ["prepare/Gone"]
