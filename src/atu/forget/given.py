"""Texts and questions that somebody has, as the tables that the phases read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from atu.benchmarks.base import Rows, probe_row, sentence_row
from atu.benchmarks.concept import facts_of
from atu.errors import ConfigError
from atu.metrics.answers import contains
from atu.probes.prompts import format_prompt, join_answer
from atu.results.files import read_jsonl
from atu.results.tables import PROBES, TEXTS, read_frame
from atu.unlearning.trajectory import ROLES

Given = str | Path | Iterable[Any]
"""A `.parquet` or `.jsonl` file, a polars frame, or a list."""
PAIR = ("question", "answer")


def text_rows(key: str, given: Given, names: Sequence[str] = ()) -> Rows:
    """Rows of `TEXTS`. A text is a string; `(question, answer)` or an object with both, of which
    the answer is scored; or an object with `text` and, where its beginning is not scored, `prompt`.
    A text that does not say which `names` it holds is searched for them.

    Raises:
        ConfigError: there is none, or one is not as above; names its number.
        ArtifactError: the file cannot be read.
    """
    rows = [_text_row(f"{key}[{n}]", item, names) for n, item in enumerate(_read(key, given))]
    if not rows:
        raise ConfigError(key, None, "holds no text; give at least one")
    return rows


def probe_rows(key: str, given: Given) -> Rows:
    """Rows of `PROBES` for choices: `(question, answer)`, or an object with both and, unless it is
    about the concept, the `role` of what it asks for. Whole rows stay as they are.

    Raises:
        ConfigError, ArtifactError: as `text_rows`.
    """
    items = [_pair(item) for item in _read(key, given)]
    rows = [_question(f"{key}[{n}]", item) for n, item in enumerate(items)]
    asked = [(row["role"], row["subject"], row["answer"]) for row in rows]
    return [
        {name: item[name] for name in PROBES} if set(PROBES) <= set(item) else _probe(n, row, fact)
        for n, (item, row, fact) in enumerate(zip(items, rows, facts_of(asked), strict=True))
    ]


def asked_by(texts: Rows) -> Rows:
    """Rows of `PROBES` that ask what texts with a prompt answer."""
    rows = [
        {"role": "target", "subject": "", "question": row["prompt"], "answer": row["answer"]}
        for row in texts
        if row["prompt"] and row["answer"]
    ]
    facts = facts_of([(row["role"], row["subject"], row["answer"]) for row in rows])
    return [
        _probe(n, row, fact, row["question"])
        for n, (row, fact) in enumerate(zip(rows, facts, strict=True))
    ]


def _read(key: str, given: Given) -> list[Any]:
    if not isinstance(given, str | Path):
        return given.to_dicts() if hasattr(given, "to_dicts") else list(given)
    path = Path(given)
    if path.suffix == ".parquet":
        return read_frame(path).to_dicts()
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    raise ConfigError(key, str(given), "is no .parquet or .jsonl file; give texts as a list")


def _pair(item: Any) -> Any:
    """A pair as the object that it stands for."""
    return dict(zip(PAIR, item, strict=True)) if _is_pair(item) else item


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == len(PAIR)


def _text_row(key: str, item: Any, names: Sequence[str]) -> dict[str, Any]:
    item = {"text": item} if isinstance(item, str) else _pair(item)
    if isinstance(item, Mapping) and "text" not in item and set(PAIR) <= set(item):
        prompt = format_prompt("question", _text(key, item, "question"))
        answer = _text(key, item, "answer")
        item = {"text": join_answer(prompt, answer), "prompt": prompt, "answer": answer}
    text = _text(key, item, "text")
    held = [name for name in names if name in text]
    row = sentence_row(text, kind="given", names=held) | {
        name: item[name] for name in TEXTS if item.get(name) is not None
    }
    if not text.startswith(row["prompt"]):
        raise ConfigError(f"{key}.prompt", row["prompt"], "must be how the text begins")
    return row


def _question(key: str, item: Any) -> dict[str, Any]:
    """Role, subject, question and answer of an item."""
    query = "query" if isinstance(item, Mapping) and "query" in item else "question"
    row = {"question": _text(key, item, query), "answer": _text(key, item, "answer")}
    role = item.get("role", "target")
    if role not in ROLES and not set(PROBES) <= set(item):
        raise ConfigError(f"{key}.role", role, f"unknown; known are {', '.join(ROLES)}")
    return row | {"role": role, "subject": item.get("subject", "")}


def _probe(number: int, row: Mapping[str, Any], fact: str, prompt: str = "") -> dict[str, Any]:
    """A plain question that choices may read; nothing is reported of it."""
    return probe_row(
        f"{row['role']}/{number}",
        role=row["role"],
        subject=row["subject"],
        fact=fact,
        form="question",
        kind="given",
        query=row["question"],
        prompt=prompt or format_prompt("question", row["question"]),
        answer=row["answer"],
        measure=contains.id,
        select=1.0,
    )


def _text(key: str, item: Any, name: str) -> str:
    found = item.get(name) if isinstance(item, Mapping) else None
    if not isinstance(found, str) or not found.strip():
        raise ConfigError(f"{key}.{name}", found if isinstance(item, Mapping) else item,
                          "is no text")  # fmt: skip
    return found
