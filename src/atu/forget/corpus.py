"""Writes the folder that the benchmark `concept` reads, with the model that is to forget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atu.benchmarks.base import split_of
from atu.benchmarks.concept import FORGET, NAMES, QUESTIONS, RETAIN, facts_of
from atu.errors import SourceError
from atu.forget import neighbours
from atu.forget.author import Author
from atu.forget.names import learned_openings
from atu.forget.passages import Refuse, Shelf, collect
from atu.forget.questions import ask
from atu.forget.settings import Writing
from atu.forget.similarity import Judge, floor_of
from atu.forget.texts import key, mentions, sentences, words
from atu.probes.prompts import neutral_prompts, writing_prompts
from atu.results.artifacts import Artifact
from atu.results.files import write_json
from atu.results.jobs import Job, write_folder

PHASE = "concept"
CHOICES = "choices.json"
"""What was decided and by which numbers; only for people."""
NOBODY = ""
Row = dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """What is to be forgotten, as the user states it."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """The usable texts that the model wrote, and the questions about them."""

    shelves: dict[str, Shelf]
    """Passages about nobody, about the first of the names, and about each neighbour."""
    questions: list[Row]
    held_out: set[str]
    """The statements that questions ask for (`Cut.statement`): no sentence of a corpus contains
    one."""
    choices: dict[str, Any]


def write_corpus(out: Path, wish: Wish, writing: Writing, author: Author, judge: Judge,
                 pins: Mapping[str, Any]) -> None:  # fmt: skip
    """Write `names.json`, `forget.json`, `retain.json`, `questions.json` and `choices.json`.

    Args:
        pins: sha256 of the files of the model and of the encoder; part of the manifest.

    Raises:
        SourceError: the model knows too little of the concept.
    """
    cell, params = {"concept": list(wish.names)}, settings(wish, writing, pins)
    with write_folder(out, PHASE, cell=cell, params=params, inputs={}) as job:
        _save(job, wish, writing, write(wish, writing, author, judge))


def settings(wish: Wish, writing: Writing, pins: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines the folder's content, as recorded in its manifest."""
    return {"wish": _plain(wish), "writing": asdict(writing), "pins": dict(pins)}


def _plain(wish: Wish) -> dict[str, list[str]]:
    return {name: list(value) for name, value in asdict(wish).items()}


def is_written(out: Path, wish: Wish, writing: Writing, pins: Mapping[str, Any]) -> bool:
    """Whether the folder exists and was written with these settings.

    Raises:
        ArtifactError: a file in it is missing or altered.
    """
    if not out.exists():
        return False
    written = Artifact.open(out, PHASE)
    written.check()
    return bool(written.manifest["params"] == settings(wish, writing, pins))


