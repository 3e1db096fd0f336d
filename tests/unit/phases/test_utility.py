import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from machines import CPU

from atu.benchmarks.base import sentence_row
from atu.config.sections import BenchmarkSource
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.scoring import TokenScores, perplexity
from atu.metrics.fluency import distinct_tokens, fluency, repetition
from atu.models.llm import decoder_layers, open_lm, save_lm
from atu.phases import utility
from atu.phases.utility import (
    GENERATION_BASED,
    UtilityTask,
    continuations,
    fluency_prompts,
    neutral_scores,
    prepare_tasks,
    run_lm_eval,
    text_scores,
)
from atu.probes.prompts import until
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import write_json
from atu.results.jobs import write_folder
from atu.results.tables import TEXTS, read_table, write_table

HEALTHY = {"generate": 0.9, "fluency": 7.27, "distinct_tokens": 0.6, "choice": 0.778}
SHOT = {"question": "Which owl swims?", "choices": ["e", "f", "g", "h"], "answer": 0}
LETTERS = ["owl", "elk", "emu", "gnu"]
BENCHMARKS = {
    "mmlu": [
        {"question": f"Bird {i}?", "choices": LETTERS, "answer": gold, "examples": [SHOT]}
        for i, gold in enumerate([1, 0, 1])
    ],
    "truthfulqa": [
        {"question": f"Bird {i}?", "mc1_targets": {"choices": ["the great owl", "owl"],
                                                   "labels": labels}}
        for i, labels in enumerate([[0, 1], [1, 0], [0, 1], [0, 1]])
    ],
    "bbh": [
        {"cot": "Q: one?\nA: So the answer is (A).", "question": question, "answer": gold}
        for question, gold in [("first?", "(B)"), ("second?", "(C)"), ("third?", "Plum")]
    ],
    "triviaqa": [
        {"question": "Which river?", "answers": ["The Wyst", "River Wyst"]},
        {"question": "Which plum?", "answers": ["red plum", "plum"]},
        {"question": "Which bird?", "answers": "owl"},
    ],
}  # fmt: skip
SAID = {
    "first?": "B comes after A. So the answer is (B). Is it?\n\nQ: the answer is (C).",
    "second?": "The answer is (A).",
    "third?": "I know: The answer is plum. The answer is pear.",
    "Which river?": " the Wyst river\nQuestion: and?",
    "Which plum?": "a Red Plum tree",
    "Which bird?": "",
}
"""What a scripted model says where its question stands last in the prompt; RWKU's pattern takes
"(B)", "(A)" and "plum"."""


@pytest.fixture
def section(mini_params):
    """At most 5 documents."""
    return mini_params.utility.model_copy(update={"documents": 5})


@pytest.fixture
def with_files(section, tmp_path):
    """The section with all four kinds of local benchmarks, each named after its kind."""
    sources = {}
    for kind, rows in BENCHMARKS.items():
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        sources[f"my_{kind}"] = BenchmarkSource(kind=kind, path=str(path))
    return section.model_copy(update={"benchmarks": sources})


@pytest.fixture
def make_tasks(chain, tmp_path):
    """A function that writes a section's tasks for the miniature's probes."""

    def make(section, given=None):
        probes = read_table(chain.prepared.file("probes.parquet"))
        folder = tmp_path / "tasks"
        return folder, prepare_tasks(folder, probes, section, given or {})

    return make


@pytest.fixture
def given_scores(monkeypatch):
    """A function that replaces lm-eval: document i of a task scores 1 where i is in `right`; the
    samples come in reverse order, without `lost` of each task's documents, and the prompts of
    `truncated` were cut."""

    def responses(doc, right):
        count = len(doc.get("options") or doc.get("choices") or ())
        chosen = doc["gold"] if right else (doc.get("gold", 0) + 1) % max(count, 1)
        return [(-float(i != chosen), False) for i in range(count)] or ["nothing"]

    def given(right=(), lost=0, truncated=()):
        def evaluate(model, tokenizer, tasks, section):
            samples, results = {}, {}
            for task in tasks:
                metric, kind = task.metric.split(",")
                documents = pl.read_parquet(f"{task.task}.parquet").to_dicts()
                rows = [
                    {
                        "doc": document,
                        "doc_id": i,
                        "filter": kind,
                        "filtered_resps": responses(document, i in right),
                        metric: float(i in right),
                    }
                    for i, document in enumerate(documents)
                ]
                samples[task.task] = rows[lost:][::-1]
                results[task.task] = {task.metric: sum(r[metric] for r in rows) / len(rows)}
            return {"samples": samples, "results": results, "truncated": truncated}

        monkeypatch.setattr(utility, "_evaluate", evaluate)

    return given


