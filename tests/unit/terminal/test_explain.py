"""What made a number: its formula, its items, its inputs and the command."""

import json

import polars as pl
import pytest

from atu.errors import ArtifactError, ConfigError
from atu.metrics.membership import auc, membership_loss
from atu.metrics.memorisation import tofu_probability
from atu.phases.attack import ITEMS as ATTACKED
from atu.phases.attack import summarise as summarise_attack
from atu.phases.rephrase import summarise
from atu.results.artifacts import PROVENANCE, Artifact
from atu.results.files import write_jsonl
from atu.terminal.behind import SHOWN, behind
from atu.terminal.explain import explanation, print_explanation

MEASURE = "exact_match@own-2"
CELL = {"model": "m", "target": "Ada", "method": "ga", "seed": 0}


@pytest.fixture
def rephrased(store, make_items, ga_leaks):
    """GA's answers as in tests/unit/reporting, with all of their numbers."""
    items = make_items(leaks=ga_leaks)
    return store(
        "results/world/rephrase/m/Ada/ga/0", "rephrase", CELL,
        files={"items.parquet": items.write_parquet}, metrics=summarise(items),
        params={"batch_size": 8},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "count", "is_mean"),
    [
        (f"target.question.{MEASURE}", 0.0, 2, True),
        (f"target.cloze.{MEASURE}", 0.5, 2, True),
        (f"target.question_seen.{MEASURE}", 1.0, 2, True),
        (f"target.worst.{MEASURE}", 0.5, 2, True),
        (f"neighbour.question.{MEASURE}", 0.5, 2, True),
        ("target.question.n", 2.0, 2, False),
        ("target.empty_answers", 0.0, 14, False),
    ],
)
def test_the_answers_behind_a_number(rephrased, name, value, count, is_mean):
    """Two facts of each form; of the worst form a row per fact; fourteen questions about the
    target. That a number is the mean of its items is computed, not claimed."""
    key = f"rephrase/{name}/report"
    assert rephrased.metrics()[key] == value
    found = behind(rephrased, key, value, {})
    assert (found.file, found.count, found.is_mean) == ("items.parquet", count, is_mean)
    if is_mean:
        assert not behind(rephrased, key, value + 0.25, {}).is_mean


def test_no_mean_is_claimed_of_the_other_split(rephrased):
    """On `select` every item scored .5."""
    key = f"rephrase/target.question.{MEASURE}/select"
    found = behind(rephrased, key, rephrased.metrics()[key], {})
    assert (found.count, found.is_mean) == (2, True) and "split select" in found.rule


def test_the_items_behind_an_attack(store, make_attack_row):
    """Of two conditions one; what is counted has rows and no mean."""
    rows = [make_attack_row("a", "Ada/pet", 1.0), make_attack_row("a", "Ada/food", 0.0),
            make_attack_row("b", "Ada/pet", None)]  # fmt: skip
    frame = pl.DataFrame(rows, schema=ATTACKED, orient="row")
    job = store("a", "attack", CELL | {"attack": "lens"},
                files={"items.parquet": frame.write_parquet})  # fmt: skip
    for name, value in summarise_attack(rows).items():
        found = behind(job, f"attack/lens.{name}/report", value, {})
        assert found.is_mean is (name == f"target.a.{MEASURE}")
        assert found.count == (2 if ".a." in name else 1)


def test_the_questions_and_texts_behind_privacy(make_privacy):
    """Two questions about the target; an AUC tells four forget texts from four others."""
    job = make_privacy("p", CELL, 0.5)
    found = behind(job, f"privacy/target.{tofu_probability.id}/report", 0.5, {})
    assert (found.file, found.count, found.is_mean) == ("answers.parquet", 2, True)
    found = behind(job, f"privacy/forget.{membership_loss.id}.{auc.id}/report", 1.0, {})
    assert (found.file, found.count, found.is_mean) == ("texts.parquet", 8, False)
    assert found.rule == "texts of forget and holdout"
    found = behind(job, "privacy/all.tofu_model_utility@faithful-1/report", 0.5, {})
    assert (found.count, found.is_mean) == (8, False)


def test_the_documents_behind_a_task(store):
    rows = [{"task": "generate", "id": str(n), "score": n % 2} for n in range(8)]
    rows.append({"task": "choice", "id": "0", "score": 1})
    job = store("u", "utility", CELL, files={"samples.jsonl": lambda p: write_jsonl(p, rows)})
    found = behind(job, "utility/generate/report", 0.5, {})
    assert (found.count, found.is_mean, len(found.examples)) == (8, True, SHOWN)
    assert not behind(job, "utility/generate_n/report", 8.0, {}).is_mean
    assert behind(job, "utility/perplexity/report", 3.0, {}) is None


