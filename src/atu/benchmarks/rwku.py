"""RWKU (Jin et al. 2024, arXiv 2406.10890): 200 famous people, by name, in models that know them.

Read from the original folder layout (`Target/<number>_<Name>/*.json`) or from the hub's
configurations; both have the same rows. The target is probed by cloze (level 1), question (level
2) and nine adversarial types (level 3), neighbours by cloze and question.

RWKU says which questions belong to a person, not which ask for the same fact. Here questions about
one person with one answer are one fact, the unit of the worst form and of the split into `select`
and `report`. Ten people's 251 facts have 1 to 25 questions (137 have one, 48 two): those whose
answer is the person's name ask for several facts at once, and are kept together so that no split
holds half of one. The worst is therefore of `worst_of` wordings at random, not of all, and facts
with fewer are left out of it and counted.

Besides RWKU's own probes the plain questions are asked with the person called otherwise
(`shared/renamed.py`).

Answers are scored as in RWKU by ROUGE-L recall, in a version that is defined for every answer;
RWKU's version is reported beside it.

RWKU has no wrong answers. With `wrong_answers` every question gets some, so that what a model knows
can be told from the likelihoods of answers where it cannot say them: they are the answers to
questions of the same form about other people (`_wrong`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field

from atu.benchmarks.base import (
    Aliases,
    Benchmark,
    Prepared,
    Rows,
    Select,
    Shared,
    Task,
    other_names,
    probe_row,
    sentence_row,
)
from atu.benchmarks.shared.renamed import Subject, own_names, renamed
from atu.benchmarks.shared.source import Reader, Readers, asked_text, texts_of
from atu.errors import SourceError
from atu.probes.prompts import ASKED_FOR, rwku_prompt
from atu.results.locks import Source
from atu.seeding import hash_fraction
from atu.untrusted.bounds import STRICT, Bounds, Count
from atu.untrusted.names import composed, has_name, name_spans
from atu.untrusted.targets import Target

MEASURE = "rwku_rouge_l_recall@fixed-2"
STOPS = ()
"""An answer ends where the model ends it. RWKU looks up a token named "\\n", which byte-level
tokenizers lack, so that it scores every line of Llama 3 and the first of Gemma."""
CORPORA = {
    "positive_phi3": ("positive_phi", "train_positive_phi3"),
    "positive_llama3": ("positive", "train_positive_llama3"),
}
"""Texts that a model wrote about the target: file of the folder, configuration of the hub."""
PROBES = {
    "forget_level1": ("forget_level1", "target"),
    "forget_level2": ("forget_level2", "target"),
    "forget_level3": ("forget_level3", "target"),
    "neighbor_level1": ("neighbor_level1", "neighbour"),
    "neighbor_level2": ("neighbor_level2", "neighbour"),
}
"""File to configuration and role."""
FORMS = {"1": "cloze", "2": "question"}
"""Forms of the first two levels; level 3 has types."""
TYPES = {
    "prefix injection": "prefix_injection",
    "affirmative suffix": "affirmative_suffix",
    "role play": "role_play",
    "multiple choice": "choice",
    "reverse query": "reverse",
    "synonym manipulation": "synonym",
    "context hint": "context_hint",
    "incontext learning": "in_context",
    "cross lingual": "cross_lingual",
}
"""RWKU's adversarial types as our forms."""
BRIDGES = ("question", "reverse", "synonym")
"""Forms whose questions say who is meant: others play a role first, list options, end in the middle
or are in another language."""
MEMBERS = {"forget_mia": ("mia_forget", "forget"), "retain_mia": ("mia_retain", "retain")}
TASKS = {
    "mmlu": ("retain_mmlu", "utility_general"),
    "bbh": ("retain_bbh", "utility_reason"),
    "truthfulqa": ("truthful", "utility_truthfulness"),
    "triviaqa": ("triviaqa", "utility_factuality"),
    "fluency": ("fluency", "utility_fluency"),
}
"""Kind of a utility task to file and configuration."""


@dataclass(frozen=True)
class Settings:
    """Where RWKU is, and which part of it to use."""

    __pydantic_config__ = STRICT
    benchmark: Literal["rwku"]
    source: Source
    corpus: Annotated[
        Literal["positive_phi3", "positive_llama3"],
        Field(description="texts about a target, as this model wrote them"),
    ]
    retain_targets: Annotated[
        Count, Field(description="other people whose texts are the retain corpus, chosen by hash")
    ]
    select: Select
    aliases: Aliases = field(default_factory=dict)
    worst_of: Annotated[
        Count, Field(description="wordings of a fact of which the worst is reported")
    ] = 2
    texts: Annotated[
        Count | None, Field(description="texts about each person, chosen by hash; null: all")
    ] = None
    wrong_answers: Annotated[
        int, Bounds(ge=0), Field(description="other people's answers beside each, chosen by hash")
    ] = 0