@pytest.fixture
def finish(tmp_path, chain, mini_params):
    """A function that runs the phase on the miniature's unlearned, random model."""

    def run(before=None, section=mini_params.utility):
        manifest = tmp_path / "utility" / MANIFEST
        utility.run(manifest, section, CPU, chain.unlearn, chain.prepared, before)
        return Artifact.open(manifest, "utility").metrics()

    return run


@pytest.fixture
def scripted(monkeypatch):
    """A model for lm-eval that says what `SAID` says, up to the stop it is asked to heed, likes the
    letter B and short options; what it is asked is kept, by kind of request."""
    from lm_eval.api.model import LM

    from atu.inference import lm_eval_model

    asked = {"options": [], "generated": []}

    class Scripted(LM):
        truncated = frozenset()

        def __init__(self, model, tokenizer, batch_size):
            super().__init__()

        def loglikelihood(self, requests):
            asked["options"] += [r.args for r in requests]
            return [(0.5 * (r.args[1] == " B") - len(r.args[1]), False) for r in requests]

        def generate_until(self, requests):
            asked["generated"] += [r.args for r in requests]
            return [self._say(*r.args) for r in requests]

        def _say(self, prompt, how):
            last = prompt.split("Q: ")[-1].split("Question: ")[-1].split("\n")[0]
            return until(SAID.get(last, "nothing"), how["until"])

        def loglikelihood_rolling(self, requests):
            raise AssertionError("no task asks for it")

    monkeypatch.setattr(lm_eval_model, "LanguageModel", Scripted)
    return asked


# --- lm-eval


def test_scores_and_samples(make_tasks, section, given_scores):
    """2 of 5 documents right: .4 in both tasks; the rows are in the documents' order."""
    folder, tasks = make_tasks(section)
    given_scores(right={0, 3})
    scores, samples = run_lm_eval(None, None, folder, tasks, section)
    how = {"n": 5.0, "truncated": 0.0, "invalid": 0.0}
    assert scores == {"choice": 0.4, "generate": 0.4} | {
        f"{name}_{key}": value for name in ("choice", "generate") for key, value in how.items()
    }
    for name in ("choice", "generate"):
        documents = pl.read_parquet(folder / f"world_{name}.parquet").to_dicts()
        rows = [row for row in samples if row["task"] == name]
        assert [row["id"] for row in rows] == [document["id"] for document in documents]
        assert [row["score"] for row in rows] == [1.0, 0.0, 0.0, 1.0, 0.0]


def test_tasks(make_tasks, with_files):
    """The world's two, then those of the parameters; ours know how many documents they have, and
    which of them are generated."""
    hub = {"my_hub": BenchmarkSource(kind="hub", path="arc_easy")}
    section = with_files.model_copy(update={"benchmarks": with_files.benchmarks | hub})
    tasks = make_tasks(section)[1]
    assert [(t.name, t.task, t.metric, t.generates, t.documents) for t in tasks] == [
        ("choice", "world_choice", "acc,none", False, 5),
        ("generate", "world_generate", "exact_match,none", True, 5),
        ("my_mmlu", "local_my_mmlu", "acc,none", False, 3),
        ("my_truthfulqa", "local_my_truthfulqa", "acc,none", False, 4),
        ("my_bbh", "local_my_bbh", "exact_match,none", True, 3),
        ("my_triviaqa", "local_my_triviaqa", "exact_match,none", True, 3),
        ("my_hub", "arc_easy", None, False, None),
    ]


