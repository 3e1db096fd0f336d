"""A concept by name: texts and questions that the model to unlearn has written itself.

`atu forget` writes the folder (docs/forget.md); anybody else may, in the same files. Each is a JSON
list of rows, every value a text:

- `names.json`: `name`; what the concept is called. The first is the target's name.
- `forget.json`, `retain.json`: `text`, and `about`, whom it is about ("" for nobody in particular).
- `questions.json`: `role` (target, neighbour or general), `subject`, `form` (one of
  `data/prompts.py`), `kind` (how a form was worded), `query`, `prompt` and `answer`.

There is no ground truth here: answers are what the original model says, and every number reads "so
much of what it said before does it still say". Questions about one subject with one answer are one
fact. An answer counts where it holds the gold answer as whole words, since a sentence that is to be
continued may go on behind it.
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
from atu.benchmarks.shared.source import Reader, Readers, text_of
from atu.errors import SourceError
from atu.metrics.normalise import normalise
from atu.probes.prompts import FORMS
from atu.results.locks import Source
from atu.untrusted.bounds import STRICT
from atu.untrusted.targets import Target

NAMES, FORGET, RETAIN, QUESTIONS = (
    f"{name}.json" for name in ("names", "forget", "retain", "questions")
)
MEASURE = "contains@own-1"
ASKED = ("target", "neighbour", "general")


@dataclass(frozen=True)
class Settings:
    """Where the written folder is."""

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
        SourceError: the folder is about something else, or a row is not as the schema says.
    """
    reader = readers["source"]
    names = tuple(_text(row, "name", NAMES) for row in reader.file(NAMES))
    if target.names != names[:1]:
        raise SourceError(
            f"{reader.source}: is about {', '.join(names) or 'nothing'}, not {target.label!r}; "
            "name the first of them in grid.targets and search.target, nothing together or in "
            "sequence"
        )
    forget, retain = (list(_texts(reader, name, names)) for name in (FORGET, RETAIN))
    return Prepared(
        concepts=names,
        forget=forget,
        retain=retain,
        holdout=[],
        members=members(forget=forget, retain=retain),
        probes=asked_in_both(list(_probes(reader, settings.select))),
    )


def asked_in_both(probes: Rows) -> Rows:
    """Without the roles other than the target's that one of the splits asks nothing about: no
    number could be given for them.
    """
    asked = {(row["role"], row["split"]) for row in probes}
    both = {role for role in ASKED if {(role, "select"), (role, "report")} <= asked} | {"target"}
    return [row for row in probes if row["role"] in both]


def _texts(reader: Reader, file: str, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """A corpus, each text with those of the names, and of its own subject, that it holds."""
    for row in reader.file(file):
        text, about = _text(row, "text", file), text_of(row, "about", file)
        held = [name for name in dict.fromkeys((*names, about)) if name and name in text]
        yield sentence_row(text, kind="written", names=held)


def _probes(reader: Reader, select: float) -> Iterator[dict[str, Any]]:
    """Every question, with its fact (`facts_of`)."""
    rows = [_question(row, number) for number, row in enumerate(reader.file(QUESTIONS))]
    asked = [(row["role"], row["subject"], row["answer"]) for row in rows]
    phrasings: dict[tuple[str, str], int] = {}
    for number, (row, fact) in enumerate(zip(rows, facts_of(asked), strict=True)):
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
            kind=_text(row, "kind", where),
            query=_text(row, "query", where),
            prompt=_text(row, "prompt", where),
            answer=answer,
            measure=MEASURE,
            phrasing=phrasing,
            select=select,
        )


def _question(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A row of the questions whose role, form, subject and answer are as the schema says."""
    where = f"{QUESTIONS}, row {number}"
    _one_of(row, "role", ASKED, where)
    _one_of(row, "form", tuple(FORMS), where)
    text_of(row, "subject", where)
    answer = _text(row, "answer", where)
    if not normalise(answer):
        raise SourceError(f"{where}: the answer {answer!r} has no letter to compare")
    return row


def facts_of(asked: Sequence[tuple[str, str, str]]) -> list[str]:
    """Of every question (its role, subject and answer) the fact that it asks for. Questions about
    one subject with one answer ask for one fact, also where one answer holds the other ("curry",
    "is curry"); the target's names are one subject.
    """
    told: dict[tuple[str, str], set[str]] = {}
    found = [((role, "" if role == "target" else subject), normalise(answer))
             for role, subject, answer in asked]  # fmt: skip
    for about, answer in found:
        told.setdefault(about, set()).add(answer)
    core = {
        (about, answer): next(short for short in ordered if f" {short} " in f" {answer} ")
        for about, answers in told.items()
        for ordered in [sorted(answers, key=lambda text: (len(text), text))]
        for answer in answers
    }
    return [f"{about[0]}/{about[1]}/{core[about, answer]}" for about, answer in found]


def _text(row: dict[str, Any], key: str, where: str) -> str:
    """A row's text, which must not be empty."""
    found = text_of(row, key, where)
    if not found.strip():
        raise SourceError(f"{where}: a row has an empty {key!r}")
    return found


def _one_of(row: dict[str, Any], key: str, known: tuple[str, ...], where: str) -> str:
    found = _text(row, key, where)
    if found not in known:
        raise SourceError(f"{where}: {key} = {found!r} is unknown; known are {', '.join(known)}")
    return found


BENCHMARK = Benchmark(Settings, shared, prepare, measures=(MEASURE,))
