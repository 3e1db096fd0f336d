"""The real engines on a miniature: Snakemake, DVC and MLflow over one set of results.

The tests run in the order they stand in: each leaves the tree finished and up to date.
"""

import hashlib
import json
import re
import shutil
import sqlite3
from dataclasses import asdict

import pytest

from atu.config.cells import job_folders
from atu.config.load import load_params
from atu.config.spaces import chosen_settings
from atu.results.artifacts import MANIFEST, Artifact

PHASES = (
    "prepare",
    "pretrain",
    "embed",
    "align",
    "search",
    "unlearn",
    "rephrase",
    "utility",
    "privacy",
    "attack",
    "report",
    "track",
)
CELLS = 4
"""none, oracle, atu and ga, of one model, target and seed."""
ATTACKS = 2
"""lens, and fresh_predictor, which needs the alignment."""


def test_one_command_runs_every_phase(tree):
    found = tree.results()
    assert {path.split("/")[0] for path in found} == set(PHASES)
    for phase, jobs in {"rephrase": CELLS, "privacy": CELLS, "attack": CELLS * ATTACKS}.items():
        assert sum(path.startswith(f"{phase}/") for path in found) == jobs
    assert tree.up_to_date()


def test_every_folder_keeps_the_contract(tree):
    """metrics.json is flat and named phase/metric/split; provenance is no part of the manifest."""
    for path, raw in tree.results().items():
        folder = (tree.folder / "results/miniature" / path).parent
        manifest = json.loads(raw)
        phase = path.split("/")[0]
        assert manifest["phase"] == phase
        assert "provenance.json" not in manifest["artifacts"]
        assert json.loads((folder / "provenance.json").read_text())["libraries"]["torch"]
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics
        assert all(key.startswith(f"{phase}/") and key.count("/") == 2 for key in metrics)


def test_manifests_record_what_rules_depend_on(tree):
    """And of a method that was searched the settings that its search chose, which no rule knows
    before."""
    params = load_params(tree.folder / "params.yaml", across=False)
    named = {"pretrain": "model", "search": "method", "unlearn": "method", "attack": "attack"}
    for path, raw in tree.results().items():
        manifest, phase = json.loads(raw), path.split("/")[0]
        cell = manifest["cell"]
        name = cell.get(named.get(phase))
        expected = params.section(phase, name)
        if phase == "unlearn" and params.searched(name):
            found = tree.folder / "results/miniature/search" / cell["model"] / name / MANIFEST
            chosen = chosen_settings(Artifact.open(found, "search"), name)
            expected["methods"][name] = asdict(chosen)
        assert manifest["params"] == expected, path


def test_logs_hold_plain_progress_lines(tree):
    log = (tree.folder / "logs/miniature/pretrain/llama_tiny/full.log").read_text()
    assert "pretrain: step 6/6  loss " in log
    assert "/s" in log
    assert "\r" not in log


def test_the_report_is_one_page_without_network(tree):
    page = (tree.folder / "results/miniature/report/report.html").read_text(encoding="utf-8")
    assert page.count('<svg role="img"') == 4
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "oracle" in page


def test_mlflow_has_one_run_per_cell_and_the_report(tree):
    with sqlite3.connect(tree.folder / "mlflow/mlflow.db") as database:
        runs = database.execute(
            "select name, status from runs where lifecycle_stage = 'active'"
        ).fetchall()
        curves = database.execute("select count(*) from metrics where step > 0").fetchone()[0]
        params = database.execute("select count(distinct key) from params").fetchone()[0]
    assert len(runs) == CELLS + 1
    assert {status for _, status in runs} == {"FINISHED"}
    assert curves > 0
    assert params > 20


@pytest.mark.parametrize(
    "change,rules",
    [
        ({"report__bootstrap": 60}, {"report_one": 1, "track_one": 1}),
        (
            {"unlearn__methods__ga__steps": 3},
            {"unlearn_one": 1, "rephrase_one": 1, "utility_one": 1, "privacy_one": 1,
             "attack_one": ATTACKS, "report_one": 1, "track_one": 1},
        ),
        (
            {"align__steps": 5},
            {"align_one": 1, "unlearn_one": 1, "rephrase_one": 1, "utility_one": 1,
             "privacy_one": 1, "attack_one": CELLS + 1, "report_one": 1, "track_one": 1},
        ),
        (
            {"attack__attacks__lens__k": 3},
            {"attack_one": CELLS, "report_one": 1, "track_one": 1},
        ),
        (
            {"grid__seeds": [0, 1]},
            {"align_one": 1, "unlearn_one": 4, "rephrase_one": 4, "utility_one": 4,
             "privacy_one": 4, "attack_one": 8, "report_one": 1, "track_one": 1},
        ),
    ],
    ids=["report", "one method", "align", "one attack", "another seed"],
)  # fmt: skip
def test_a_changed_parameter_plans_only_its_heirs(untouched, change, rules):
    untouched.edit(**change)
    assert untouched.planned() == rules