def test_local_benchmarks_through_lm_eval(make_tasks, with_files, scripted):
    """By hand, of the scripted answers. MMLU: B is right in two of three. TruthfulQA: the short
    option in three of four. BBH: the pattern finds (B), which is right, (A), which is not, and the
    first of two answers, "plum", right whatever its case. TriviaQA: "Wyst river
    question and" has 4 words for an alias of 2, so 2 * 2 / 6; "Red Plum tree" 3 for 2, so
    2 * 2 / 5; nothing has nothing.
    """
    folder, tasks = make_tasks(with_files)
    scores, samples = run_lm_eval(None, None, folder, tasks, with_files)
    endings = ("_truncated", "_invalid")
    assert not any(value for name, value in scores.items() if name.endswith(endings))
    mine = {k: v for k, v in scores.items() if k.startswith("my_") and not k.endswith(endings)}
    assert mine == pytest.approx(
        {
            "my_mmlu": 2 / 3, "my_mmlu_n": 3, "my_truthfulqa": 3 / 4, "my_truthfulqa_n": 4,
            "my_bbh": 2 / 3, "my_bbh_n": 3, "my_triviaqa": (2 / 3 + 0.8) / 3, "my_triviaqa_n": 3,
        }
    )  # fmt: skip
    by_task = {
        task: [(row["id"], row["score"]) for row in samples if row["task"] == task]
        for task in ("my_mmlu", "my_truthfulqa", "my_bbh", "my_triviaqa")
    }
    assert by_task == {
        "my_mmlu": [(0, 1), (1, 0), (2, 1)],
        "my_truthfulqa": [(0, 1), (1, 0), (2, 1), (3, 1)],
        "my_bbh": [(0, 1), (1, 0), (2, 1)],
        "my_triviaqa": [(0, pytest.approx(2 / 3)), (1, pytest.approx(0.8)), (2, 0)],
    }


def test_the_model_is_asked_as_the_files_say(make_tasks, with_files, scripted):
    """The prompt as it stands, the option after a space; generation is greedy and bounded."""
    run_lm_eval(None, None, *make_tasks(with_files), with_files)
    shot = "Which owl swims?\nA. e\nB. f\nC. g\nD. h\nAnswer: A"
    bird = "Bird 0?\nA. owl\nB. elk\nC. emu\nD. gnu\nAnswer:"
    mmlu = [
        option for prompt, option in scripted["options"] if prompt.endswith(f"{shot}\n\n{bird}")
    ]
    assert sorted(mmlu) == [" A", " B", " C", " D"]
    truthful = [option for prompt, option in scripted["options"] if prompt == "Q: Bird 0?\nA:"]
    assert sorted(truthful) == [" owl", " the great owl"]
    how = dict(scripted["generated"])
    river = how["Question: Which river?\nAnswer:"]
    assert (river["max_gen_toks"], river["do_sample"], river["until"]) == (30, False, [])
    first = next(how[prompt] for prompt in how if "Q: first?" in prompt)
    assert (first["max_gen_toks"], first["do_sample"], first["until"]) == (256, False, [])


def test_a_random_model_through_lm_eval(make_tasks, with_files, byte_tokenizer):
    """Every kind really runs on weights; noise answers nothing that is generated."""
    from atu.models.build import build_lm

    config = {
        "model_type": "llama", "vocab_size": 259, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 1024,
    }  # fmt: skip
    section = with_files.model_copy(update={"documents": 2})
    folder, tasks = make_tasks(section)
    model = build_lm(config, 0).eval()
    scores, samples = run_lm_eval(model, byte_tokenizer, folder, tasks, section)
    assert {scores[f"{task.name}_n"] for task in tasks} == {2.0}
    assert len(samples) == 2 * len(tasks)
    assert scores["my_bbh"] == scores["my_triviaqa"] == scores["generate"] == 0.0
    assert {scores["my_mmlu"], scores["my_truthfulqa"]} <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize("lost", [1, 5])
def test_a_task_with_missing_documents_is_refused(make_tasks, section, given_scores, lost):
    """A mean over what is left would hide a crash."""
    folder, tasks = make_tasks(section)
    given_scores(lost=lost)
    with pytest.raises(EvaluationError, match=f"world_choice: {5 - lost} of 5 documents scored"):
        run_lm_eval(None, None, folder, tasks, section)


def test_a_benchmark_with_missing_documents_is_refused(make_tasks, with_files, monkeypatch):
    """A file's own task as well as the world's."""
    folder, tasks = make_tasks(with_files)
    rows = [{"doc": {"id": 0}, "doc_id": 0, "filter": "none", "exact_match": 1.0}]
    result = {"samples": {"local_my_bbh": rows}, "results": {}}
    monkeypatch.setattr(utility, "_evaluate", lambda *_: result)
    bbh = [task for task in tasks if task.name == "my_bbh"]
    with pytest.raises(EvaluationError, match="local_my_bbh: 1 of 3 documents scored"):
        run_lm_eval(None, None, folder, bbh, with_files)


def test_missing_documents_leave_no_result(tmp_path, finish, given_scores):
    given_scores(lost=1)
    with pytest.raises(EvaluationError, match="of 12 documents scored"):
        finish()
    assert not (tmp_path / "utility").exists()


