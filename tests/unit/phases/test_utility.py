import json
from pathlib import Path

import pytest

from atu.artifacts import MANIFEST, Artifact
from atu.data.tables import read_table
from atu.data.tasks import TASKS, write_tasks
from atu.errors import EvaluationError
from atu.metrics.fluency import distinct_tokens, fluency
from atu.phases import utility
from atu.phases.utility import GENERATION_BASED, continuations, run_lm_eval

HEALTHY = {"generate": 0.9, "fluency": 7.27, "distinct_tokens": 0.6, "choice": 0.778}


@pytest.fixture
def tasks(chain, tmp_path):
    """The miniature's tasks with 5 documents each."""
    probes = read_table(chain.prepared.file("probes.parquet"))
    return write_tasks(tmp_path / "tasks", probes, 5)


@pytest.fixture
def given_scores(monkeypatch):
    """A function that replaces lm-eval: document i of a task scores 1 where i is in `right`; the
    samples come in reverse order, without `lost` of each task's documents."""

    def given(right=(), lost=0):
        def evaluate(model, tokenizer, batch_size):
            samples, results = {}, {}
            for task, metric in TASKS.items():
                lines = Path(f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
                rows = [
                    {"doc": json.loads(line), "doc_id": i, metric: float(i in right)}
                    for i, line in enumerate(lines)
                ]
                samples[task] = rows[lost:][::-1]
                results[task] = {f"{metric},none": sum(r[metric] for r in rows) / len(rows)}
            return {"samples": samples, "results": results}

        monkeypatch.setattr(utility, "_evaluate", evaluate)

    return given


@pytest.fixture
def finish(tmp_path, chain, mini_params):
    """A function that runs the phase on the miniature's unlearned, random model."""

    def run(before=None):
        manifest = tmp_path / "utility" / MANIFEST
        utility.run(manifest, mini_params.utility, chain.unlearn, chain.prepared, before)
        return Artifact.open(manifest, "utility").metrics()

    return run


def test_scores_and_samples(tasks, given_scores):
    """2 of 5 documents right: .4 in both tasks; the rows are in the documents' order."""
    given_scores(right={0, 3})
    scores, samples = run_lm_eval(None, None, tasks, 1)
    assert scores == {"choice": 0.4, "choice_n": 5.0, "generate": 0.4, "generate_n": 5.0}
    for name in ("choice", "generate"):
        lines = (tasks / f"world_{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in samples if row["task"] == name]
        assert [row["id"] for row in rows] == [json.loads(line)["id"] for line in lines]
        assert [row["score"] for row in rows] == [1.0, 0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("lost", [1, 5])
def test_a_task_with_missing_documents_is_refused(tasks, given_scores, lost):
    """A mean over what is left would hide a crash."""
    given_scores(lost=lost)
    with pytest.raises(EvaluationError, match=f"world_choice: {5 - lost} of 5 documents scored"):
        run_lm_eval(None, None, tasks, 1)


def test_missing_documents_leave_no_result(tmp_path, finish, given_scores):
    given_scores(lost=1)
    with pytest.raises(EvaluationError, match="of 12 documents scored"):
        finish()
    assert not (tmp_path / "utility").exists()


def test_the_working_directory_comes_back(tasks, given_scores):
    before = Path.cwd()
    given_scores(lost=1)
    with pytest.raises(EvaluationError):
        run_lm_eval(None, None, tasks, 1)
    assert Path.cwd() == before


@pytest.mark.parametrize(
    ("before", "collapsed"),
    [
        (HEALTHY, 1.0),
        (HEALTHY | {"generate": 0.0, "fluency": 0.0, "distinct_tokens": 0.0}, 0.0),
        (None, 0.0),
    ],
    ids=["healthy before", "nothing to lose", "the original itself"],
)
def test_a_random_model_is_collapsed(store, finish, given_scores, before, collapsed):
    """Gibberish: no answer is right. Against a healthy original the flag is up; against one that
    knew nothing either, or as its own original, there was nothing to fall from. Multiple choice is
    not looked at."""
    given_scores()
    stored = None
    if before is not None:
        metrics = {f"utility/{name}/report": value for name, value in before.items()}
        stored = store("before", "utility", metrics=metrics)
    metrics = finish(stored)
    assert metrics["utility/generate/report"] == 0.0
    assert metrics["utility/collapsed/report"] == collapsed


@pytest.mark.parametrize("name", GENERATION_BASED)
def test_an_original_without_a_score_is_refused(store, finish, given_scores, name):
    given_scores()
    metrics = {f"utility/{k}/report": v for k, v in HEALTHY.items() if k != name}
    with pytest.raises(KeyError, match=name):
        finish(store("before", "utility", metrics=metrics))


def test_lm_eval_scored_every_document(chain, mini_params):
    """The chain ran lm-eval itself: its means are those of the samples it logged."""
    metrics, samples = chain.utility.metrics(), chain.utility.read_jsonl("samples.jsonl")
    for name in ("choice", "generate"):
        scores = [row["score"] for row in samples if row["task"] == name]
        assert len(scores) == mini_params.utility.documents
        assert metrics[f"utility/{name}_n/report"] == len(scores)
        assert metrics[f"utility/{name}/report"] == pytest.approx(sum(scores) / len(scores))


def test_continuations_are_of_people_never_targeted(chain, mini_params, monkeypatch):
    """The first 6 words of retain passages, none of which names the target."""
    asked = []
    monkeypatch.setattr(
        utility, "greedy_answers", lambda model, tokenizer, prompts, **_: asked.extend(prompts)
    )
    continuations(None, None, chain.prepared, mini_params.utility)
    passages = [
        row["text"]
        for row in read_table(chain.prepared.file("retain.parquet"))
        if row["form"] == "passage"
    ]
    assert len(asked) == mini_params.utility.fluency_prompts
    for opening in asked:
        assert len(opening.split()) == 6
        assert any(text.startswith(opening) for text in passages)
        assert chain.prepared.cell["target"] not in opening


def test_fluency_is_the_mean_over_continuations(chain):
    """Of the stored texts."""
    texts = [row["text"] for row in chain.utility.read_jsonl("fluency.jsonl")]
    metrics = chain.utility.metrics()
    for name, score in (("fluency", fluency), ("distinct_tokens", distinct_tokens)):
        expected = sum(map(score, texts)) / len(texts)
        assert metrics[f"utility/{name}/report"] == pytest.approx(expected)
