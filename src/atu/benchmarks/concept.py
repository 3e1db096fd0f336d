"""A concept by name: texts and questions written by the model to unlearn.

`atu forget` writes the folder (docs/forget.md); users may write one themselves. Each file is a JSON
list of rows whose values are strings where nothing else is said:

- `names.json`: `name`, a name of the concept. The first is the target's name.
- `forget.json`, `retain.json`: `text`, and `about`, its subject ("" for nobody in particular).
- `questions.json`: `role` (target, neighbour or general), `subject`, `form` (one of
  `probes/prompts.py`), `kind` (how a form was worded), `query`, `prompt` and `answer`. A user's
  may have lists of `options`, of `wrong` answers and of `stops`, and the `measure` of all answers.

There is no ground truth: the gold answers are the original model's, so every score is the share of
them that the model still gives. Questions with the same subject and the same answer are one fact.
An answer counts if it contains the gold answer as whole words, because a continued sentence may go
on after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from atu.benchmarks.base import (
    Benchmark,
    Prepared,
    Rows,
    Select,
    Shared,
    members,
    probe_row,
    sentence_row,
)
from atu.benchmarks.shared.source import Reader, Readers, asked_text, text_of
from atu.errors import SourceError, shown
from atu.metrics.words import normalise
from atu.probes.prompts import FORMS, NEXT_QUESTION
from atu.results.locks import Source
from atu.untrusted.bounds import STRICT
from atu.untrusted.names import composed, names_in
from atu.untrusted.targets import Target

NAMES, FORGET, RETAIN, QUESTIONS = (
    f"{name}.json" for name in ("names", "forget", "retain", "questions")
)
MEASURE, LONG = "contains@own-2", "rwku_rouge_l_recall@fixed-2"
"""How answers are compared: with the words of the gold answer in a row; long ones by ROUGE-L
recall, since no model repeats a sentence word for word."""
ROLES = ("target", "neighbour", "general")


@dataclass(frozen=True)
class Settings:
    """Where the folder is."""

    __pydantic_config__ = STRICT
    benchmark: Literal["concept"]
    source: Source
    select: Select


def shared(_settings: Settings, _readers: Readers) -> Shared:
    """Nothing: models come trained."""
    return Shared(corpus=[], probes=[])


def prepare(settings: Settings, target: Target, _corpus: Rows, readers: Readers) -> Prepared:
    """The written texts and questions.

    Raises:
        SourceError: the folder is about another target, or a row violates the schema.
    """
    reader = readers["source"]
    names = tuple(
        composed(asked_text(row, "name", f"{NAMES}, row {number}"))
        for number, row in enumerate(reader.file(NAMES))
    )
    if target.names != names[:1]:
        raise SourceError(
            f"{reader.source}: is about {', '.join(names) or 'nothing'}, not {target.label!r}; "
            "name the first of them in grid.targets and search.targets, nothing together or in "
            "sequence"
        )
    forget, retain = (list(_texts(reader, name, names)) for name in (FORGET, RETAIN))
    return Prepared(
        concepts=names,
        forget=forget,
        retain=retain,
        holdout=[],
        members=members(forget=forget, retain=retain),
        probes=in_both_splits(list(_probes(reader, settings.select))),
    )


def in_both_splits(probes: Rows) -> Rows:
    """Drop roles that lack questions in a split and cannot be scored; keep the target."""
    splits = {(row["role"], row["split"]) for row in probes}
    complete = {role for role in ROLES if {(role, "select"), (role, "report")} <= splits} | {
        "target"
    }
    return [row for row in probes if row["role"] in complete]


def _texts(reader: Reader, file: str, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of a corpus; `names` are the concept's names and the subject, as far as the text has
    them.
    """
    for number, row in enumerate(reader.file(file)):
        where = f"{file}, row {number}"
        text, about = asked_text(row, "text", where), text_of(row, "about", where)
        yield sentence_row(text, kind="written", names=names_in(text, (*names, about)))


def _probes(reader: Reader, select: float) -> Iterator[dict[str, Any]]:
    """Every question, with its fact (`facts_of`)."""
    rows = [_question(row, number) for number, row in enumerate(reader.file(QUESTIONS))]
    if len(measures := {row["measure"] for row in rows}) > 1:
        raise SourceError(f"{QUESTIONS}: has several measures, {', '.join(sorted(measures))}; "
                          "give all questions one")  # fmt: skip
    questions = [(row["role"], row["subject"], row["answer"]) for row in rows]
    phrasings: dict[tuple[str, str], int] = {}
    for number, (row, fact) in enumerate(zip(rows, facts_of(questions), strict=True)):
        where = f"{QUESTIONS}, row {number}"
        role, form, answer = row["role"], row["form"], row["answer"]
        phrasing = phrasings.get((fact, form), 0)
        phrasings[fact, form] = phrasing + 1
        yield probe_row(
            f"{role}/{number}",
            role=role,
            subject=row["subject"],
            fact=fact,
            form=form,
            kind=asked_text(row, "kind", where),
            query=asked_text(row, "query", where),
            prompt=asked_text(row, "prompt", where),
            answer=answer,
            measure=row["measure"],
            stops=_texts_in(row, "stops", where) or NEXT_QUESTION,
            phrasing=phrasing,
            select=select,
            options=_texts_in(row, "options", where),
            wrong=_texts_in(row, "wrong", where),
        )


def _question(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A question, once its role, form, subject and answer are valid."""
    where = f"{QUESTIONS}, row {number}"
    _one_of(row, "role", ROLES, where)
    _one_of(row, "form", tuple(FORMS), where)
    subject = composed(text_of(row, "subject", where))
    answer = asked_text(row, "answer", where)
    if not normalise(answer):
        raise SourceError(f"{where}: the answer {answer!r} has no letter to compare")
    measure = {"measure": MEASURE} | row
    _one_of(measure, "measure", (MEASURE, LONG), where)
    return measure | {"subject": subject}


def _texts_in(row: dict[str, Any], key: str, where: str) -> list[str]:
    """The row's list of texts; empty where it has none."""
    texts = row.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SourceError(f"{where}: {key} = {shown(texts)} is no list of texts")
    return texts


def facts_of(questions: Sequence[tuple[str, str, str]]) -> list[str]:
    """The fact that each question (role, subject, answer) asks for. Questions with one subject and
    one answer ask for one fact, also if one answer contains the other ("curry", "is curry"); all
    names of the target are one subject.
    """
    answers_of: dict[tuple[str, str], set[str]] = {}
    keys = [((role, "" if role == "target" else subject), normalise(answer))
             for role, subject, answer in questions]  # fmt: skip
    for about, answer in keys:
        answers_of.setdefault(about, set()).add(answer)
    core = {
        (about, answer): next(short for short in ordered if f" {short} " in f" {answer} ")
        for about, answers in answers_of.items()
        for ordered in [sorted(answers, key=lambda text: (len(text), text))]
        for answer in answers
    }
    return [f"{about[0]}/{about[1]}/{core[about, answer]}" for about, answer in keys]


def _one_of(row: dict[str, Any], key: str, known: tuple[str, ...], where: str) -> str:
    value = asked_text(row, key, where)
    if value not in known:
        raise SourceError(f"{where}: {key} = {value!r} is unknown; known are {', '.join(known)}")
    return value


BENCHMARK = Benchmark(Settings, shared, prepare, measures=(MEASURE, LONG))
