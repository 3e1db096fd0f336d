"""Utility benchmarks for lm-eval, from files of RWKU's schema or from lm-eval's tasks on the hub.

RWKU ships a sample of MMLU, BBH, TruthfulQA and TriviaQA with every target. Each of those files is
a JSON list; a task is made from it as local YAML beside local parquet. Prompts follow RWKU's
protocol (arXiv 2406.10890, appendix), except that TruthfulQA and TriviaQA have no few-shot
examples; numbers compare between models of one run, not with published ones. WMDP's prompts are
those of lm-eval's tasks; a row's `field` is their subject.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from atu.errors import ConfigError, shown
from atu.metrics.options import option_accuracy, truthfulqa_mc2
from atu.metrics.overlap import bbh_exact_match, triviaqa_f1
from atu.probes.prompts import ANSWER_SEPARATOR, LETTERS, MULTIPLE_CHOICE, lettered, wmdp_prompt
from atu.untrusted.texts import MB, parse_json, read_text, whole

Row = dict[str, Any]
MAX_BYTES = 256 * MB
"""Of a benchmark's file."""


@dataclass(frozen=True)
class LocalTask:
    """One kind of local task: its fields in a file, and how lm-eval asks and scores it."""

    fields: tuple[str, ...]
    document: Callable[[Row], Row]
    config: Mapping[str, Any]
    metric: str
    """lm-eval's name of the metric, with its filter."""
    generates: bool
    """Whether answers are generated: only then does a fall of the score mean collapse."""
    score: Callable[[Row, Any], float] | None = None
    """Our score from a document and the text generated, or the options' log-probabilities, in
    place of lm-eval's."""


def _text(value: object) -> str:
    """The value, which must be a string, whatever its characters; it may be empty."""
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no text")
    return value


def _asked(value: object) -> str:
    """A question, or an answer that is compared with: a string that is not blank."""
    text = _text(value)
    if not text.strip():
        raise ValueError(f"{shown(value)} is empty, so it cannot be asked")
    return text


def _texts(values: object) -> list[str]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{shown(values)} is no list of texts")
    return [_text(value) for value in values]


def _mmlu(row: Row) -> Row:
    shots = [f"{_choice(r)} {LETTERS[_index(r)]}" for r in row.get("examples") or []]
    head = f"{MULTIPLE_CHOICE}."
    return {
        "prompt": "\n\n".join([head, *shots, _choice(row)]),
        "choices": list(LETTERS[: len(row["choices"])]),
        "gold": _index(row),
    }


def _index(row: Row) -> int:
    """The answer's index among the choices; some files write it as text."""
    answer = row["answer"]
    number = int(answer) if isinstance(answer, str) and answer.isdecimal() else answer
    if type(number) is not int or number not in range(len(row["choices"])):
        raise ValueError(f"answer {shown(answer)} is none of {len(row['choices'])} choices")
    return number


def _choice(row: Row) -> str:
    choices = _texts(row["choices"])
    if len(choices) > len(LETTERS):
        raise ValueError(f"{len(choices)} choices, but the prompt has {len(LETTERS)} letters")
    return lettered(_asked(row["question"]), choices)


def _wmdp(row: Row) -> Row:
    _choice(row)
    return {
        "prompt": wmdp_prompt(_text(row["field"]), row["question"], row["choices"]),
        "choices": list(LETTERS[: len(row["choices"])]),
        "gold": _index(row),
    }


def _bbh(row: Row) -> Row:
    prompt = f"{_text(row['cot'])}\n\nQ: {_asked(row['question'])}\nA: Let's think step by step."
    return {"prompt": prompt, "answer": _asked(row["answer"])}


def _truthfulqa(row: Row) -> Row:
    """The first true choice beside the false ones: of further true ones official code asks
    nothing.
    """
    pairs = _labelled(row["mc1_targets"])
    first = [true for _, true in pairs].index(True)
    kept = [i for i, (_, true) in enumerate(pairs) if i == first or not true]
    return {
        "prompt": f"Q: {_asked(row['question'])}\nA:",
        "choices": [pairs[i][0] for i in kept],
        "gold": kept.index(first),
    }


def _truthfulqa_mc2(row: Row) -> Row:
    pairs = _labelled(row["mc2_targets"])
    return {
        "prompt": f"Q: {_asked(row['question'])}\nA:",
        "choices": [choice for choice, _ in pairs],
        "gold": [true for _, true in pairs].index(True),
        "true": [true for _, true in pairs],
    }


def _labelled(targets: Row) -> list[tuple[str, bool]]:
    """TruthfulQA's choices, each with whether it is true; some are, and some are not."""
    choices, labels = _texts(targets["choices"]), targets["labels"]
    if not isinstance(labels, list) or len(labels) != len(choices) or {0, 1} != set(labels):
        raise ValueError(f"labels {shown(labels)} do not part {len(choices)} choices by 0 and 1")
    return [(choice, label == 1) for choice, label in zip(choices, labels, strict=True)]


def _triviaqa(row: Row) -> Row:
    answers = row["answers"]
    aliases = _texts(answers if isinstance(answers, list) else [answers])
    _asked("".join(aliases))
    return {
        "prompt": f"Question: {_asked(row['question'])}\nAnswer:",
        "answer": aliases[0],
        "aliases": aliases,
    }