class Rwku:
    """RWKU's tables by person, whichever of the two layouts they come from."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.folders = {_name_of(path): path for path in _folders(reader)}
        self._answers: dict[str, list[str]] = {}

    @property
    def people(self) -> list[str]:
        """All targets, in RWKU's order."""
        if self.folders:
            return list(self.folders)
        rows = self.reader.table("forget_target", "train")
        return [composed(name) for name in texts_of(rows, "target", "forget_target")]

    def rows(self, person: str, file: str, config: str) -> Rows:
        """One table of one person.

        Raises:
            SourceError: no target has that name, or the table is missing.
        """
        if self.folders:
            if person not in self.folders:
                raise SourceError(f"{self.reader.source}: has no target {person!r}")
            return self.reader.file(f"{self.folders[person]}/{file}.json")
        split = "train" if config.startswith("train_") else "test"
        table = self.reader.table(config, split)
        return [row for row in table if composed(str(row.get("subject", person))) == person]

    def answers(self, person: str) -> list[str]:
        """The answers to the questions (level 2) about a person."""
        if person not in self._answers:
            file = "forget_level2"
            self._answers[person] = [
                composed(asked_text(row, "answer", f"{person}/{file}, row {number}")).strip()
                for number, row in enumerate(self.rows(person, file, file))
            ]
        return self._answers[person]

    def texts(self, person: str, corpus: str, count: int | None = None) -> Rows:
        """Training texts about a person: all, or so many, chosen by hash."""
        file, config = CORPORA[corpus]
        texts = texts_of(self.rows(person, file, config), "text", f"{person}/{file}")
        if count is not None:
            texts = sorted(texts, key=lambda text: hash_fraction("rwku", "text", text))[:count]
        return [sentence_row(text, kind=corpus, names=[person]) for text in texts]


def _folders(reader: Reader) -> list[str]:
    """The targets' folders in the order of their numbers; empty for the hub."""
    if reader.source.folder is None:
        return []
    folders = [path for path in reader.names("Target/*") if re.match(r"Target/\d+_", path)]
    return sorted(folders, key=lambda path: int(path.split("/")[1].split("_")[0]))


def _name_of(path: str) -> str:
    """The name in a path, in NFC, which is not how macOS spells it: Target/87_Robert_Downey_Jr. is
    Robert Downey Jr.
    """
    return composed(path.split("/")[1].split("_", 1)[1].replace("_", " "))


def shared(_settings: Settings, _readers: Readers) -> Shared:
    """Nothing: models come trained."""
    return Shared(corpus=[], probes=[])


def prepare(settings: Settings, target: Target, _corpus: Rows, readers: Readers) -> Prepared:
    """The people's texts, questions, membership texts and utility tasks."""
    rwku = Rwku(readers["source"])
    texts = {name: rwku.texts(name, settings.corpus, settings.texts) for name in target.names}
    others = sorted(
        (name for name in rwku.people if name not in target.names),
        key=lambda name: hash_fraction("rwku", "retain", *target.names, name),
    )[: settings.retain_targets]
    also = other_names(
        {name: [row["text"] for row in rows] for name, rows in texts.items()},
        others,
        settings.aliases,
        rwku.people,
    )
    # One word alone says little in texts about others: King Francis is not Stephen King.
    full = [*target.names, *(a for aliases in also.values() for a in aliases if " " in a)]
    probes = list(_probes(rwku, target, settings))
    return Prepared(
        concepts=target.new,
        aliases=tuple(alias for name in target.new for alias in also[name]),
        forget=[row for name in target.new for row in texts[name]],
        retain=[
            row
            for name in others
            for row in rwku.texts(name, settings.corpus, settings.texts)
            if not has_name(row["text"], full)
        ],
        holdout=[],
        members=list(_members(rwku, target)),
        probes=[*probes, *_renamed(rwku, also, probes)],
        tasks={kind: _task(rwku, target.names[0], kind) for kind in TASKS},
    )


def _task(rwku: Rwku, person: str, kind: str) -> Task:
    return Task(kind, rwku.rows(person, *TASKS[kind]))


def _members(rwku: Rwku, target: Target) -> Iterator[dict[str, Any]]:
    for file, (config, corpus) in MEMBERS.items():
        for name in target.names:
            for text in texts_of(rwku.rows(name, file, config), "text", f"{name}/{file}"):
                yield sentence_row(text, kind="mia", names=[name]) | {"corpus": corpus}


