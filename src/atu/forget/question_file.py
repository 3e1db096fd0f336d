"""Questions that a user brings: read from a file, and worded in the forms that apply to them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atu.benchmarks.base import split_of
from atu.benchmarks.concept import LONG, MEASURE, facts_of
from atu.benchmarks.shared.source import MAX_BYTES
from atu.errors import SourceError, shown, visible
from atu.forget.documents import LINES, REPLACED, Digests, json_lines
from atu.forget.questions import WRAPPED
from atu.forget.settings import Writing
from atu.forget.texts import key
from atu.metrics.answers import contains
from atu.metrics.words import words
from atu.probes.prompts import format_prompt
from atu.seeding import hash_fraction
from atu.untrusted.names import composed
from atu.untrusted.texts import decoded, is_file, read_bytes, whole

OPTION = "--questions"
KEYS = ("question", "answer", "paraphrases", "wrong", "about")
GIVEN = "given"
"""The kind of these questions."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One line of the file."""

    role: str
    """target, neighbour or general, by what the line says it is about."""
    about: str
    """A name; empty for nobody in particular."""
    question: str
    answer: str
    paraphrases: tuple[str, ...]
    """The question in other words."""
    wrong: tuple[str, ...]
    """Wrong answers."""


@dataclass(frozen=True)
class QuestionFile:
    """A user's questions."""

    questions: tuple[Question, ...]
    digests: Digests
    counts: dict[str, int]
    """How many questions were read, and what was left out, by its reason."""


def read_questions(path: Path, names: Sequence[str]) -> QuestionFile:
    """The questions of a JSONL file.

    Args:
        names: the concept's names: what a question without `about` is about.

    Raises:
        SourceError: a line is no question; names the file, the line, the key and the repair.
    """
    if path.suffix.lower() != LINES or not is_file(path):
        raise SourceError(
            f"{OPTION} {path}: is no {LINES} file; write one object with question and answer on "
            "each line of one"
        )
    try:
        content = read_bytes(path, MAX_BYTES)
        rows = list(json_lines(decoded(content)))
        ignored = Counter(visible(name) for _, row in rows for name in row if name not in KEYS)
        clean, replaced = whole([row for _, row in rows])
        numbers = [number for number, _ in rows]
        found = [_question(n, row, names) for n, row in zip(numbers, clean, strict=True)]
    except OSError as error:
        raise SourceError(
            f"{OPTION} {path}: cannot be read ({error.strerror}); allow reading it"
        ) from None
    except ValueError as error:
        raise SourceError(f"{OPTION} {path}: {error}") from None
    if not found:
        raise SourceError(
            f"{OPTION} {path}: holds no question; write at least one, or leave it out"
        )
    distinct = list(dict.fromkeys(found))
    counts = {"questions": len(distinct), "same": len(found) - len(distinct), REPLACED: replaced}
    counts |= {f"keys {name!r} (not read)": count for name, count in ignored.items()}
    digests = [[path.name, hashlib.sha256(content).hexdigest()]]
    return QuestionFile(tuple(distinct), digests, {k: n for k, n in counts.items() if n})


def _question(number: int, row: Row, names: Sequence[str]) -> Question:
    question, answer = (_text(number, row, key) for key in ("question", "answer"))
    wrong = _texts(number, row, "wrong")
    if not words(answer):
        raise ValueError(f"line {number}: answer = {shown(answer)} has no word to compare")
    for text in wrong:
        if words(text) == words(answer):
            raise ValueError(
                f"line {number}: wrong has {shown(text)}, which is the answer; leave it out there"
            )
    about = row.get("about", names[0])
    if not isinstance(about, str):
        raise ValueError(
            f"line {number}: about = {shown(about)} is no text; write a name, or leave it out for "
            "the concept"
        )
    about = " ".join(composed(about).split())
    own = next((name for name in names if key(name) == key(about)), None)
    role = "target" if own else "neighbour" if about else "general"
    paraphrases = _texts(number, row, "paraphrases")
    return Question(role, own or about, question, answer, paraphrases, wrong)


def _text(number: int, row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        missing = name not in row
        fault = "is missing" if missing else f"= {shown(value)} is no text that can be asked"
        raise ValueError(
            f"line {number}: {name} {fault}; "
            + (f"its keys are {', '.join(map(visible, row)) or 'none'}; " if missing else "")
            + "write it, or leave the line out"
        )
    return value.strip()


def _texts(number: int, row: Row, name: str) -> tuple[str, ...]:
    values = row.get(name) or []
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise ValueError(
            f'line {number}: {name} = {shown(values)} is no list of texts; write ["...", "..."]'
        )
    return tuple(dict.fromkeys(value.strip() for value in values))


def question_rows(questions: Sequence[Question]) -> list[Row]:
    """Rows of `questions.json`: every question plainly and in its paraphrases, with options where
    there are wrong answers, and of the target wrapped as the model's own statements are.
    """
    return [row for asked in questions for row in _wordings(asked, _example(asked, questions))]


def _wordings(asked: Question, example: Question | None) -> Iterator[Row]:
    def row(form: str, query: str, options: Sequence[str] = (), **details: str) -> Row:
        return {
            "role": asked.role, "subject": asked.about, "form": form, "kind": GIVEN,
            "query": query, "prompt": format_prompt(form, query, options, **details),
            "answer": asked.answer, "options": [*options], "wrong": [*asked.wrong],
        }  # fmt: skip

    yield row("question", asked.question)
    for text in asked.paraphrases:
        yield row("synonym", text)
    if asked.wrong:
        options = sorted(
            [asked.answer, *asked.wrong], key=lambda o: hash_fraction("options", asked.question, o)
        )
        yield row("choice", asked.question, options)
    for form in WRAPPED if asked.role == "target" else ():
        if form == "in_context":
            if example is not None:
                yield row(
                    form, asked.question, example=example.question, example_answer=example.answer
                )
        else:
            yield row(form, asked.question, name=asked.about)


def _example(asked: Question, questions: Sequence[Question]) -> Question | None:
    """The first question of another answer, none of which gives the other away."""
    return next(
        (
            other for other in questions
            if other.role == asked.role
            and not contains(f"{other.question} {other.answer}", asked.answer)
            and not contains(asked.answer, other.answer)
        ),
        None,
    )  # fmt: skip


def settled(rows: Sequence[Row], role: str, select: float, facts: int) -> bool:
    """Whether each split has this many facts of the role's rows that are asked plainly."""
    asked = [(role, row["subject"], row["answer"]) for row in rows
             if row["role"] == role and row["form"] == "question"]  # fmt: skip
    splits = Counter(split_of(fact, select) for fact in set(facts_of(asked)))
    return min(splits["select"], splits["report"]) >= facts


def measured(rows: Sequence[Row], writing: Writing) -> list[Row]:
    """The rows with the measure of all answers, `LONG` if a user's answer is long."""
    long = any(is_long(row["answer"], writing) for row in rows if row["kind"] == GIVEN)
    return [row | {"measure": LONG if long else MEASURE} for row in rows]


def is_long(answer: str, writing: Writing) -> bool:
    """Whether an answer has more words than those of the model's own statements."""
    return len(words(answer)) > writing.answer_words