def test_a_touched_file_reruns_nothing(tree):
    """A checkout moves every mtime; contents decide."""
    for path in [*tree.folder.glob("results/**/*"), *tree.folder.glob("src/**/*.py")]:
        path.touch()
    assert tree.up_to_date()


def test_an_edited_module_reruns_its_phase(tree):
    path = tree.folder / "src/atu/phases/report.py"
    before = path.read_bytes()
    path.write_bytes(before + b"\n# edited\n")
    assert tree.planned() == {"report_one": 1, "track_one": 1}
    path.write_bytes(before)
    assert tree.up_to_date()


@pytest.mark.parametrize(
    "change,says",
    [
        (
            {"align__hook_layers": [9]},
            "params.yaml: align.hook_layers = [9]: must be below the 3 layers",
        ),
        ({"grid__targets": ["a/b"]}, "path separator"),
    ],
)
def test_bad_parameters_stop_before_any_job(untouched, change, says):
    untouched.edit(**change)
    done = untouched.snakemake(check=False)
    assert done.returncode != 0
    assert says in done.stdout
    assert not re.search(r"^Job \d", done.stdout, re.MULTILINE)


def test_a_benchmark_file_is_an_input_of_its_jobs(untouched):
    """An edited file scores every model again; a missing one stops the run before any job."""
    row = '[{"question": "Which?", "choices": ["a", "b"], "answer": 0}]'
    (untouched.folder / "mmlu.json").write_text(row, encoding="utf-8")
    given = {"mmlu": {"kind": "mmlu", "path": "mmlu.json"}}
    untouched.edit(utility__benchmarks=given)
    assert untouched.planned()["utility_one"] == CELLS
    (untouched.folder / "mmlu.json").unlink()
    done = untouched.snakemake("--dry-run", check=False)
    assert done.returncode != 0
    assert "utility.benchmarks.mmlu.path = 'mmlu.json': no such file" in done.stdout


def test_a_resource_says_how_many_processes(tree):
    """One where nobody says anything, and as many as a profile's `set-resources` gives a rule."""
    asked = ("--dry-run", "--printshellcmds", "--forcerun", "align_one", "--set-resources")
    said = tree.snakemake(*asked, "unlearn_one:gpu=4").stdout
    found = re.findall(r"-m atu (\w+) .*--processes (\d+)", said)
    assert set(found) == {("align", "1"), ("unlearn", "4")}


def test_config_overrides_are_refused(tree):
    done = tree.snakemake("--config", "seed=3", "--dry-run", check=False)
    assert done.returncode != 0
    assert "--config and --configfile are refused" in done.stdout


def test_an_altered_artifact_is_refused(tree):
    """The job that would read it fails and says why; with the file restored all is well."""
    path = tree.folder / "results/miniature/prepare/Wysturel_Brontanthorpe/probes.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    job = tree.folder / "results/miniature/rephrase/llama_tiny/Wysturel_Brontanthorpe/ga/0"
    done = tree.run(
        "atu", "rephrase", "--out", "elsewhere/manifest.json",
        "--unlearn", str(job).replace("rephrase", "unlearn") + "/manifest.json",
        "--prepare", str(path.parent / "manifest.json"), check=False,
    )  # fmt: skip
    path.write_bytes(good)
    assert done.returncode == 2
    assert "probes.parquet: altered" in done.stdout
    assert not (tree.folder / "elsewhere/manifest.json").exists()


def test_lint_is_clean(tree):
    assert "good condition" in tree.run("snakemake", "--lint").stdout


def test_snakemake_then_dvc(tree):
    """`make record` leaves DVC with nothing to do, and Snakemake with nothing to do."""
    tree.make("record")
    assert tree.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    text = tree.run("dvc", "repro").stdout
    assert text.count("didn't change, skipping") == len(PHASES)
    assert tree.up_to_date()


