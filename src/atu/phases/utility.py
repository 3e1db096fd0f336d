"""utility: what is left of general ability: lm-eval tasks, fluency, and the COLLAPSED flag."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from atu.artifacts import Artifact, write_folder, write_jsonl
from atu.config import Utility
from atu.data.tables import read_table
from atu.data.tasks import TASKS, write_tasks
from atu.errors import EvaluationError
from atu.generation import greedy_answers
from atu.metrics.fluency import distinct_tokens, fluency, is_collapsed
from atu.models.llm import load_lm
from atu.seeding import hash_fraction

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PHASE = "utility"
GENERATION_BASED = ("generate", "fluency", "distinct_tokens")
"""The scores whose fall means collapse; multiple choice is not among them."""


def run(
    out: Path, section: Utility, unlearned: Artifact, prepare: Artifact, before: Artifact | None
) -> None:
    """Write task scores and samples; `before` is this phase's folder for the original model."""
    inputs = {"unlearn": unlearned, "prepare": prepare} | ({"before": before} if before else {})
    with write_folder(
        out, PHASE, cell=unlearned.cell, params=section.model_dump(), inputs=inputs
    ) as job:
        model, tokenizer = load_lm(unlearned.subfolder("model"))
        probes = read_table(prepare.file("probes.parquet"))
        tasks = write_tasks(job.path("tasks"), probes, section.documents)
        scores, samples = run_lm_eval(model, tokenizer, tasks, section.batch_size)
        texts = continuations(model, tokenizer, prepare, section)
        scores["fluency"] = sum(map(fluency, texts)) / len(texts)
        scores["distinct_tokens"] = sum(map(distinct_tokens, texts)) / len(texts)
        write_jsonl(job.path("samples.jsonl"), samples)
        write_jsonl(job.path("fluency.jsonl"), [{"text": text} for text in texts])
        job.metrics = {f"utility/{name}/report": value for name, value in scores.items()}
        original = scores if before is None else _scores(before)
        watched = {name: original[name] for name in GENERATION_BASED}
        collapsed = is_collapsed(scores, watched, section.collapse_below)
        job.metrics["utility/collapsed/report"] = float(collapsed)


def _evaluate(model: PreTrainedModel, tokenizer: Any, batch_size: int) -> dict[str, Any]:
    """lm-eval over the tasks of the working directory, to which their data paths are relative."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    return lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=".", include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
        random_seed=0,
        numpy_random_seed=0,
        torch_random_seed=0,
    )


def _scores(before: Artifact) -> dict[str, float]:
    return {key.split("/")[1]: value for key, value in before.metrics().items()}


def run_lm_eval(
    model: PreTrainedModel, tokenizer: Any, folder: Path, batch_size: int
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Scores of the local tasks by lm-eval, in this process, and one row per document.

    Raises:
        EvaluationError: a task scored fewer documents than it has.
    """
    import datasets

    with tempfile.TemporaryDirectory() as cache, contextlib.chdir(folder):
        # `datasets` would otherwise answer from a cache keyed by path, mtime and size.
        usual, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, cache
        try:
            result = _evaluate(model, tokenizer, batch_size)
        finally:
            datasets.config.HF_DATASETS_CACHE = usual
    scores, samples = {}, []
    for task, metric in TASKS.items():
        rows = result["samples"][task]
        documents = len((folder / f"{task}.jsonl").read_text(encoding="utf-8").splitlines())
        if len(rows) != documents:
            raise EvaluationError(f"{task}: {len(rows)} of {documents} documents scored")
        name = task.removeprefix("world_")
        scores[name] = float(result["results"][task][f"{metric},none"])
        scores[f"{name}_n"] = float(len(rows))
        samples += [
            {"task": name, "id": row["doc"]["id"], "score": float(row[metric])}
            for row in sorted(rows, key=lambda row: row["doc_id"])
        ]
    return scores, samples


@torch.inference_mode()
def continuations(
    model: PreTrainedModel, tokenizer: Any, prepare: Artifact, section: Utility
) -> list[str]:
    """Greedy continuations of the openings of retain passages, about people never targeted."""
    rows = [r for r in read_table(prepare.file("retain.parquet")) if r["form"] == "passage"]
    rows.sort(key=lambda row: hash_fraction("fluency", row["text"]))
    openings = [" ".join(row["text"].split()[:6]) for row in rows[: section.fluency_prompts]]
    return greedy_answers(
        model,
        tokenizer,
        openings,
        max_new_tokens=section.fluency_tokens,
        batch_size=section.batch_size,
        label="fluency",
    )