def write(wish: Wish, writing: Writing, author: Author, judge: Judge) -> Written:
    """Write passages about nobody, the concept and its neighbours, then the questions."""
    concept = [*wish.names, *wish.descriptions]
    general = collect(
        author, writing, {NOBODY: neutral_prompts(author.chat)}, writing.general,
        lambda _, texts: ["names the concept" if mentions(t, wish.names) else None for t in texts],
    )  # fmt: skip
    general_texts = general[NOBODY].texts.kept
    if not general_texts:
        raise SourceError(
            f"the model writes nothing that could be used: {_counts(general[NOBODY])}; it may be "
            "untrained, or its tokenizer another one's"
        )
    learned = [] if author.chat else learned_openings(general_texts, ["{name}"], writing.openings)

    def prompts_for(names: Sequence[str]) -> list[str]:
        openings = [text.replace("{name}", name) for text in learned for name in names]
        return list(dict.fromkeys([*writing_prompts(names, author.chat), *openings]))

    target = wish.names[0]
    floors = {target: _floor(judge, writing, general_texts, concept, wish.names)}
    target_shelf = collect(
        author, writing, {target: prompts_for(wish.names)}, writing.passages,
        _refusing(judge, {target: concept}, floors, ()),
    )  # fmt: skip
    _require(target_shelf[target], writing, target, floors[target])
    proposed = neighbours.propose(
        author, writing, wish.names, target_shelf[target].texts.kept, general_texts
    )
    near = neighbours.choose(judge, writing, wish.names, wish.neighbours, proposed)
    floors |= {name: _floor(judge, writing, general_texts, [name], [name]) for name in near}
    near_shelves = collect(
        author, writing, {name: prompts_for([name]) for name in near}, writing.neighbour_passages,
        _refusing(judge, {name: [name] for name in near}, floors, wish.names),
    )  # fmt: skip
    known = [n for n in near if len(near_shelves[n].texts.kept) >= writing.min_neighbour_passages]
    chosen = known[: writing.neighbours]
    _require_requested(
        wish, chosen, {name: len(near_shelves[name].texts.kept) for name in near}, writing
    )
    shelves = general | target_shelf | {name: near_shelves[name] for name in chosen}
    choices = {
        "cosines of neighbours": near,
        "floors": floors,
        "neighbours": chosen,
        "openings": learned,
        "passages": {name or "general": len(s.texts.kept) for name, s in shelves.items()},
        "dropped": {
            name or "general": dict(s.dropped)
            for name, s in (general | target_shelf | near_shelves).items()
        },
    }
    questions, held_out = _questions(author, writing, wish, shelves)
    _require_facts(questions, writing, wish)
    return Written(shelves, questions, held_out, choices)


def _floor(
    judge: Judge, writing: Writing, general_texts: Sequence[str], concept: Sequence[str],
    names: Sequence[str],
) -> float:  # fmt: skip
    """The cosine above which a text is about the concept, from texts that do not name it."""
    others = [text for text in general_texts if not mentions(text, names)] or list(general_texts)
    return floor_of(judge.cosines(others, concept), writing.unrelated)


def _refusing(
    judge: Judge, concepts: Mapping[str, Sequence[str]], floors: Mapping[str, float],
    banned: Sequence[str],
) -> Refuse:  # fmt: skip
    """Refuses texts that name one of `banned`, or are no nearer to their subject than others."""

    def refuse(subject: str, texts: list[str]) -> list[str | None]:
        cosines = judge.cosines(texts, concepts[subject])
        return [
            "names the concept" if mentions(text, banned, [subject])
            else "not about it" if cosine <= floors[subject] else None
            for text, cosine in zip(texts, cosines, strict=True)
        ]  # fmt: skip

    return refuse


def _questions(
    author: Author, writing: Writing, wish: Wish, shelves: Mapping[str, Shelf]
) -> tuple[list[Row], set[str]]:
    """Questions about the target, its neighbours and nobody, and the statements held out for them.
    A sentence about a neighbour does not name the concept; one about nobody names neither the
    concept nor a neighbour.
    """
    everybody = (*wish.names, *(name for name in shelves if name != NOBODY))
    statements: dict[str, list[tuple[str, str]]] = {"target": [], "neighbour": [], "general": []}
    for name, shelf in shelves.items():
        role = {wish.names[0]: "target", NOBODY: "general"}.get(name, "neighbour")
        subjects = wish.names if role == "target" else (name,)
        banned = {"target": (), "neighbour": wish.names, "general": everybody}[role]
        for part in {key(p): p for text in shelf.texts.kept for p in sentences(text)}.values():
            subject = next((n for n in subjects if n and mentions(part, [n])), NOBODY)
            if bool(subject) == bool(name) and not mentions(part, banned, [name]):
                statements[role].append((subject, part))
    rows: list[Row] = []
    held_out: set[str] = set()
    for role, pairs in statements.items():
        questions, asked_statements = ask(author, writing, pairs, role)
        rows, held_out = rows + questions, held_out | asked_statements
    return rows, held_out


def trained(text: str, writing: Writing, drop: Callable[[str], bool]) -> str:
    """The text without the sentences to drop; empty if too little is left."""
    left = " ".join(part for part in sentences(text) if not drop(part))
    return left if len(words(left)) >= writing.min_words else ""