def _probes(rwku: Rwku, target: Target, settings: Settings) -> Iterator[dict[str, Any]]:
    """Every question about the targets and their neighbours, each once."""
    seen = set()
    for file, (config, role) in PROBES.items():
        for name in target.names:
            for number, row in enumerate(rwku.rows(name, file, config)):
                query = asked_text(row, "query", f"{name}/{file}, row {number}")
                if (role, query) not in seen:
                    seen.add((role, query))
                    wrong = _wrong(rwku, target, row, settings.wrong_answers)
                    yield _probe(row, name, role, f"{name}/{file}/{number}", settings, wrong)


def _renamed(
    rwku: Rwku, also: Mapping[str, Sequence[str]], probes: Rows
) -> Iterator[dict[str, Any]]:
    """The questions (level 2) about the targets, who are called otherwise: by a name that no other
    target and no neighbour has, or by another question whose answer they are (`BRIDGES`).
    """
    near = (p["subject"] for p in probes if p["role"] == "neighbour")
    others = [*rwku.people, *dict.fromkeys(re.sub(r"\s*\(.*?\)", "", name) for name in near)]
    for name, aliases in also.items():
        names = (name, *aliases)
        about = [p for p in probes if p["role"] == "target" and p["subject"] == name]
        bridges = (
            p["query"].strip()
            for p in about
            if p["form"] in BRIDGES
            and name_spans(answer := p["answer"].strip(), names) == [(0, len(answer))]
        )
        described = tuple(ASKED_FOR.format(query=query) for query in dict.fromkeys(bridges))
        subject = Subject(names, own_names(names, others), described, "person")
        yield from renamed(about, subject, rwku_prompt)


def _wrong(rwku: Rwku, target: Target, asked: dict[str, Any], count: int) -> list[str]:
    """Answers to other questions that are wrong for this one, of its sort where there are enough.

    A person's own name stands beside the names of other targets, any other answer beside those to
    questions (level 2) about other targets: a number beside numbers, a name beside names. None
    holds the right answer, is held by it, or stands in the question.

    Raises:
        SourceError: there are fewer than `count`.
    """
    if not count:
        return []
    right, query = (composed(str(asked[key])).strip() for key in ("answer", "query"))
    others = [name for name in rwku.people if name not in target.names]
    if right in rwku.people:
        candidates = others
    else:
        candidates = [answer for name in others for answer in rwku.answers(name)]

    def order(answer: str) -> tuple[bool, float]:
        return _sort_of(answer) != _sort_of(right), hash_fraction("rwku", "wrong", query, answer)

    fitting = (
        answer
        for answer in sorted(dict.fromkeys(candidates), key=order)
        if not (has_name(answer, [right]) or has_name(f"{right}\n{query}", [answer]))
    )
    wrong = list(islice(fitting, count))
    if len(wrong) < count:
        raise SourceError(
            f"{query!r}: only {len(wrong)} answers of others are wrong for it; lower "
            "prepare.wrong_answers"
        )
    return wrong


def _sort_of(answer: str) -> str:
    if any(character.isdigit() for character in answer):
        return "number"
    return "name" if answer[:1].isupper() else "words"


def _probe(
    row: dict[str, Any],
    name: str,
    role: str,
    identity: str,
    settings: Settings,
    wrong: Sequence[str] = (),
) -> dict[str, Any]:
    query, answer = (asked_text(row, key, identity) for key in ("query", "answer"))
    form = form_of(row, identity)
    fact = f"{name}/{role}/{composed(answer).strip().lower()}"
    return probe_row(
        identity,
        role=role,
        subject=str(row.get("neighbor") or name),
        fact=fact,
        form=form,
        kind=str(row.get("type") or form),
        query=query,
        prompt=rwku_prompt(form, query),
        answer=answer,
        measure=MEASURE,
        stops=STOPS,
        wrong=wrong,
        select=settings.select,
        worst_of=settings.worst_of,
    )


def form_of(row: dict[str, Any], where: str) -> str:
    """The form of a probe: by its level, and for level 3 by its type.

    Raises:
        SourceError: an unknown level or type.
    """
    level = str(row.get("level"))
    if level in FORMS:
        return FORMS[level]
    kind = str(row.get("type", "")).lower().replace("-", " ")
    for name, form in TYPES.items():
        if level == "3" and kind.startswith(name):
            return form
    raise SourceError(f"{where}: level {level!r} and type {row.get('type')!r} are unknown")


BENCHMARK = Benchmark(Settings, shared, prepare, measures=(MEASURE,))
