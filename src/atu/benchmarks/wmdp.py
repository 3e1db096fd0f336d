"""WMDP (Li et al. 2024, arXiv 2403.03218): hazardous knowledge of biology and cybersecurity.

`cais/wmdp` has the questions, `cais/wmdp-corpora` the texts: the hazardous ones (forget) and benign
texts of the same field (retain). The forget corpus of biology is gated: accept its terms and name
`cais/wmdp-bio-forget-corpus` as `bio_forget`, or keep it as the configuration `bio-forget-corpus`
of a local `corpora`. Chemistry has questions but no corpus, so it is not a target.

Every question is multiple choice with four lettered options, worded as in lm-eval. Those of the
split `report` are also the utility task `wmdp_<name>`, which is WMDP's score: the share of
questions whose correct letter is the most probable one (chance: 1/4). WMDP has no questions about
what is to be kept; only utility benchmarks measure that (its paper uses MMLU).

Differences from WMDP: a chat model is asked in its chat template, which lm-eval does only on
request. WMDP unlearns both fields at once; here a request is one field, and `together` combines
both. Texts are whole papers, cut into passages; only `documents` of each corpus are read, chosen by
hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from atu.benchmarks.base import (
    Benchmark,
    PassageWords,
    Prepared,
    Rows,
    Select,
    Shared,
    Task,
    members,
    passages,
    probe_row,
    sentence_row,
)
from atu.benchmarks.shared.source import Readers, asked_text, texts_of
from atu.errors import SourceError
from atu.probes.prompts import LETTERS, LINE, wmdp_prompt
from atu.results.locks import Source
from atu.seeding import hash_fraction
from atu.untrusted.bounds import STRICT, Count
from atu.untrusted.names import names_in
from atu.untrusted.targets import Target

MEASURE = "exact_match@own-2"
FIELDS = {"bio": "biology", "cyber": "cybersecurity"}
"""Name of the request to lm-eval's name of the field."""
KIND = "wmdp"


@dataclass(frozen=True)
class Settings:
    """Where WMDP is, and which part of it to use."""

    __pydantic_config__ = STRICT
    benchmark: Literal["wmdp"]
    source: Source
    corpora: Source
    bio_forget: Annotated[
        Source | None,
        Field(description="the gated corpus of biology; null: bio-forget-corpus of `corpora`"),
    ]
    concepts: Annotated[
        dict[str, Annotated[list[str], Field(min_length=1)]],
        Field(description="per request, texts that name what is to be forgotten"),
    ]
    documents: Annotated[
        Count, Field(description="documents of each corpus at most, chosen by hash")
    ]
    passage_words: PassageWords
    select: Select


def shared(_settings: Settings, _readers: Readers) -> Shared:
    """Nothing: models come trained."""
    return Shared(corpus=[], probes=[])


def prepare(settings: Settings, target: Target, _corpus: Rows, readers: Readers) -> Prepared:
    """The fields' texts, and their questions."""
    for name in target.names:
        _require_field(name, settings)
    forget = [row for name in target.new for row in _texts(settings, readers, name, "forget")]
    retain = [row for name in target.names for row in _texts(settings, readers, name, "retain")]
    questions = {name: _questions(readers, name) for name in target.names}
    probes = {
        name: [_probe(row, name, number, settings) for number, row in enumerate(rows)]
        for name, rows in questions.items()
    }
    return Prepared(
        concepts=tuple(text for name in target.new for text in settings.concepts[name]),
        forget=forget,
        retain=retain,
        holdout=[],
        members=members(forget=forget, retain=retain),
        probes=[probe for rows in probes.values() for probe in rows],
        tasks={
            f"wmdp_{name}": Task(KIND, list(_reported(questions[name], probes[name])))
            for name in target.names
        },
    )


def targets(_settings: Settings) -> Sequence[str]:
    """The fields that have a forget corpus."""
    return tuple(FIELDS)


BENCHMARK = Benchmark(Settings, shared, prepare, targets, measures=(MEASURE,))


def _require_field(name: str, settings: Settings) -> None:
    """Refuse a field without texts.

    Raises:
        SourceError: it has no forget corpus, or the settings have no concepts for it.
    """
    if name not in FIELDS:
        raise SourceError(f"WMDP has no forget corpus for {name!r}; it has {', '.join(FIELDS)}")
    if name not in settings.concepts:
        raise SourceError(f"prepare.concepts has no entry for {name!r}; add texts that name it")


def _texts(settings: Settings, readers: Readers, name: str, side: str) -> Rows:
    """The passages of one corpus."""
    config, reader = f"{name}-{side}-corpus", readers["corpora"]
    if (name, side) == ("bio", "forget") and "bio_forget" in readers:
        config, reader = "default", readers["bio_forget"]
    where = f"{reader.source}: {config}"
    texts = texts_of(reader.table(config, "train"), "text", where)
    chosen = sorted(texts, key=lambda text: hash_fraction("wmdp", text))[: settings.documents]
    concepts = settings.concepts[name]
    return [
        sentence_row(part, kind=config, names=names_in(part, concepts))
        for text in chosen
        for part in passages(text, settings.passage_words)
    ]


def _questions(readers: Readers, name: str) -> Rows:
    """A field's questions in the schema of the utility task."""
    table = f"wmdp-{name}"
    rows = readers["source"].table(table, "test")
    for number, row in enumerate(rows):
        asked_text(row, "question", f"{table}, row {number}")
        options, answer = row.get("choices"), row.get("answer")
        if (
            not isinstance(options, list)
            or len(options) != len(LETTERS)
            or not all(isinstance(option, str) for option in options)
            or type(answer) is not int
            or answer not in range(len(LETTERS))
        ):
            raise SourceError(f"{table}: question {number} has not four `choices` and an `answer`")
    return [
        {"field": FIELDS[name]} | {key: row[key] for key in ("question", "choices", "answer")}
        for row in rows
    ]


def _probe(row: dict[str, Any], name: str, number: int, settings: Settings) -> dict[str, Any]:
    """A multiple-choice probe; its fact is the question with its options, as some share a stem."""
    answer = LETTERS[row["answer"]]
    return probe_row(
        f"{name}/{number}",
        role="target",
        subject=name,
        fact="\n".join([row["question"], *row["choices"]]),
        form="choice",
        kind=f"wmdp-{name}",
        query=row["question"],
        prompt=wmdp_prompt(row["field"], row["question"], row["choices"]),
        answer=answer,
        measure=MEASURE,
        stops=LINE,
        options=LETTERS,
        wrong=[letter for letter in LETTERS if letter != answer],
        select=settings.select,
    )


def _reported(rows: Rows, probes: Rows) -> Iterator[dict[str, Any]]:
    """The questions of the split `report`."""
    for row, probe in zip(rows, probes, strict=True):
        if probe["split"] == "report":
            yield row
