"""What guessing scores at a probe, from the probes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

from atu.metrics.selection import CHANCE, LEAKS, chance
from atu.metrics.worst_form import worst_form
from atu.probes.measures import measure
from atu.seeding import hash_fraction

Row = Mapping[str, Any]
GUESSES = 30
"""Answers of others that are tried at a probe, chosen by hash: more change its chance little, and
long answers are slow to compare."""


def chances(asked: Sequence[Row], known: Sequence[Row]) -> list[float]:
    """What guessing scores at each of the probes `asked` (`metrics.selection.chance`).

    A guess is the answer to a plain question among `known` about another fact of the same
    attribute (the column `type`); of a `type` that no plain question has, as RWKU's adversarial
    ones, about any other fact. No model is read, and no other split than that of `known`.
    """
    answers: dict[str, dict[str, str]] = {}
    everything: dict[str, str] = {}
    for row in sorted(known, key=lambda row: hash_fraction("chance", row["fact"])):
        if row["form"] == "question" and not row["options"]:
            for pool in (answers.setdefault(row["type"], {}), everything):
                pool.setdefault(row["fact"], row["answer"])

    @cache  # a fact is asked in many wordings
    def guessed(kind: str, fact: str, gold: str, name: str) -> float:
        pool = answers.get(kind, everything)
        others = (answer for other, answer in pool.items() if other != fact)
        return chance(0, [measure(name)(answer, gold) for answer in islice(others, GUESSES)])

    return [
        chance(len(row["options"]), ())
        if row["options"]
        else guessed(row["type"], row["fact"], row["answer"], row["measure"])
        for row in asked
    ]


def about_target(probes: Sequence[Row], values: Sequence[float]) -> tuple[float, float]:
    """Of one value per probe, those about the target: their mean over plain questions (of a target
    without any, over all forms) and over facts in the worst form; 0 where none is asked.
    """
    about = [
        (row, value) for row, value in zip(probes, values, strict=True) if row["role"] == "target"
    ]
    plain = [value for row, value in about if row["form"] == "question"]
    plain = plain or [value for _, value in about]
    # Of facts with few wordings too: points are compared over the same facts.
    worst = worst_form(
        ((row["fact"], row["form"], value) for row, value in about),
        next((row["worst_of"] for row, _ in about), None),
    )
    return _mean(plain), _mean([*worst.values()])


def leaks_and_chances(
    probes: Sequence[Row], scores: Sequence[float], guessed: Sequence[float]
) -> dict[str, float]:
    """What `selection` reads about the target, by its names: two leaks, and what guessing gives."""
    leaks, floors = about_target(probes, scores), about_target(probes, guessed)
    return dict(zip(LEAKS, leaks, strict=True)) | dict(zip(CHANCE, floors, strict=True))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