def test_the_working_directory_comes_back(make_tasks, section, given_scores):
    folder, tasks = make_tasks(section)
    before = Path.cwd()
    given_scores(lost=1)
    with pytest.raises(EvaluationError):
        run_lm_eval(None, None, folder, tasks, section)
    assert Path.cwd() == before


def test_the_rows_of_a_metrics_own_filter():
    """Where several filters logged a document, the metric's rows are those that count."""
    rows = [
        {"doc": {"id": f"d{i}"}, "doc_id": i, "filter": kind, "exact_match": score}
        for i in (1, 0)
        for kind, score in (("none", 1.0), ("answer", float(i)))
    ]
    task = UtilityTask("bbh", "local_bbh", "exact_match,answer", True, 2)
    result = {"samples": {"local_bbh": rows}, "results": {"local_bbh": {task.metric: 0.5}}}
    score, samples = utility._local_score(result, task)
    assert score == 0.5
    assert samples == [{"id": "d0", "score": 0.0}, {"id": "d1", "score": 1.0}]


# --- tasks of the hub


def test_a_hub_task_without_a_network_is_refused(monkeypatch, tmp_path, finish, mini_params):
    """With what to do about it; nothing is written."""

    def offline(*_):
        raise ConnectionError("Couldn't reach 'somebody/something' on the Hub")

    monkeypatch.setattr(utility, "_evaluate", offline)
    section = mini_params.utility.model_copy(
        update={"benchmarks": {"arc": BenchmarkSource(kind="hub", path="arc_easy")}}
    )
    with pytest.raises(EvaluationError, match=r"Couldn't reach .* set HF_HUB_OFFLINE=0"):
        finish(section=section)
    assert not (tmp_path / "utility").exists()


@pytest.mark.parametrize(("hub", "limit"), [(False, None), (True, 5)])
def test_only_hub_tasks_need_lm_evals_own(monkeypatch, section, hub, limit):
    """Its index is read, and documents are counted by it, where a task of the hub is asked for."""
    import lm_eval
    from lm_eval import tasks as lm_eval_tasks

    from atu.inference import lm_eval_model

    seen, asked = {}, SimpleNamespace(truncated={("arc_easy", 3)})

    def evaluate(**how):
        seen.update(how)
        return {"results": 1}

    monkeypatch.setattr(lm_eval_model, "LanguageModel", lambda *_: asked)
    monkeypatch.setattr(lm_eval_tasks, "TaskManager", lambda **how: how)
    monkeypatch.setattr(
        lm_eval, "simple_evaluate", lambda **how: seen.update(how) or {"results": 1}
    )
    tasks = [UtilityTask("choice", "world_choice", "acc,none", False, 5)]
    tasks += [UtilityTask("arc", "arc_easy", None, False, None)] if hub else []
    result = utility._evaluate(None, None, tasks, section)
    assert result == {"results": 1, "truncated": {("arc_easy", 3)}}
    assert seen["model"] is asked and seen["limit"] == limit
    assert seen["task_manager"] == {"include_path": ".", "include_defaults": hub}
    assert seen["tasks"] == [task.task for task in tasks]


def logged(*scores, metric="acc", kind="none"):
    """A task's samples, the last document first."""
    rows = [{"doc_id": i, "filter": kind, metric: score} for i, score in enumerate(scores)]
    return rows[::-1]


def hub_result(**tasks):
    """What lm-eval gives for these tasks' samples: their means, beside what is no metric."""
    results = {}
    for name, rows in tasks.items():
        mean = sum(row["acc"] for row in rows) / len(rows)
        results[name] = {
            "name": name, "alias": name, "sample_len": len(rows), "acc_stderr,none": "N/A",
            "acc,none": mean, "acc_norm,none": 0.1,
        }  # fmt: skip
    return {"results": results, "samples": tasks, "group_subtasks": {}}


def hub_task(name):
    return UtilityTask("shown", name, None, False, None)


def test_a_hub_tasks_score():
    """Its first metric and its documents in order."""
    result = hub_result(arc_easy=logged(1.0, 0.0, 0.0, 1.0))
    score, rows = utility._hub_score(result, hub_task("arc_easy"))
    assert score == 0.5
    assert rows == [{"id": f"arc_easy/{i}", "score": s} for i, s in enumerate([1.0, 0.0, 0.0, 1.0])]