def test_the_items_behind_the_reports_numbers(reported):
    """Of two seeds: four questions; per fact and seed the worst form."""
    results = reported(seeds=(0, 1))
    job = Artifact.open(results / "report/manifest.json", "report")
    paths = results.glob("rephrase/**/manifest.json")
    cells = {a.digest: a for a in (Artifact.open(path, "rephrase") for path in paths)}
    for key, count in ((f"target.{MEASURE}", 4), (f"worst_form.{MEASURE}", 4)):
        name = f"report/m.ga.{key}/report"
        found = behind(job, name, job.metrics()[name], cells)
        assert (found.count, found.is_mean) == (count, True)
    assert behind(job, "report/m.ga.generate/report", 0.9, cells) is None
    assert behind(job, name, 0.5, {}) is None


def test_a_number_is_explained(rephrased, tmp_path, capsys, monkeypatch):
    """Its registered formula, where it stands, parameters, code, and what makes it again."""
    monkeypatch.setenv("COLUMNS", "80")
    path = rephrased.folder / PROVENANCE
    record = json.loads(path.read_text(encoding="utf-8"))
    record |= {"command": ["/x/atu/__main__.py", "rephrase", "--out", "a b"], "seconds": 1.5}
    path.write_text(json.dumps(record), encoding="utf-8")
    results = tmp_path / "results/world"
    found = explanation(results, f"rephrase/target.cloze.{MEASURE}/report", "ga/0")
    assert (found.value, found.file) == (0.5, rephrased.folder / "metrics.json")
    assert [entry["id"] for entry in found.formulas] == [MEASURE]
    assert found.params == {"batch_size": "8"} and found.cell["seed"] == 0
    assert found.again == [
        f"snakemake --cores 1 --force {rephrased.folder}/manifest.json",
        "python -m atu rephrase --out 'a b'",
    ]
    print_explanation(found)
    text = capsys.readouterr().out
    assert f"{MEASURE}: " in text and "seconds: 1.5" in text and "\x1b" not in text
    assert (
        "2 in items.parquet: split report, role target, wordings of no corpus, form cloze; " in text
    )
    assert f"code.commit: {record['code']['commit']}" in text.replace("null", "None")


def test_inputs_are_named_by_their_folders(reported):
    """And what is gone by its hash."""
    results = reported()
    found = explanation(results, "report/m.ga.generate/report", None)
    assert found.inputs["rephrase/0"] == str(results / "rephrase/m/Ada/ga/0")
    cell = explanation(results, f"rephrase/target.worst.{MEASURE}/report", "oracle")
    assert cell.inputs["prepare"].startswith("gone: ")


def test_hostile_items_are_shown_in_one_line(store, make_items, make_item, capsys, tmp_path):
    evil = "\x1b[2J[bold]x[/bold]\nagain\n"
    items = make_items(leaks=set(), extra=[make_item("Ada/job", "cloze", output=evil)])
    store("results/x/rephrase/m/Ada/ga/0", "rephrase", CELL,
          files={"items.parquet": items.write_parquet}, metrics=summarise(items))  # fmt: skip
    found = explanation(tmp_path / "results/x", f"target.cloze.{MEASURE}/report", None)
    print_explanation(found)
    text = capsys.readouterr().out
    assert r"\x1b[2J[bold]x[/bold]\nagain\n" in text and "\x1b" not in text


@pytest.mark.parametrize(
    ("metric", "run", "says"),
    [
        (
            "rephrase/target.clozes/report",
            "ga",
            "METRIC = 'rephrase/target.clozes/report': no number",
        ),
        (MEASURE, "ga/0", "is a part of several; name one: rephrase/"),
        (
            f"target.cloze.{MEASURE}/report",
            "npo",
            "--run = 'npo': no finished job; there are rephrase/m",
        ),
        (
            f"target.cloze.{MEASURE}/report",
            None,
            "has several jobs; name one: rephrase/m/Ada/ga/0, reph",
        ),
    ],
)
def test_what_is_not_there_or_not_one_is_refused(rephrased, store, tmp_path, metric, run, says):
    store("results/world/rephrase/m/Ada/ga/1", "rephrase", CELL | {"seed": 1},
          metrics=rephrased.metrics())  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        explanation(tmp_path / "results/world", metric, run)
    assert says in str(caught.value)


def test_results_in_which_nothing_is_finished_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="holds no finished job"):
        explanation(tmp_path, "x", None)
