"""A user's texts and questions, as the tables that the phases read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from atu.benchmarks.base import Rows, probe_row, sentence_row
from atu.benchmarks.concept import facts_of
from atu.errors import ConfigError
from atu.metrics.answers import contains
from atu.probes.prompts import NEXT_QUESTION, format_prompt, join_answer
from atu.results.files import read_jsonl
from atu.results.tables import PROBES, TEXTS, read_frame
from atu.unlearning.trajectory import ROLES
from atu.untrusted.names import names_in
from atu.untrusted.texts import whole

Given = str | Path | Iterable[Any]
"""A `.parquet` or `.jsonl` file, a polars frame, or a list."""
PAIR = ("question", "answer")


def text_rows(key: str, source: Given, names: Sequence[str] = ()) -> Rows:
    """Rows of `TEXTS`. A text is a string; `(question, answer)` or an object with both, of which
    only the answer is scored; or an object with `text` and, if its beginning is not scored,
    `prompt`. A text without `names` is searched for these names.

    Raises:
        ConfigError: there is no text, or one has another form; names its number.
        ArtifactError: the file cannot be read.
    """
    rows = [_text_row(f"{key}[{n}]", item, names) for n, item in enumerate(_read(key, source))]
    if not rows:
        raise ConfigError(key, None, "holds no text; give at least one")
    return rows


def probe_rows(key: str, source: Given) -> Rows:
    """Rows of `PROBES` for choosing a point: `(question, answer)`, or an object with both and,
    unless it is about the concept, its `role`. Whole rows stay as they are.

    Raises:
        ConfigError, ArtifactError: as `text_rows`.
    """
    items = [_pair(item) for item in _read(key, source)]
    rows = [_question(f"{key}[{n}]", item) for n, item in enumerate(items)]
    answers = [(row["role"], row["subject"], row["answer"]) for row in rows]
    return [
        {name: item[name] for name in PROBES} if set(PROBES) <= set(item) else _probe(n, row, fact)
        for n, (item, row, fact) in enumerate(zip(items, rows, facts_of(answers), strict=True))
    ]


def probes_of(texts: Rows) -> Rows:
    """Rows of `PROBES` from the texts with a prompt and an answer."""
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


def _read(key: str, source: Given) -> list[Any]:
    """The items, with U+FFFD for unpaired surrogates, which no tokenizer takes."""
    items: list[Any] = whole(_items(key, source))[0]
    return items


def _items(key: str, source: Given) -> list[Any]:
    if not isinstance(source, str | Path):
        return source.to_dicts() if hasattr(source, "to_dicts") else list(source)
    path = Path(source)
    if path.suffix == ".parquet":
        return read_frame(path).to_dicts()
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    raise ConfigError(key, str(source), "is no .parquet or .jsonl file; give texts as a list")


def _pair(item: Any) -> Any:
    """A pair as an object with question and answer."""
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
    held = names_in(text, names)
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
    """A plain question of the `select` split, which no report reads."""
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
        stops=NEXT_QUESTION,
        select=1.0,
    )


def _text(key: str, item: Any, name: str) -> str:
    value = item.get(name) if isinstance(item, Mapping) else None
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{key}.{name}", value if isinstance(item, Mapping) else item,
                          "is no text")  # fmt: skip
    return value