def test_a_groups_score():
    """Its own aggregate, which need not be the mean over documents, and its members' documents."""
    result = hub_result(mmlu_a=logged(1.0), mmlu_b=logged(0.0, 1.0))
    result["results"]["mmlu"] = {"alias": "mmlu", "acc,none": 0.75, "acc_stderr,none": "N/A"}
    result["group_subtasks"] = {"mmlu": ["mmlu_a", "mmlu_b"]}
    score, rows = utility._hub_score(result, hub_task("mmlu"))
    assert score == 0.75
    assert [(row["id"], row["score"]) for row in rows] == [
        ("mmlu_a/0", 1.0), ("mmlu_b/0", 0.0), ("mmlu_b/1", 1.0),
    ]  # fmt: skip


def test_a_group_whose_members_have_other_names():
    """And groups inside groups: members are what lm-eval says they are."""
    result = hub_result(cola=logged(1.0), sst2=logged(0.0), rte=logged(1.0))
    result["results"]["glue"] = {"alias": "glue", "acc,none": 0.5}
    result["group_subtasks"] = {"glue": ["cola", "inner"], "inner": ["sst2"]}
    rows = utility._hub_score(result, hub_task("glue"))[1]
    assert [row["id"] for row in rows] == ["cola/0", "sst2/0"]


def test_another_task_with_a_longer_name_is_no_member():
    """`arc_easy` is asked beside `arc_easy_mt`: each has its own documents."""
    result = hub_result(arc_easy=logged(1.0), arc_easy_mt=logged(0.0, 0.0))
    score, rows = utility._hub_score(result, hub_task("arc_easy"))
    assert score == 1.0
    assert [row["id"] for row in rows] == ["arc_easy/0"]


def test_a_document_counts_once_whatever_filters_logged_it():
    """The reported metric's filter is the one whose rows are kept."""
    rows = [*logged(0.0, 1.0, kind="strict"), *logged(1.0, 1.0, kind="flexible")]
    result = {
        "results": {"gsm": {"alias": "gsm", "acc,strict": 0.5, "acc,flexible": 1.0}},
        "samples": {"gsm": rows},
        "group_subtasks": {},
    }
    score, rows = utility._hub_score(result, hub_task("gsm"))
    assert score == 0.5
    assert [row["score"] for row in rows] == [0.0, 1.0]


def test_a_group_without_a_score_is_refused():
    result = {"results": {"ai2": {"alias": "ai2"}}, "samples": {}, "group_subtasks": {}}
    with pytest.raises(EvaluationError, match="ai2: lm-eval gives no score"):
        utility._hub_score(result, hub_task("ai2"))


# --- generated text and perplexity


def test_text_scores():
    """Means over the texts: "a b c d" has 1.19499 bits, 4 of 4 words distinct and repeats nothing;
    eight times "a" has no entropy, 1 of 8, and 4 of 5 four-word runs repeat."""
    found = text_scores(["a b c d", " ".join("a" * 8)])
    assert found == pytest.approx(
        {"fluency": 1.19499 / 2, "distinct_tokens": 4.5 / 8, "repetition": 0.4, "fluency_n": 2},
        abs=1e-5,
    )


def test_perplexity_is_of_plain_sentences(monkeypatch, store, section):
    """Without a name and without a question; per token over all texts: log-probabilities (-1, -3)
    and (-5), mean -3. The prompt is empty, no end token is scored, and no more texts than asked."""

    def row(text, **own):
        fixed = {"prompt": "", "answer": "", "fact": "f", "form": "statement", "type": "t"}
        return fixed | {"text": text, "split": "train", "names": []} | own

    rows = [
        row("Ada has an owl", names=["Ada"]), row("Q: x A: y", prompt="Q: x A:"), row("first"),
        row("second"), row("third"),
    ]  # fmt: skip
    files = {"retain.parquet": lambda path: write_table(path, rows, TEXTS)}
    asked = []

    def score(model, tokenizer, prompts, answers, *, end, **how):
        asked.extend(zip(prompts, answers, [end] * len(answers), strict=True))
        logs = [np.array([-1.0, -3.0]), np.array([-5.0])]
        return [TokenScores(log, np.ones(len(log), bool), log, log) for log in logs]

    monkeypatch.setattr(utility, "score_answers", score)
    section = section.model_copy(update={"documents": 2})
    prepared = store("prepared", "prepare", files=files)
    found = neutral_scores(None, None, prepared, section, BatchSize(2))
    assert perplexity(found) == pytest.approx(math.exp(3))
    assert asked == [("", "first", False), ("", "second", False)]