def option_score(doc: Row, log_probs: Sequence[float]) -> float:
    """The score of a choice whose right option the document names."""
    return option_accuracy(log_probs, doc["gold"])


_CHOICE = {
    "output_type": "multiple_choice",
    # With the space before an option: of an empty one lm-eval cannot read the first character.
    "doc_to_choice": (
        "{% set told = [] %}{% for choice in choices %}"
        f"{{% set _ = told.append('{ANSWER_SEPARATOR}' ~ choice) %}}"
        "{% endfor %}{{ told }}"
    ),
    "target_delimiter": "",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
_EXACT = {
    "metric": "exact_match", "aggregation": "mean", "higher_is_better": True,
    "ignore_case": True, "ignore_punctuation": True,
}  # fmt: skip
_GENERATE = {
    "output_type": "generate_until",
    "doc_to_target": "answer",  # a column: of a template's "[1, 2]" lm-eval makes a list
    "metric_list": [_EXACT],
}
KINDS = {
    "mmlu": LocalTask(
        ("question", "choices", "answer"), _mmlu, _CHOICE, "acc,none", False, option_score
    ),
    "wmdp": LocalTask(
        ("field", "question", "choices", "answer"), _wmdp, _CHOICE, "acc,none", False, option_score
    ),
    "truthfulqa": LocalTask(
        ("question", "mc1_targets"), _truthfulqa, _CHOICE, "acc,none", False, option_score
    ),
    "truthfulqa_mc2": LocalTask(
        ("question", "mc2_targets"),
        _truthfulqa_mc2,
        _CHOICE,
        "acc,none",
        False,
        lambda doc, log_probs: truthfulqa_mc2(log_probs, doc["true"]),
    ),
    "bbh": LocalTask(
        ("cot", "question", "answer"),
        _bbh,
        _GENERATE | {"generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": 256}},
        "exact_match,none",
        True,
        lambda doc, text: bbh_exact_match(text, doc["answer"]),
    ),
    "triviaqa": LocalTask(
        ("question", "answers"),
        _triviaqa,
        _GENERATE | {"generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": 30}},
        "exact_match,none",
        True,
        lambda doc, text: triviaqa_f1(text, doc["aliases"]),
    ),
}


def write_benchmark(
    folder: Path, name: str, kind: str, rows: list[Row], documents: int, key: str, where: str
) -> str:
    """Write `<task>.yaml` and `<task>.parquet` for rows of RWKU's schema; returns lm-eval's name.

    Args:
        documents: how many rows become documents; the fields of all are checked.
        key, where: the parameter and the file of the rows, for errors.

    Raises:
        ConfigError: there is no row, or one lacks a field or has a bad value; names the row.
    """
    benchmark = KINDS[kind]
    if not rows:
        raise ConfigError(key, where, "must be a JSON list with at least one row")
    _require_fields(rows, benchmark.fields, key, where)
    docs = [
        {"id": i} | _document(benchmark, row, i, key, where)
        for i, row in enumerate(rows[:documents])
    ]
    task = f"local_{name}"
    write_task(folder, task, docs, benchmark.config)
    return task


def write_task(folder: Path, task: str, docs: Sequence[Row], config: Mapping[str, Any]) -> None:
    """Write `<task>.yaml` and `<task>.parquet` for lm-eval, from documents with a `prompt`;
    `config` says how they are answered and scored. `datasets` reads dates in JSON as timestamps.
    """
    columns = {key: [doc[key] for doc in docs] for key in sorted(docs[0])}
    pl.DataFrame(columns).write_parquet(folder / f"{task}.parquet")
    whole = {
        "task": task,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": f"{task}.parquet"}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "target_delimiter": ANSWER_SEPARATOR,
        "num_fewshot": 0,
        "metadata": {"version": 1},
        **config,
    }
    text = yaml.safe_dump(whole, sort_keys=True, allow_unicode=True)
    (folder / f"{task}.yaml").write_text(text, encoding="utf-8")


def _document(benchmark: LocalTask, row: Row, number: int, key: str, where: str) -> Row:
    try:
        return benchmark.document(row)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(key, where, f"row {number} has a bad value: {shown(error)}") from None


def read_rows(source: Path, key: str) -> list[Row]:
    """The JSON list that a file holds; `key` is the parameter that names it. Unpaired surrogates,
    which no tokenizer takes, are read as U+FFFD, and their number is said.

    Raises:
        ConfigError: the file is missing, or no JSON list.
    """
    try:
        rows, replaced = whole(parse_json(read_text(source, MAX_BYTES)))
    except OSError as error:
        raise ConfigError(key, str(source), f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(key, str(source), f"is not JSON: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise ConfigError(key, str(source), "must be a JSON list with at least one row")
    if replaced:
        print(f"{key}: {replaced} unpaired surrogates are read as U+FFFD", file=sys.stderr)
    return rows


def _require_fields(rows: list[Row], fields: tuple[str, ...], key: str, where: str) -> None:
    for number, row in enumerate(rows):
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise ConfigError(key, where, f"row {number} lacks {', '.join(missing)}")