def test_the_jobs_of_the_grid_are_those_that_a_clean_run_made(tree):
    base = tree.folder / "results/miniature"
    params = load_params(tree.folder / "params.yaml")
    made = {path.parent for path in base.glob("**/manifest.json")}
    assert job_folders(params, base) == made


def test_who_left_the_grid_is_not_recorded(tree):
    """Neither by `make record` nor by `dvc repro`: the hashes are a clean run's, and the cache,
    from which DVC pushes, has nothing of it. On request it is moved away."""
    lock = tree.folder / "dvc.lock"
    clean = lock.read_bytes()
    text = "All that is known of Gone Person."
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    gone = [tree.folder / "results/miniature" / name for name in
            ("prepare/Gone_Person", "unlearn/llama_tiny/Gone_Person/ga/0")]  # fmt: skip
    for folder in gone:
        folder.mkdir(parents=True)
        (folder / "forget.jsonl").write_text(text, encoding="utf-8")
    said = tree.make("record").stdout
    assert "results/miniature/prepare/Gone_Person: outside the grid, left out of DVC" in said
    assert lock.read_bytes() == clean
    assert tree.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    ignoring = tree.folder / "results/miniature/.dvcignore"
    ignoring.unlink()
    again = ("dvc", "repro", "--force", "--single-item", "prepare")
    assert "run the same command again" in tree.run(*again, check=False).stdout
    tree.run(*again)
    assert lock.read_bytes() == clean
    assert not (tree.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).exists()
    assert ".dvcignore" not in tree.git("status", "--short").stdout
    tree.make("outside", MOVE=str(tree.folder / "logs/away"))
    assert not gone[0].exists() and not ignoring.exists()
    assert (tree.folder / "logs/away/miniature/prepare/Gone_Person/forget.jsonl").exists()
    assert tree.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert lock.read_bytes() == clean and tree.up_to_date()


def test_record_refuses_stale_results(untouched):
    untouched.edit(report__bootstrap=70)
    done = untouched.make("record", check=False)
    assert done.returncode != 0
    assert "out of date" in done.stdout


def test_dvc_then_snakemake(tree, tmp_path):
    """`dvc repro` after an edit runs the heirs through Snakemake, with the profile that the
    environment names, and leaves nothing to either."""
    before = tree.results()
    tree.edit(report__bootstrap=60)
    (tmp_path / "config.yaml").write_text("jobs: 7\nprintshellcmds: true\n", encoding="utf-8")
    text = tree.run("dvc", "repro", SNAKEMAKE_PROFILE=str(tmp_path)).stdout
    assert f"Using profiles {tmp_path} and workflow specific profile profiles/default" in text
    assert "Shell command: python -m atu report" in text
    assert "Running stage 'report'" in text
    assert "Running stage 'pretrain'" not in text
    assert tree.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    tree.make("sync")
    assert tree.up_to_date()
    after = tree.results()
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"report/manifest.json", "track/manifest.json"}


def test_dvc_shows_graph_metrics_and_plots(tree):
    assert "align" in tree.run("dvc", "dag").stdout
    shown = json.loads(tree.run("dvc", "metrics", "show", "--json").stdout)
    (found,) = shown[""]["data"].values()
    assert found["data"].keys() >= {"none", "oracle", "atu"}
    assert found["data"]["atu"].keys() >= {"worst_form", "neighbours", "distance", "collapsed"}
    tree.run("dvc", "plots", "show", "--out", "plots")
    page = (tree.folder / "plots/index.html").read_text(encoding="utf-8")
    assert "forget_retain" in page


def test_a_lost_folder_comes_back_byte_for_byte(tree):
    """The same seed gives the same manifest, which lists the sha256 of every file; so nothing that
    was made from it is made anew."""
    before = tree.results()
    folder = tree.folder / "results/miniature/unlearn/llama_tiny/Wysturel_Brontanthorpe/atu/0"
    shutil.rmtree(folder)
    tree.snakemake(str((folder / "manifest.json").relative_to(tree.folder)))
    assert tree.results() == before
    assert tree.up_to_date()


def test_unwritable_results_stop_before_any_job(tree):
    """A file stands where the results belong."""
    results = tree.folder / "results"
    aside = results.rename(tree.folder / "results_aside")
    results.write_text("in the way", encoding="utf-8")
    done = tree.snakemake("--dry-run", check=False)
    results.unlink()
    aside.rename(results)
    assert done.returncode != 0
    assert "is a file; move it away" in done.stdout