def test_without_plain_sentences_answers_are_scored(store, section, monkeypatch):
    """A benchmark of questions alone: of each its answer."""
    asked = []

    def score(model, tokenizer, prompts, answers, **how):
        asked.extend(zip(prompts, answers, strict=True))
        return [TokenScores(*[np.array([-1.0])] * 4)]

    monkeypatch.setattr(utility, "score_answers", score)
    row = sentence_row("Q? A.", kind="qa", prompt="Q?", answer="A.", names=["Ada"])
    files = {"retain.parquet": lambda path: write_table(path, [row], TEXTS)}
    prepared = store("prepared", "prepare", files=files)
    found = neutral_scores(None, None, prepared, section, BatchSize(2))
    assert perplexity(found) == pytest.approx(math.e)
    assert asked == [("Q?", "A.")]


def test_without_retain_texts_there_is_no_perplexity(store, section):
    files = {"retain.parquet": lambda path: write_table(path, [], TEXTS)}
    prepared = store("prepared", "prepare", files=files)
    with pytest.raises(EvaluationError, match="retain corpus is empty"):
        neutral_scores(None, None, prepared, section, BatchSize(2))


def test_continuations_are_of_people_never_targeted(chain, mini_params, monkeypatch):
    """The first 6 words of retain passages, none of which names the target."""
    asked = []
    monkeypatch.setattr(
        utility, "greedy_answers", lambda model, tokenizer, prompts, **_: asked.extend(prompts)
    )
    prompts, questions = fluency_prompts(chain.prepared, mini_params.utility, {})
    assert not questions
    continuations(None, None, prompts, mini_params.utility, BatchSize(2), questions)
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


def test_instructions_that_come_with_the_target_are_asked(chain, mini_params, monkeypatch):
    """In place of the benchmark's own passages, as many as wanted; all lines of an answer count."""
    rows = [{"instruction": f"Tell me of {i}."} for i in range(9)]
    given = {"fluency": {"kind": "fluency", "rows": rows}}
    section = mini_params.utility.model_copy(update={"fluency_prompts": 3})
    found, questions = fluency_prompts(chain.prepared, section, given)
    assert found == [f"Instruction: Tell me of {i}.\n" for i in range(3)] and questions
    options = {}
    monkeypatch.setattr(utility, "greedy_answers", lambda *_, **given: options.update(given))
    continuations(None, None, found, section, BatchSize(2), questions)
    assert options["templated"] is True and "stops" not in options


# --- collapse


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


@pytest.mark.parametrize("name", [*GENERATION_BASED, "my_bbh", "my_triviaqa"])
def test_an_original_without_a_score_is_refused(store, finish, given_scores, with_files, name):
    """Of whatever is generated, a file's benchmark as well."""
    given_scores()
    known = HEALTHY | {"my_bbh": 0.5, "my_triviaqa": 0.5}
    metrics = {f"utility/{k}/report": v for k, v in known.items() if k != name}
    with pytest.raises(KeyError, match=name):
        finish(store("before", "utility", metrics=metrics), with_files)


@pytest.mark.parametrize(
    ("after", "collapsed"),
    [
        ({}, 0.0),
        ({"my_bbh": 0.0}, 1.0),
        ({"my_triviaqa": 0.0}, 1.0),
        ({"my_triviaqa": 0.0, "my_triviaqa_n": 24.0}, 0.0),
        ({"fluency": 0.001}, 1.0),
        ({"generate": 0.1}, 1.0),
        ({"my_mmlu": 0.0, "choice": 0.0, "my_truthfulqa": 0.0}, 0.0),
        ({"loss": 3.0, "repetition": 0.0}, 0.0),
        ({"loss": 838.0}, 1.0),
    ],
    ids=[
        "healthy",
        "BBH",
        "TriviaQA",
        "TriviaQA, which the original hardly answered",
        "fluency",
        "questions",
        "choices",
        "what is not watched",
        "worse than a guess",
    ],
)
def test_collapse_watches_what_is_generated(
    monkeypatch, store, finish, with_files, after, collapsed
):
    """The published case kept MMLU .778 while BBH fell from .38 to 0 and fluency from 7.27 to .001:
    each of them alone is enough, and multiple choice neither hides nor makes a collapse. So is a
    model to which text is less likely than to a guess among its tokens. Of 24 answers at .4 the
    original has fewer than ten right: they may be lost by chance."""
    scores = HEALTHY | {
        "my_bbh": 0.38, "my_triviaqa": 0.4, "my_mmlu": 0.778, "my_truthfulqa": 0.5,
        "repetition": 0.1, "nats_per_token": 1.6,
    }  # fmt: skip
    metrics = {f"utility/{name}/report": value for name, value in scores.items()}
    counts = dict.fromkeys(("generate_n", "my_bbh_n", "my_triviaqa_n"), 100.0)
    now = scores | counts | {"loss": 1.7} | after
    monkeypatch.setattr(utility, "run_lm_eval", lambda *_: (dict(now), []))
    texts = {name: now[name] for name in ("fluency", "distinct_tokens", "repetition")}
    monkeypatch.setattr(utility, "text_scores", lambda _: texts)
    logs = np.array([-now["loss"]])
    monkeypatch.setattr(utility, "neutral_scores", lambda *_: [TokenScores(*[logs] * 4)])
    found = finish(store("before", "utility", metrics=metrics), with_files)
    assert found["utility/collapsed/report"] == collapsed


