"""The world's lm-eval tasks: local YAML beside local parquet, made from probes.

`world_choice` scores the log-probability of each option, `world_generate` a greedy answer. Both use
questions about countries and about people without a tie to the target, of the `report` split only.
A probe whose prompt is not that of its form (a sentence to be continued) is in no task, since its
answer need not be short.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atu.errors import EvaluationError
from atu.inference.lm_eval_files import write_task
from atu.probes.prompts import LINE, format_prompt

METRICS = {"world_choice": "acc", "world_generate": "exact_match"}
"""lm-eval task name to the metric that is reported."""


def write_tasks(folder: Path, probes: list[dict[str, Any]], documents: int) -> list[str]:
    """Write `<task>.yaml` and `<task>.parquet` for every task with a document; returns the tasks. A
    choice without options is no document.

    Raises:
        EvaluationError: an answer is none of its options; names the probe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [p for p in probes if p["split"] == "report" and p["role"] in ("general", "other")]
    forms = {"world_choice": "choice", "world_generate": "question"}
    written = []
    for task, form in forms.items():
        pairs = [
            (_document(p), p["prompt"])
            for p in chosen
            if p["form"] == form and (p["options"] or form != "choice")
        ]
        rows = [row for row, prompt in pairs if prompt.endswith(row["prompt"])][:documents]
        if not rows:
            continue
        written.append(task)
        write_task(folder, task, rows, _config(task))
    return written


def _document(probe: dict[str, Any]) -> dict[str, Any]:
    prompt = format_prompt(probe["form"], probe["query"], probe["options"])
    options = probe["options"]
    if options and probe["answer"] not in options:
        raise EvaluationError(f"{probe['id']}: {probe['answer']!r} is none of {options}")
    gold = options.index(probe["answer"]) if options else 0
    return {
        "id": probe["id"],
        "prompt": prompt,
        "options": options,
        "gold": gold,
        "answer": probe["answer"],
    }


def _config(task: str) -> dict[str, Any]:
    metric = {"metric": METRICS[task], "aggregation": "mean", "higher_is_better": True}
    if task == "world_choice":
        return {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{options}}",
            "doc_to_target": "gold",
            "metric_list": [metric],
        }
    return {
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": list(LINE), "do_sample": False, "max_gen_toks": 16},
        "metric_list": [
            metric
            | {
                "ignore_case": True,
                "ignore_punctuation": True,
                "regexes_to_ignore": [r"^\s+", r"\s+$"],
            }
        ],
    }
