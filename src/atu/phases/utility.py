"""utility: what is left of general ability: lm-eval tasks, fluency, and the COLLAPSED flag."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from atu.config.dependencies import dependencies
from atu.config.roles import ORIGINAL
from atu.config.sections import Utility
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.finite import require_finite_weights
from atu.inference.fitting import require_new_tokens
from atu.inference.generation import greedy_answers
from atu.inference.lm_eval_files import KINDS, option_score, read_rows, write_benchmark
from atu.inference.lm_eval_tasks import METRICS, write_tasks
from atu.inference.scoring import TokenScores, mean_loss, perplexity, score_answers
from atu.metrics.fluency import (
    distinct_tokens,
    fluency,
    is_collapsed,
    repetition,
    worse_than_guessing,
)
from atu.models.compute import Compute
from atu.models.llm import open_context, open_lm
from atu.probes.prompts import instruction_prompt
from atu.results.artifacts import Artifact
from atu.results.files import read_json, write_jsonl
from atu.results.jobs import write_folder
from atu.results.tables import TASKS, read_frame, read_table
from atu.seeding import hash_fraction

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PHASE = "utility"
GENERATION_BASED = ("fluency", "distinct_tokens")
"""The scores whose fall means collapse, with every task that generates and of which the original
has `RIGHT` answers right; multiple choice is not among them."""
RIGHT = 10
"""Right answers that the original must have in a task whose fall means collapse: of fewer, chance
alone may take half (SmolLM2's .08 at 8 TriviaQA questions is less than one)."""
LOSS = "nats_per_token"
"""The loss of plain texts; its exponential, as far as that is a number, is the perplexity."""
FLUENCY = "fluency"
"""The kind of task that is no lm-eval task: instructions to continue."""
HUB = "hub"
"""Where the key of a benchmark names a task of lm-eval's own."""


def run(
    out: Path,
    section: Utility,
    compute: Compute,
    unlearn: Artifact,
    prepare: Artifact,
    before: Artifact | None,
) -> None:
    """Write task scores and samples; `before` is this phase's folder for the original model."""
    inputs = {"unlearn": unlearn, "prepare": prepare} | ({"before": before} if before else {})
    params = dependencies(PHASE, section, compute)
    with write_folder(out, PHASE, cell=unlearn.cell, params=params, inputs=inputs) as job:
        files = [name for name in prepare.manifest["artifacts"] if name.startswith(f"{TASKS}/")]
        given = {Path(name).stem: read_json(prepare.file(name)) for name in files}
        probes = read_table(prepare.file("probes.parquet"))
        tasks = prepare_tasks(job.path("tasks"), probes, section, given)
        context = open_context(unlearn, compute)
        asked = {task.name: task.new_tokens for task in tasks} | {FLUENCY: section.fluency_tokens}
        for name, new in asked.items():
            require_new_tokens(name, new, context)
        model, tokenizer = open_lm(unlearn, compute, training=False)
        batch_size = BatchSize(section.batch_size)
        scores, samples = run_lm_eval(model, tokenizer, job.path("tasks"), tasks, section)
        openings, templated = fluency_prompts(prepare, section, given)
        texts = continuations(model, tokenizer, openings, section, batch_size, templated)
        scores |= text_scores(texts)
        neutral = neutral_scores(model, tokenizer, prepare, section, batch_size)
        scores |= {LOSS: mean_loss(neutral), "perplexity": perplexity(neutral)}
        require_finite_weights(model)
        write_jsonl(job.path("samples.jsonl"), samples)
        write_jsonl(job.path("fluency.jsonl"), [{"text": text} for text in texts])
        job.metrics = {f"utility/{name}/report": value for name, value in scores.items()}
        original = scores if before is None else _scores(before)
        generated = [
            task.name
            for task in tasks
            if task.generates and original[task.name] * scores[f"{task.name}_n"] >= RIGHT
        ]
        watched = {name: original[name] for name in dict.fromkeys((*generated, *GENERATION_BASED))}
        now, then = (
            worse_than_guessing(loss, len(tokenizer))
            for loss in (scores[LOSS], original.get(LOSS, scores[LOSS]))
        )
        if before is None and unlearn.cell["method"] != ORIGINAL:
            then = False  # nobody has the original: a guess is the only thing to compare with
        collapsed = is_collapsed(scores, watched, section.collapse_below) or (now and not then)
        job.metrics["utility/collapsed/report"] = float(collapsed)
        job.notes["batch_size"] = batch_size.value


@dataclass(frozen=True)
class UtilityTask:
    """One lm-eval task of this run."""

    name: str
    """What our tables call it."""
    task: str
    """What lm-eval calls it."""
    metric: str | None
    """lm-eval's metric with its filter; None takes a hub task's first."""
    generates: bool
    documents: int | None
    """How many documents must be scored; None for a hub task, whose size is not ours."""
    score: Callable[[dict[str, Any], Any], float] | None = None
    """Our score from a document and the text generated, or the options' log-probabilities, in
    place of lm-eval's."""
    new_tokens: int = 0
    """Tokens of an answer at most; 0 for a choice, and for a hub task, of which lm-eval knows."""


def prepare_tasks(
    folder: Path,
    probes: list[dict[str, Any]],
    section: Utility,
    given: Mapping[str, Mapping[str, Any]],
) -> list[UtilityTask]:
    """Write the tasks that probes give, those that came with the target, and those of local
    benchmark files; name those of the hub.
    """
    tasks = [
        UtilityTask(
            name=task.removeprefix("world_"),
            task=task,
            metric=f"{METRICS[task]},none",
            generates=task == "world_generate",
            documents=_lines(folder, task),
            score=option_score if task == "world_choice" else None,
            new_tokens=_new_tokens(folder, task),
        )
        for task in write_tasks(folder, probes, section.documents)
    ]
    for name, task in given.items():
        if task["kind"] != FLUENCY:
            local = _local_task(folder, name, task["kind"], task["rows"], f"{name}.json", section)
            tasks.append(local)
    for name, benchmark in section.benchmarks.items():
        if benchmark.kind == HUB:
            tasks.append(UtilityTask(name, benchmark.path, None, False, None))
            continue
        key, path = f"utility.benchmarks.{name}.path", benchmark.path
        rows = read_rows(Path(path), key)
        tasks.append(_local_task(folder, name, benchmark.kind, rows, path, section, key))
    return tasks


def _local_task(
    folder: Path,
    name: str,
    kind: str,
    rows: list[dict[str, Any]],
    where: str,
    section: Utility,
    key: str = "prepare",
) -> UtilityTask:
    """A task of RWKU's schema, written for lm-eval."""
    task = write_benchmark(folder, name, kind, rows, section.documents, key, where)
    known = KINDS[kind]
    documents, new = _lines(folder, task), _new_tokens(folder, task)
    return UtilityTask(name, task, known.metric, known.generates, documents, known.score, new)


def _new_tokens(folder: Path, task: str) -> int:
    config = yaml.safe_load((folder / f"{task}.yaml").read_text(encoding="utf-8"))
    return int(config.get("generation_kwargs", {}).get("max_gen_toks", 0))


def _lines(folder: Path, task: str) -> int:
    return read_frame(folder / f"{task}.parquet").height


def _evaluate(
    model: PreTrainedModel, tokenizer: Any, tasks: Sequence[UtilityTask], section: Utility
) -> dict[str, Any]:
    """lm-eval over the tasks of the working directory, to which their data paths are relative; in
    `truncated` the task and number of every document whose prompt was cut.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    from atu.inference.lm_eval_model import LanguageModel

    asked = LanguageModel(model, tokenizer, section.batch_size)
    hub = any(task.documents is None for task in tasks)
    result = lm_eval.simple_evaluate(
        model=asked,
        tasks=[task.task for task in tasks],
        task_manager=TaskManager(include_path=".", include_defaults=hub),
        limit=section.documents if hub else None,
        bootstrap_iters=0,
        log_samples=True,
        random_seed=0,
        numpy_random_seed=0,
        torch_random_seed=0,
    )
    return {**result, "truncated": asked.truncated}


def _scores(before: Artifact) -> dict[str, float]:
    return {key.split("/")[1]: value for key, value in before.metrics().items()}


def run_lm_eval(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    tasks: Sequence[UtilityTask],
    section: Utility,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Scores of the tasks by lm-eval, in this process, and one row per document; of no task none.
    Of every task besides its score: the number of its documents, of those whose prompt was cut to
    the context, and whether these are so many that the score is invalid.

    Raises:
        EvaluationError: a task scored fewer documents than it has, or a hub task cannot be loaded.
    """
    if not tasks:
        return {}, []
    import datasets

    with tempfile.TemporaryDirectory() as cache, contextlib.chdir(folder):
        # `datasets` would otherwise answer from a cache keyed by path, mtime and size.
        usual, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, cache
        try:
            result = _evaluate(model, tokenizer, tasks, section)
        except ConnectionError as error:
            raise EvaluationError(
                f"a hub benchmark cannot be loaded ({error}); set HF_HUB_OFFLINE=0 on a machine "
                "with a network, or give utility.benchmarks a local file"
            ) from None
        except KeyError as error:
            unknown = [task.task for task in tasks if task.documents is None]
            if str(error).strip("'\"") not in unknown:
                raise
            raise EvaluationError(f"lm-eval has no task {error}; `lm_eval ls tasks`") from None
        finally:
            datasets.config.HF_DATASETS_CACHE = usual
    scores: dict[str, float] = {}
    samples: list[dict[str, Any]] = []
    for task in tasks:
        scored = _hub_score(result, task) if task.metric is None else _local_score(result, task)
        scores[task.name], rows = scored
        cut = _truncated(result, task)
        scores[f"{task.name}_n"] = float(len(rows))
        scores[f"{task.name}_truncated"] = float(cut)
        scores[f"{task.name}_invalid"] = float(cut > section.invalid_above * len(rows))
        samples += [{"task": task.name, **row} for row in rows]
    return scores, samples


def _local_score(result: dict[str, Any], task: UtilityTask) -> tuple[float, list[dict[str, Any]]]:
    """The task's mean and its documents' scores; where several filters logged a document, the
    metric's own.
    """
    assert task.metric is not None
    metric, filter_name = task.metric.split(",")
    logged = [r for r in result["samples"][task.task] if r.get("filter", "none") == filter_name]
    if len(logged) != task.documents:
        raise EvaluationError(f"{task.task}: {len(logged)} of {task.documents} documents scored")
    rows = []
    for row in sorted(logged, key=lambda row: row["doc_id"]):
        if task.score is None:
            score = float(row[metric])
        elif task.generates:
            score = task.score(row["doc"], row["filtered_resps"][0].strip())
        else:
            score = task.score(row["doc"], [log_prob for log_prob, _ in row["filtered_resps"]])
        rows.append({"id": row["doc"]["id"], "score": score})
    if task.score is None:
        return float(result["results"][task.task][task.metric]), rows
    return sum(row["score"] for row in rows) / len(rows), rows


def _hub_score(result: dict[str, Any], task: UtilityTask) -> tuple[float, list[dict[str, Any]]]:
    """A hub task's first metric; a group has its own aggregate and its members' documents."""
    values = result["results"].get(task.task, {})
    names = [key for key in values if "," in key and "_stderr" not in key]
    if not names:
        raise EvaluationError(f"{task.task}: lm-eval gives no score; name one of its tasks")
    metric, filter_name = names[0].split(",")
    rows = [
        {"id": f"{member}/{row['doc_id']}", "score": float(row[metric])}
        for member in sorted(_members(result, task.task))
        for row in sorted(result["samples"][member], key=lambda row: row["doc_id"])
        if row.get("filter", "none") == filter_name
    ]
    return float(values[names[0]]), rows


def _truncated(result: dict[str, Any], task: UtilityTask) -> int:
    """Documents of a task, or of a group's members, whose prompt was cut."""
    members = {task.task, *_members(result, task.task)}
    return sum(name in members for name, _ in result.get("truncated", ()))


def _members(result: dict[str, Any], name: str) -> list[str]:
    """The tasks with documents that a name stands for: itself, or those of a group."""
    if name in result["samples"]:
        return [name]
    inner = result.get("group_subtasks", {}).get(name, [])
    return [member for part in inner for member in _members(result, part)]


def text_scores(texts: Sequence[str]) -> dict[str, float]:
    """Means over generated texts: fluency in bits, distinct tokens and repetition as shares."""
    measures: dict[str, Callable[[str], float]] = {
        "fluency": fluency,
        "distinct_tokens": distinct_tokens,
        "repetition": repetition,
    }
    means = {name: sum(map(measure, texts)) / len(texts) for name, measure in measures.items()}
    return means | {"fluency_n": float(len(texts))}


def neutral_scores(
    model: PreTrainedModel,
    tokenizer: Any,
    prepare: Artifact,
    section: Utility,
    batch_size: BatchSize,
) -> list[TokenScores]:
    """Scores of plain texts that concern nobody by name; of all retain texts, and of questions of
    their answers, where the benchmark has none.
    """
    rows = read_table(prepare.file("retain.parquet"))
    neutral = [row for row in rows if not row["names"] and not row["prompt"]]
    chosen = (neutral or rows)[: section.documents]
    if not chosen:
        raise EvaluationError("the retain corpus is empty: no text to score")
    return score_answers(
        model,
        tokenizer,
        [row["prompt"] for row in chosen],
        [row["answer"] if row["prompt"] else row["text"] for row in chosen],
        batch_size=batch_size,
        end=False,
        label="perplexity",
    )


def fluency_prompts(
    prepare: Artifact, section: Utility, given: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], bool]:
    """The instructions that came with the target, which are asked; without any, the openings of
    retain passages, which are about nobody who is targeted and are continued.
    """
    told = [row["instruction"] for t in given.values() if t["kind"] == FLUENCY for row in t["rows"]]
    if told:
        return [instruction_prompt(text) for text in told[: section.fluency_prompts]], True
    rows = read_table(prepare.file("retain.parquet"))
    rows = [row for row in rows if row["form"] == "passage"] or rows
    rows.sort(key=lambda row: hash_fraction("fluency", row["text"]))
    return [" ".join(row["text"].split()[:6]) for row in rows[: section.fluency_prompts]], False


@torch.inference_mode()
def continuations(
    model: PreTrainedModel,
    tokenizer: Any,
    openings: Sequence[str],
    section: Utility,
    batch_size: BatchSize,
    templated: bool,
) -> list[str]:
    """Greedy continuations of these openings, or with `templated` answers to them; all their
    lines.
    """
    return greedy_answers(
        model,
        tokenizer,
        openings,
        max_new_tokens=section.fluency_tokens,
        batch_size=batch_size,
        label="fluency",
        templated=templated,
    )