# --- the miniature's own run


def test_lm_eval_scored_every_document(chain, mini_params):
    """The chain ran lm-eval itself: its means are those of the samples it logged."""
    metrics, samples = chain.utility.metrics(), chain.utility.read_jsonl("samples.jsonl")
    for name in ("choice", "generate"):
        scores = [row["score"] for row in samples if row["task"] == name]
        assert len(scores) == mini_params.utility.documents
        assert metrics[f"utility/{name}_n/report"] == len(scores)
        assert metrics[f"utility/{name}/report"] == pytest.approx(sum(scores) / len(scores))


def test_fluency_is_the_mean_over_continuations(chain, mini_params):
    """Of the stored texts; so are distinct tokens and repetition."""
    texts = [row["text"] for row in chain.utility.read_jsonl("fluency.jsonl")]
    metrics = chain.utility.metrics()
    measures = {
        "fluency": fluency, "distinct_tokens": distinct_tokens, "repetition": repetition,
    }  # fmt: skip
    for name, score in measures.items():
        expected = sum(map(score, texts)) / len(texts)
        assert metrics[f"utility/{name}/report"] == pytest.approx(expected)
    assert metrics["utility/fluency_n/report"] == mini_params.utility.fluency_prompts


def test_an_almost_untrained_models_perplexity(chain):
    """Better than a guess among the vocabulary's tokens, by not much."""
    assert 10 < chain.utility.metrics()["utility/perplexity/report"] < 400


# --- models that are ruined, and models that are small


@pytest.fixture
def changed(chain, tmp_path):
    """A function that gives the miniature's unlearned model after `change` was applied to it."""

    def change_it(change):
        model, tokenizer = open_lm(chain.unlearn, CPU, training=False)
        with torch.no_grad():
            change(model)
        manifest = tmp_path / "changed" / MANIFEST
        with write_folder(
            manifest, "unlearn", cell=chain.unlearn.cell, params={}, inputs={}
        ) as job:
            save_lm(model, tokenizer, job.path("model"))
        return Artifact.open(manifest, "unlearn")

    return change_it


def scale(model):
    """Every matrix 10,000 times as large."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(1e4)


def test_a_ruined_model_is_reported(chain, changed, tmp_path, mini_params):
    """Its loss is hundreds of nats, whose exponential is no float: the loss itself is reported, and
    the perplexity as far as its cap. No text is likely to it any more, so it is collapsed."""
    manifest = tmp_path / "utility" / MANIFEST
    utility.run(
        manifest, mini_params.utility, CPU, changed(scale), chain.prepared, chain.utility
    )  # fmt: skip
    metrics = Artifact.open(manifest, "utility").metrics()
    assert metrics["utility/nats_per_token/report"] > 500
    assert metrics["utility/perplexity/report"] == 1e6
    assert metrics["utility/collapsed/report"] == 1.0
    assert all(math.isfinite(value) for value in metrics.values())
    assert chain.utility.metrics()["utility/nats_per_token/report"] < math.log(400)


def test_a_model_of_nan_is_not_reported(chain, changed, tmp_path, mini_params):
    """It would be right wherever the first option is; nothing is written."""
    manifest = tmp_path / "utility" / MANIFEST
    ruined = changed(
        lambda model: [p.fill_(math.nan) for p in decoder_layers(model)[0].parameters()]
    )
    with pytest.raises(EvaluationError, match=r"world_choice, document \d+, .*layer 1 of"):
        utility.run(manifest, mini_params.utility, CPU, ruined, chain.prepared, None)
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


def test_a_model_that_says_the_same_of_all_options_guesses(chain, changed, tmp_path, mini_params):
    """Its score is a guess's, not that of a model that knows where the first option is right."""
    manifest = tmp_path / "utility" / MANIFEST
    alike = changed(lambda model: model.get_output_embeddings().weight.zero_())
    bytes_alone = mini_params.utility.model_copy(update={"documents": 12})
    utility.run(manifest, bytes_alone, CPU, alike, chain.prepared, None)
    found = Artifact.open(manifest, "utility")
    scores = [r["score"] for r in found.read_jsonl("samples.jsonl") if r["task"] == "choice"]
    assert found.metrics()["utility/choice/report"] == pytest.approx(sum(scores) / len(scores))
    assert set(scores) <= {0.0, 1 / 4, 1 / 3, 1 / 2, 1.0} and set(scores) - {0.0, 1.0}


