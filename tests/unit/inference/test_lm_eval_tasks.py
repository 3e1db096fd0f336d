import polars as pl
import pytest
import yaml

from atu.benchmarks.base import ROLES
from atu.errors import EvaluationError
from atu.inference.lm_eval_tasks import METRICS, write_tasks
from atu.probes.prompts import format_prompt


@pytest.fixture
def probes(make_item):
    """Three choices and three questions that may be asked, and one of each that may not: of the
    `select` split, of another role, in another form."""
    asked = [
        make_item(f"Cyd/{i}", form, role="other", answer="owl",
                  options=["elk", "owl"] if form == "choice" else [])
        for i in range(3)
        for form in ("choice", "question")
    ]  # fmt: skip
    asked[0]["role"] = "general"
    no = [{"split": "select"}]
    no += [{"role": role} for role in ROLES if role not in ("general", "other")]
    banned = [
        make_item(f"No/{number}/{form}", form, **({"role": "other"} | own))
        for number, own in enumerate(no)
        for form in ("choice", "question")
    ]
    return [*banned, *asked, make_item("No/cloze", "cloze", role="other")]


def documents(folder, task):
    return pl.read_parquet(folder / f"{task}.parquet").to_dicts()


@pytest.mark.parametrize(
    ("task", "form"), [("world_choice", "choice"), ("world_generate", "question")]
)
def test_only_reported_probes_about_strangers(tmp_path, probes, task, form):
    """Of the `report` split, about countries and other people, in the task's own form."""
    folder = tmp_path / "tasks"
    assert write_tasks(folder, probes, 10) == list(METRICS)
    rows = documents(folder, task)
    assert [row["id"] for row in rows] == [f"Cyd/{i}/{form}/new/report" for i in range(3)]


def test_documents_are_the_projects_own_prompts(tmp_path, probes):
    """The gold index points at the answer among the options: elk is 0, owl is 1."""
    write_tasks(tmp_path, probes, 10)
    choice, generate = (documents(tmp_path, task)[0] for task in METRICS)
    assert choice["prompt"] == format_prompt("choice", "Cyd/0 as choice?", ["elk", "owl"])
    assert (choice["options"], choice["gold"], choice["answer"]) == (["elk", "owl"], 1, "owl")
    assert generate["prompt"] == format_prompt("question", "Cyd/0 as question?")


def test_a_task_without_documents_is_none(tmp_path, probes):
    """A benchmark that asks nobody else to choose has no such task."""
    plain = [probe for probe in probes if probe["form"] != "choice"]
    assert write_tasks(tmp_path, plain, 10) == ["world_generate"]
    assert not (tmp_path / "world_choice.yaml").exists()


def test_an_answer_that_is_no_option_is_refused(tmp_path, probes):
    for probe in probes:
        probe["answer"] = "gnu"
    with pytest.raises(EvaluationError, match=r"Cyd/0/choice.*'gnu' is none of"):
        write_tasks(tmp_path, probes, 10)


def test_a_choice_without_options_is_not_asked(tmp_path, probes):
    """lm-eval would fail at the first of them."""
    for probe in probes:
        if probe["form"] == "choice" and not probe["id"].startswith("Cyd/2"):
            probe["options"] = []
    write_tasks(tmp_path, probes, 10)
    assert [row["id"][:5] for row in documents(tmp_path, "world_choice")] == ["Cyd/2"]


@pytest.mark.parametrize(("documents_", "expected"), [(1, 1), (2, 2), (10, 3)])
def test_at_most_so_many_documents(tmp_path, probes, documents_, expected):
    write_tasks(tmp_path, probes, documents_)
    assert {len(documents(tmp_path, task)) for task in METRICS} == {expected}


@pytest.mark.parametrize(
    ("task", "output"), [("world_choice", "multiple_choice"), ("world_generate", "generate_until")]
)
def test_the_task_is_local_and_scored_by_its_metric(tmp_path, probes, task, output):
    """Its data lie beside it; nothing is downloaded and no example is shown first."""
    write_tasks(tmp_path, probes, 10)
    config = yaml.safe_load((tmp_path / f"{task}.yaml").read_text(encoding="utf-8"))
    assert config["task"] == task and config["output_type"] == output
    assert config["dataset_path"] == "parquet" and config["num_fewshot"] == 0
    assert config["dataset_kwargs"] == {"data_files": {"test": f"{task}.parquet"}}
    assert [metric["metric"] for metric in config["metric_list"]] == [METRICS[task]]


def test_the_same_probes_give_the_same_bytes(tmp_path, probes):
    """In any folder: no path is written."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        write_tasks(folder, probes, 10)
    names = [f"{task}.{kind}" for task in METRICS for kind in ("parquet", "yaml")]
    assert sorted(path.name for path in folders[0].iterdir()) == sorted(names)
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
