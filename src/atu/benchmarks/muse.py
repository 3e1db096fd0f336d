"""MUSE (Shi et al. 2024, arXiv 2407.06460): news articles or the Harry Potter books, six ways.

Read from `muse-bench/MUSE-News` or `muse-bench/MUSE-Books`. A model is fine-tuned on the raw texts
and asked to forget `raw/forget`. Methods may use `raw/retain1` as retain set; `raw/retain2` was
trained beside it and appears only in questions.

Requests are `forget` (C1 to C4), `scal_1` to `scal_4`, growing forget sets (C5), and `sust_1` to
`sust_4`, disjoint sets that form a sequence (C6). The texts of these folds are not in `raw`, so a
model must be trained on them first: `folds` adds them to the shared corpus.

The oracle is trained on everything that the model saw except the request's texts, which is more
than the methods' retain corpus: for `forget` it is retain1 and retain2. With retain2 in the retain
corpus, methods would train on the evaluated texts; without it, the oracle would know less than it
should.

Differences from MUSE: raw texts, which are whole articles and chapters, are cut into passages,
since methods and predictors read whole texts. `Answer:` has no space after it (our answers begin
with one). MUSE's membership and verbatim texts are from `raw`, so a fold's passages are compared
with those of `raw/holdout` instead. The questions remain those of `raw/forget`.
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
    members,
    passages,
    probe_row,
    sentence_row,
)
from atu.benchmarks.shared.source import Reader, Readers, asked_text, texts_of
from atu.errors import SourceError
from atu.probes.prompts import format_prompt, join_answer
from atu.results.locks import Source
from atu.untrusted.bounds import STRICT
from atu.untrusted.names import names_in
from atu.untrusted.targets import Target

MEASURE = "muse_knowledge@fixed-1"
STOPS = ("\n\n", "\nQuestion", "Question:")
"""An answer ends before the first of these (metrics/knowmem.py)."""
WHOLE_SET = "forget"
RAW = ("forget", "retain1", "retain2")
"""The training texts of MUSE's target models."""
FOLDS = {f"{kind}_{number}": (kind, f"forget_{number}") for kind in ("scal", "sust")
         for number in range(1, 5)}  # fmt: skip
"""Request to configuration and split."""
QUESTIONS = {"forget_qa": "target", "retain_qa": "other"}
SHOT_END = "\n\n"


@dataclass(frozen=True)
class Settings:
    """Where MUSE is, and which part of it to use."""

    __pydantic_config__ = STRICT
    benchmark: Literal["muse"]
    source: Source
    concepts: Annotated[
        list[str], Field(min_length=1, description="texts that name what is to be forgotten")
    ]
    folds: Annotated[
        bool, Field(description="train on the texts of scal and sust, and allow them as targets")
    ]
    passage_words: PassageWords
    select: Select


def shared(settings: Settings, readers: Readers) -> Shared:
    """The target model's training texts, each passage once, and every question."""
    reader = readers["source"]
    tables = [("raw", split) for split in RAW]
    if settings.folds:
        tables += FOLDS.values()
    rows = [row for table in tables for row in _passages(reader, *table, settings)]
    return Shared(list({row["text"]: row for row in rows}.values()), _probes(reader, settings))


def prepare(settings: Settings, target: Target, corpus: Rows, readers: Readers) -> Prepared:
    """The request's passages, the retain set, MUSE's questions and its membership texts."""
    reader = readers["source"]
    before = {row["text"] for name in target.earlier for row in _requested(reader, name, settings)}
    requested = {
        row["text"]: row for name in target.new for row in _requested(reader, name, settings)
    }
    forget = [row for text, row in requested.items() if text not in before]
    forgotten = before | requested.keys()
    holdout = [row | {"split": "holdout"} for row in _passages(reader, "raw", "holdout", settings)]
    retain = [
        row for row in _passages(reader, "raw", "retain1", settings) if row["text"] not in forgotten
    ]
    if WHOLE_SET in target.names:
        compared = _memberships(reader)
    else:
        compared = {"forget": forget, "retain": retain, "holdout": holdout}
    return Prepared(
        concepts=tuple(settings.concepts),
        forget=forget,
        retain=retain,
        holdout=holdout,
        members=members(**compared),
        probes=_probes(reader, settings),
        oracle=[row for row in corpus if row["text"] not in forgotten],
    )


def targets(settings: Settings) -> Sequence[str]:
    """The whole forget set, and the folds if models are trained on them."""
    return (WHOLE_SET, *(FOLDS if settings.folds else ()))


BENCHMARK = Benchmark(Settings, shared, prepare, targets, trains=True, measures=(MEASURE,))


def _requested(reader: Reader, name: str, settings: Settings) -> Rows:
    """The passages that a request names.

    Raises:
        SourceError: MUSE has no such forget set, or no model is trained on it.
    """
    if name not in targets(settings):
        raise SourceError(
            f"MUSE has no forget set {name!r} here; it has {', '.join(targets(settings))}"
            + ("" if settings.folds else ", and with `folds: true` " + ", ".join(FOLDS))
        )
    return _passages(reader, *FOLDS.get(name, ("raw", WHOLE_SET)), settings)


def _passages(reader: Reader, config: str, split: str, settings: Settings) -> Rows:
    """A table's texts as passages; `names` are the concepts that a passage mentions."""
    where = f"{config}/{split}"
    texts = texts_of(reader.table(config, split), "text", where)
    return [
        sentence_row(part, kind=split, names=names_in(part, settings.concepts))
        for text in texts
        for part in passages(text, settings.passage_words)
    ]


def _memberships(reader: Reader) -> dict[str, Rows]:
    """MUSE's membership texts: those for PrivLeak, and those for verbatim memorisation, split."""
    privleak = {
        name: [
            sentence_row(text, kind="privleak")
            for text in texts_of(reader.table("privleak", name), "text", f"privleak/{name}")
        ]
        for name in ("forget", "retain", "holdout")
    }
    return privleak | {"verbatim": list(_verbatim(reader))}


def _verbatim(reader: Reader) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(reader.table("verbmem", "forget")):
        where = f"verbmem/forget, row {number}"
        prompt, answer = (asked_text(row, key, where).strip() for key in ("prompt", "gt"))
        yield sentence_row(
            join_answer(prompt, answer), kind="verbmem", prompt=prompt, answer=answer
        )


def _probes(reader: Reader, settings: Settings) -> Rows:
    """MUSE's questions, each after the in-context examples of its set."""
    return [
        row for name, role in QUESTIONS.items() for row in _questions(reader, name, role, settings)
    ]


def _questions(
    reader: Reader, name: str, role: str, settings: Settings
) -> Iterator[dict[str, Any]]:
    examples = "".join(
        join_answer(format_prompt("question", question), answer) + SHOT_END
        for question, answer in _pairs(reader, f"{name}_icl")
    )
    subject = settings.concepts[0] if role == "target" else ""
    for number, (question, answer) in enumerate(_pairs(reader, name)):
        yield probe_row(
            f"{name}/{number}",
            role=role,
            subject=subject,
            fact=question,
            form="question",
            kind=name,
            query=question,
            prompt=examples + format_prompt("question", question),
            answer=answer,
            measure=MEASURE,
            stops=STOPS,
            needs=[subject, WHOLE_SET] if role == "target" else [name],
            select=settings.select,
        )


def _pairs(reader: Reader, split: str) -> list[tuple[str, str]]:
    pairs = []
    for number, row in enumerate(reader.table("knowmem", split)):
        where = f"knowmem/{split}, row {number}"
        pairs.append((asked_text(row, "question", where), asked_text(row, "answer", where)))
    return pairs
