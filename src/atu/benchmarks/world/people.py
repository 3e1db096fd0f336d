"""The embedded world: fictitious people, their facts, and facts about countries.

Ground truth needs a world small enough to train on from scratch: a model that saw everything and
an oracle that never saw the target. This module draws the facts; `texts` puts them into
words. The vocabulary and the templates are in `world.yaml` beside this file.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from atu.benchmarks.world.vocabulary import parse_vocabulary
from atu.errors import ConfigError
from atu.seeding import generator

MINIMUM_PEOPLE = 8
"""With fewer people, the pairs of earlier relations can leave no matching for the last one."""


@dataclass(frozen=True)
class Fact:
    """One fact about one subject: `(subject, attribute, value)`."""

    subject: str
    attribute: str
    value: str
    kind: str
    """`attribute`, `relation` (the value is a person), `general` (the subject is a country), or
    `holdout` (an attribute of a person whom no training text names)."""

    @property
    def id(self) -> str:
        """`subject/attribute`, unique in a world."""
        return f"{self.subject}/{self.attribute}"


@dataclass(frozen=True)
class World:
    """People and their facts, plus the facts about countries that test general ability."""

    people: tuple[str, ...]
    facts: tuple[Fact, ...]
    general: tuple[Fact, ...]
    holdout: tuple[str, ...] = ()
    """People whom no training text names."""
    holdout_facts: tuple[Fact, ...] = ()

    def about(self, person: str) -> list[Fact]:
        """Facts whose subject is `person`."""
        return [f for f in (*self.facts, *self.holdout_facts) if f.subject == person]

    def value(self, person: str, attribute: str) -> str:
        """The value of one attribute or relation of one person."""
        return next(f.value for f in self.about(person) if f.attribute == attribute)

    def neighbours(self, person: str) -> list[str]:
        """People tied to `person` by a relation in either direction, in the world's order."""
        tied = {f.value for f in self.about(person) if f.kind == "relation"}
        tied |= {f.subject for f in self.facts if f.kind == "relation" and f.value == person}
        return [name for name in self.people if name in tied]


@cache
def vocabulary() -> dict[str, Any]:
    """The parsed `world.yaml`: names, attributes, relations, general facts and their templates."""
    text = (resources.files("atu.benchmarks.world") / "world.yaml").read_text(encoding="utf-8")
    return parse_vocabulary(text)


def _draw_names(
    rng: np.random.Generator, count: int, holdout: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`count` invented names and `holdout` more; no two people share a given or a family name."""
    parts = vocabulary()["names"]
    given = [a + b for a, b in itertools.product(parts["given_start"], parts["given_end"])]
    family = [a + b for a, b in itertools.product(parts["family_start"], parts["family_end"])]
    limit = min(len(given), len(family)) - holdout
    if not MINIMUM_PEOPLE <= count <= limit or count % 2:
        raise ConfigError(
            "prepare.people",
            count,
            f"choose an even number of people from {MINIMUM_PEOPLE} to {limit}",
        )
    first = rng.permutation(given)[: count + holdout]
    last = rng.permutation(family)[: count + holdout]
    names = tuple(f"{a} {b}" for a, b in zip(first, last, strict=True))
    return names[:count], names[count:]


def _draw_values(
    rng: np.random.Generator, spec: dict[str, Any], people: int, holdout: int = 0
) -> list[str]:
    """One value per person: unique if the spec says so, otherwise spread evenly over the pool."""
    count = people + holdout
    if not spec.get("unique", False):
        pool = spec["values"]
        repeats = -(-count // len(pool))
        return [str(v) for v in rng.permutation(list(pool) * repeats)[:count]]
    composed = [" ".join(words) for words in itertools.product(*spec["compose"])]
    if count > len(composed):
        besides = f" and there are {holdout} holdout_people besides" if holdout else ""
        raise ConfigError(
            "prepare.people", people, f"only {len(composed)} unique values exist{besides}"
        )
    return [spec.get("prefix", "") + str(v) for v in rng.permutation(composed)[:count]]


def _holdout_values(
    seed: int, attribute: str, spec: dict[str, Any], people: int, holdout: int
) -> list[str]:
    """Values for people outside the world, which stays as it is; a unique value stays unique."""
    if spec.get("unique", False):
        return _draw_values(generator(seed, "world", attribute), spec, people, holdout)[people:]
    return _draw_values(generator(seed, "holdout", attribute), spec, holdout)


def _pair_up(rng: np.random.Generator, people: tuple[str, ...], used: set[frozenset[str]]):
    """A random perfect matching that repeats no pair in `used`."""
    while True:
        order = [str(p) for p in rng.permutation(people)]
        pairs = list(zip(order[::2], order[1::2], strict=True))
        if not any(frozenset(pair) in used for pair in pairs):
            return pairs


def _draw_relations(rng: np.random.Generator, people: tuple[str, ...]) -> list[Fact]:
    """Spouse and colleague are matchings, mentor a cycle; no two relations tie the same pair."""
    used: set[frozenset[str]] = set()
    facts = []
    for attribute, spec in vocabulary()["relations"].items():
        if spec["symmetric"]:
            pairs = _pair_up(rng, people, used)
            directed = pairs + [(b, a) for a, b in pairs]
        else:
            directed = _draw_cycle(rng, people, used)
        used |= {frozenset(pair) for pair in directed}
        facts += [Fact(a, attribute, b, "relation") for a, b in directed]
    return facts


def _draw_cycle(rng: np.random.Generator, people: tuple[str, ...], used: set[frozenset[str]]):
    """A random cycle through all people that repeats no pair in `used`."""
    while True:
        order = [str(p) for p in rng.permutation(people)]
        pairs = list(zip(order, order[1:] + order[:1], strict=True))
        if not any(frozenset(pair) in used for pair in pairs):
            return pairs


def build_world(seed: int, people: int, holdout: int = 0) -> World:
    """Draw a world of `people` fictitious persons; the same seed gives the same world.

    `holdout` more people are drawn whom no training text names, so no model can know them. They
    have the same attributes and no relations.

    Raises:
        ConfigError: `people` is odd, below `MINIMUM_PEOPLE`, or more than the name pool holds.
    """
    vocab = vocabulary()
    names, unknown = _draw_names(generator(seed, "world", "names"), people, holdout)
    facts, held_out = [], []
    for attribute, spec in vocab["attributes"].items():
        values = _draw_values(generator(seed, "world", attribute), spec, people)
        facts += [Fact(n, attribute, v, "attribute") for n, v in zip(names, values, strict=True)]
        values = _holdout_values(seed, attribute, spec, people, holdout)
        held_out += [Fact(n, attribute, v, "holdout") for n, v in zip(unknown, values, strict=True)]
    facts += _draw_relations(generator(seed, "world", "relations"), names)
    order = {name: i for i, name in enumerate(names)}
    facts.sort(key=lambda fact: order[fact.subject])
    general: list[Fact] = []
    places = vocab["general"]["places"]
    for attribute, spec in vocab["general"]["facts"].items():
        values = _draw_values(generator(seed, "world", "general", attribute), spec, len(places))
        general += [Fact(p, attribute, v, "general") for p, v in zip(places, values, strict=True)]
    held_out.sort(key=lambda fact: unknown.index(fact.subject))
    return World(names, tuple(facts), tuple(general), unknown, tuple(held_out))
