"""The embedded world: drawn from a seed, learned from scratch, with an oracle for every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from pydantic import Field

from atu.benchmarks.base import Benchmark, Prepared, Rows, Shared
from atu.benchmarks.shared.source import Readers
from atu.benchmarks.world import texts as worldtext
from atu.benchmarks.world.people import Fact, World, build_world
from atu.errors import ConfigError
from atu.seeding import generator, hash_fraction
from atu.untrusted.bounds import STRICT, Count
from atu.untrusted.targets import Target

PER_FORM = {"question": 2}
"""Held-out phrasings probed per fact of a neighbour, other or general; 1 for forms not listed."""
OTHER_FORMS = ("question", "choice")
MEMBERSHIP_FORMS = ("passage", "question", "cloze")
"""Forms in which texts describe the target and the holdout people alike."""


@dataclass(frozen=True)
class Settings:
    """The size of the world and its seed."""

    __pydantic_config__ = STRICT
    benchmark: Literal["world"]
    seed: Annotated[int, Field(ge=0, lt=2**31, description="draws the world")]
    people: Annotated[Count, Field(description="fictitious people in the world; even")]
    holdout_people: Annotated[Count, Field(description="people whom no training text names")]
    other_facts: Annotated[Count, Field(description="facts of unrelated people to probe")]
    two_hops: Annotated[
        Literal["requested", "unrequested", "dropped"],
        Field(
            description="texts that state a target's fact over two hops, without its name: part of "
            "the forget corpus, of no corpus, or no such texts and questions in the world"
        ),
    ]


def _world(settings: Settings) -> World:
    return build_world(settings.seed, settings.people, settings.holdout_people)


def shared(settings: Settings, _readers: Readers) -> Shared:
    """The whole world: every training text, and questions about everything."""
    world = _world(settings)
    corpus = _asked(worldtext.training_rows(world, settings.seed), settings)
    return Shared(corpus, knowledge_probes(world, settings), asdict(world))


def prepare(settings: Settings, target: Target, corpus: Rows, _readers: Readers) -> Prepared:
    """The texts about the target, those that have nothing to do with it, and the questions."""
    world = _world(settings)
    requested = settings.two_hops == "requested"
    forget = worldtext.forget_rows(corpus, target.new, unnamed=requested)
    retain = worldtext.retain_rows(corpus, target.names)
    holdout = worldtext.holdout_rows(world, settings.seed)
    return Prepared(
        concepts=target.new,
        forget=forget,
        retain=retain,
        holdout=holdout,
        members=members(forget, retain, holdout),
        probes=target_probes(world, target.names, settings),
    )


def targets(settings: Settings) -> Sequence[str]:
    """All people of the world."""
    return _world(settings).people


BENCHMARK = Benchmark(
    Settings, shared, prepare, targets, trains=True, measures=(worldtext.MEASURE,)
)


def members(forget: Rows, retain: Rows, holdout: Rows) -> Rows:
    """The holdout texts, and those of the forget and retain corpora with the same forms and
    attributes.
    """
    kinds = {row["type"] for row in holdout}
    texts = [row | {"corpus": "holdout"} for row in holdout]
    for corpus, rows in (("forget", forget), ("retain", retain)):
        texts += [
            row | {"corpus": corpus}
            for row in rows
            if row["form"] in MEMBERSHIP_FORMS and row["type"] in kinds
        ]
    return texts


def knowledge_probes(world: World, settings: Settings) -> Rows:
    """Held-out phrasings of every fact: one plain question, and one of another form by hash."""
    rows = []
    for fact in (*world.facts, *world.general):
        held_out = [p for p in _probes_of(world, [fact], "all", settings) if not p["seen"]]
        questions = [p for p in held_out if p["form"] == "question"]
        others = [p for p in held_out if p["form"] != "question"]
        rows.append(questions[0])
        rows.append(others[int(hash_fraction(fact.id, "knowledge") * len(others))])
    return rows


def target_probes(world: World, names: Sequence[str], settings: Settings) -> Rows:
    """Every form of the targets' facts; held-out phrasings of neighbours, others and general facts;
    and questions about the holdout people.

    Probes of other people that name a target, or whose answer needs a fact about one, are left
    out: an oracle could not answer them.

    Raises:
        ConfigError: everybody is a target or a neighbour.
    """
    known = [fact for name in names for fact in world.about(name)]
    rows = [
        probe
        for probe in _probes_of(world, known, "target", settings)
        if probe["role"] == "target" or not set(names) & {probe["subject"], *probe["needs"]}
    ]
    neighbours = sorted(
        {near for name in names for near in world.neighbours(name)} - set(names),
        key=world.people.index,
    )
    near = [fact for name in neighbours for fact in world.about(name)]
    rows += _held_out(_probes_of(world, near, "neighbour", settings), names)
    strangers = [f for f in world.facts if f.subject not in (*names, *neighbours)]
    if not strangers:
        raise ConfigError(
            "prepare.people",
            settings.people,
            f"no other people are left beside {', '.join(names)} and their {len(neighbours)} "
            "neighbours; raise it",
        )
    order = generator(settings.seed, "others", *names).permutation(len(strangers))
    chosen = [strangers[i] for i in sorted(order[: settings.other_facts])]
    other = _held_out(_probes_of(world, chosen, "other", settings), names)
    rows += [p for p in other if p["form"] in OTHER_FORMS]
    rows += _held_out(_probes_of(world, list(world.general), "general", settings), names)
    rows += _probes_of(world, list(world.holdout_facts), "control", settings)
    return rows


def _probes_of(world: World, facts: list[Fact], role: str, settings: Settings) -> Rows:
    probes = (worldtext.probes(world, fact, role, settings.seed) for fact in facts)
    return _asked([probe for found in probes for probe in found], settings)


def _asked(rows: Rows, settings: Settings) -> Rows:
    """Texts or probes of the forms that the settings leave in; all others stay as they are."""
    dropped = settings.two_hops == "dropped"
    return [row for row in rows if not (dropped and row["form"] == "two_hop")]


def _held_out(rows: Rows, names: Sequence[str]) -> Rows:
    """The first held-out phrasings per form and fact that do not need a target."""
    chosen: Rows = []
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row["fact"], row["form"])
        free = not any(name in row["needs"] or name in row["prompt"] for name in names)
        if row["seen"] or not free or counts.get(key, 0) >= PER_FORM.get(row["form"], 1):
            continue
        counts[key] = counts.get(key, 0) + 1
        chosen.append(row | {"wrong": [value for value in row["wrong"] if value not in names]})
    return chosen