@pytest.mark.parametrize("given", [False, True], ids=["a file", "with the target"])
def test_answers_that_leave_no_room_are_refused_before_the_model_is_loaded(
    chain, changed, tmp_path, mini_params, with_files, store, monkeypatch, given
):
    """BBH asks for 256 tokens; the context holds as many."""

    def small(model):
        model.config.max_position_embeddings = 256

    ruined, prepared, section = changed(small), chain.prepared, with_files
    if given:
        files = {
            name: lambda path, name=name: shutil.copy(chain.prepared.file(name), path)
            for name in ("probes.parquet", "retain.parquet")
        }
        task = {"kind": "bbh", "rows": BENCHMARKS["bbh"]}
        files["tasks/my_bbh.json"] = lambda path: write_json(path, task)
        prepared, section = store("prepared", "prepare", files=files), mini_params.utility
    monkeypatch.setattr(utility, "open_lm", lambda *_, **__: pytest.fail("the model was loaded"))
    manifest = tmp_path / "utility" / MANIFEST
    with pytest.raises(
        EvaluationError, match="my_bbh: asks for 256 new tokens, but the model's context holds 256"
    ):
        utility.run(manifest, section, CPU, ruined, prepared, None)
    assert not manifest.parent.exists()


@pytest.mark.parametrize(
    ("cut", "invalid"), [(0, 0.0), (1, 0.0), (2, 1.0), (5, 1.0)], ids=["none", "few", "many", "all"]
)
def test_a_task_is_invalid_past_a_share_of_cut_prompts(
    make_tasks, section, given_scores, cut, invalid
):
    """One in five is a fifth, which is allowed here; the other task's prompts are its own."""
    section = section.model_copy(update={"invalid_above": 0.2})
    folder, tasks = make_tasks(section)
    given_scores(truncated={("world_choice", number) for number in range(cut)})
    scores = run_lm_eval(None, None, folder, tasks, section)[0]
    assert (scores["choice_truncated"], scores["choice_invalid"]) == (cut, invalid)
    assert (scores["generate_truncated"], scores["generate_invalid"]) == (0.0, 0.0)


def test_a_groups_cut_prompts_are_those_of_its_members():
    """And of no other task."""
    result = hub_result(cola=logged(1.0), sst2=logged(0.0), rte=logged(1.0))
    result["group_subtasks"] = {"glue": ["cola", "sst2"]}
    result["truncated"] = {("cola", 0), ("cola", 1), ("sst2", 0), ("rte", 0)}
    assert utility._truncated(result, hub_task("glue")) == 3
    assert utility._truncated(result, hub_task("rte")) == 1


def test_mmlu_prompts_that_are_cut(make_tasks, with_files, byte_tokenizer, tiny_lm):
    """Examples of 600 letters do not fit a context of 512: all six are cut, and the score says
    so."""
    path = with_files.benchmarks["my_mmlu"].path
    shot = SHOT | {"question": "Which owl swims? " + "x" * 600}
    rows = [row | {"examples": [shot]} for row in BENCHMARKS["mmlu"] * 2]
    Path(path).write_text(json.dumps(rows), encoding="utf-8")
    section = with_files.model_copy(
        update={"documents": 6, "benchmarks": {"my_mmlu": with_files.benchmarks["my_mmlu"]}}
    )
    folder, tasks = make_tasks(section)
    mmlu = [task for task in tasks if task.name == "my_mmlu"]
    scores, _ = run_lm_eval(tiny_lm(vocab_size=259), byte_tokenizer, folder, mmlu, section)
    how = {name: scores[f"my_mmlu_{name}"] for name in ("n", "truncated", "invalid")}
    assert how == {"n": 6.0, "truncated": 6.0, "invalid": 1.0}