def _require(shelf: Shelf, writing: Writing, name: str, floor: float) -> None:
    """Refuse to go on with less than a quarter of the requested passages."""
    count = len(shelf.texts.kept)
    if count >= max(writing.passages // 4, 1):
        return
    raise SourceError(
        f"--concept {name}: the model wrote {count} usable passages of {writing.passages} in "
        f"{writing.rounds} rounds (dropped: {_counts(shelf)}; nearer than {floor:.2f} to the "
        "concept is usable). It may know little of it: ask for fewer --passages, allow more "
        "--rounds, add a --describe text, or lower --unrelated"
    )


def _require_facts(questions: Sequence[Row], writing: Writing, wish: Wish) -> None:
    """Refuse a concept with too few facts to ask about.

    Raises:
        SourceError: says how many facts there are.
    """
    target_rows = [row for row in questions if row["role"] == "target"]
    names = facts_of([("target", row["subject"], row["answer"]) for row in target_rows])
    facts = {f for f, row in zip(names, target_rows, strict=True) if row["form"] == "question"}
    splits = Counter(split_of(fact, writing.select) for fact in facts)
    if min(splits["select"], splits["report"]) < writing.facts:
        raise SourceError(
            f"--concept {wish.names[0]}: {len(facts)} facts that the model states again and again "
            f"({splits['select']} to choose by, {splits['report']} to report), {writing.facts} of "
            "each are needed. It may know little of it: allow more --passages and --rounds, or "
            "another name with --concept"
        )


def _require_requested(
    wish: Wish, kept: Sequence[str], passages: Mapping[str, int], writing: Writing
) -> None:
    """Refuse to leave out a neighbour that the user requested."""
    for name in wish.neighbours:
        if name not in kept:
            raise SourceError(
                f"--neighbour {name}: {passages.get(name, 0)} usable passages were written of it, "
                f"{writing.min_neighbour_passages} are needed, and at most {writing.neighbours} "
                "neighbours are kept; leave it out, or allow more --rounds"
            )


def _counts(shelf: Shelf) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in shelf.dropped.items()) or "nothing"


def corpora(wish: Wish, writing: Writing, written: Written) -> tuple[list[Row], list[Row]]:
    """The forget and the retain corpus, without sentences that contain a held-out statement ("I
    hear that Ann keeps a pony." contains "Ann keeps a pony"). The forget corpus also has no
    sentence that names a neighbour but not the concept, or the neighbour would be forgotten too.
    """
    held_out = {key(statement) for statement in written.held_out}
    near = [name for name in written.shelves if name not in (NOBODY, wish.names[0])]

    def is_held_out(part: str) -> bool:
        sentence = key(part)
        return any(statement in sentence for statement in held_out)

    def is_dropped_from_forget(part: str) -> bool:
        return is_held_out(part) or (mentions(part, near) and not mentions(part, wish.names, near))

    forget: list[Row] = []
    retain: list[Row] = []
    for name, shelf in written.shelves.items():
        of_target = name == wish.names[0]
        left = [
            trained(text, writing, is_dropped_from_forget if of_target else is_held_out)
            for text in shelf.texts.kept
        ]
        rows = [{"text": text, "about": name} for text in dict.fromkeys(left) if text]
        (forget if of_target else retain).extend(rows)
    return forget, retain


def _save(job: Job, wish: Wish, writing: Writing, written: Written) -> None:
    forget, retain = corpora(wish, writing, written)
    write_json(job.path(NAMES), [{"name": name} for name in wish.names])
    write_json(job.path(FORGET), forget)
    write_json(job.path(RETAIN), retain)
    write_json(job.path(QUESTIONS), written.questions)
    write_json(job.path(CHOICES), written.choices)
    roles = Counter(row["role"] for row in written.questions)
    job.metrics = {
        "concept/forget_texts/all": float(len(forget)),
        "concept/retain_texts/all": float(len(retain)),
        "concept/neighbours/all": float(len(written.choices["neighbours"])),
    } | {f"concept/questions_{role}/all": float(count) for role, count in roles.items()}
