"""The meta-evaluation of metrics: which numbers can be trusted, where the truth is known.

After open-unlearning, arXiv 2506.12618. A grid with the original model and the oracle has a pool of
models that know a target and a pool of models that never saw it, one of each per model and target.
A number about the target is *faithful* if it tells one pool from the other, and *robust* if an
attack moves it on an unlearned model no more than on the oracle.

The paper's pools hold thirty models each, also trained on paraphrased and on perturbed forget sets;
its attack teaches the facts that it asks for. Here relearning asks for facts that were not taught,
so that what comes back was there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atu.attacks.quantise import FULL
from atu.attacks.quantise import Settings as Quantise
from atu.attacks.relearn import AFTER, BEFORE
from atu.attacks.relearn import Settings as Relearn
from atu.config.params import Params, oracle_method
from atu.config.roles import ORIGINAL, REFERENCES
from atu.config.sections import AttackSection, Report
from atu.errors import ConfigError
from atu.metrics.bootstrap import percentiles
from atu.metrics.faithfulness import faithfulness, knows
from atu.metrics.memorisation import tofu_model_utility
from atu.metrics.recovery import (
    mean_ratio,
    meta_eval_robustness,
    quantisation_ratio,
    relearning_ratio,
)
from atu.metrics.registry import Moves, registry
from atu.metrics.trust import Trust
from atu.reporting.items import CELL, SPLIT
from atu.reporting.robustness import QUANTISED, attack_columns, named
from atu.results.artifacts import Artifact
from atu.seeding import generator

Numbers = dict[str, float]
"""What was measured of one checkpoint: keys of `metrics.json` without the split."""
Pair = tuple[str, str]
"""A model and a target."""
PAIRS = 4
"""Fewer models in a pool say nothing: of 3 and 3, one ordering in 20 is perfect by chance."""
UTILITY = f"privacy/all.{tofu_model_utility.id}"
KEPT = 0.8
"""Share of the original's utility below which an unlearned model is left out, as in the paper: a
ruined model is moved by nothing."""
ABOUT = ("target", "forget", "passage")
"""Whose numbers are about what the target's texts say."""


@dataclass(frozen=True)
class Pools:
    """The numbers of every checkpoint of a grid."""

    knowing: dict[Pair, Numbers]
    ignorant: dict[Pair, Numbers]
    unlearned: list[tuple[Pair, Numbers, Numbers]]
    """A model and target, the unlearned checkpoint, and the oracle of the same seed."""

    def both(self, key: str) -> list[Pair]:
        """The pairs of which both models have the number."""
        return [p for p in self.knowing if key in self.knowing[p] and key in self.ignorant[p]]

    def values(self, key: str, pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
        """The number of the knowing and of the ignorant models of these pairs."""
        return [self.knowing[p][key] for p in pairs], [self.ignorant[p][key] for p in pairs]


def has_pools(params: Params) -> bool:
    """Whether the grid has both models of enough models and targets."""
    grid = params.grid
    both = ORIGINAL in grid.methods and oracle_method(params) is not None
    return both and len(grid.models) * len(grid.targets) >= PAIRS


def require_pools(params: Params) -> str:
    """The key of the oracle.

    Raises:
        ConfigError: the grid has too few pairs of an original and an oracle.
    """
    oracle = oracle_method(params)
    if oracle is None or not has_pools(params):
        raise ConfigError(
            "grid", params.grid.methods, f"the meta-evaluation needs `{ORIGINAL}` and the oracle "
            f"of {PAIRS} models and targets; see experiments/metric_pools.yaml",
        )  # fmt: skip
    return oracle


def meta_table(artifacts: Iterable[Artifact], params: Params) -> list[Trust]:
    """One row per number about the target, from the folders `rephrase`, `privacy` and `attack` of
    the cells of the grid's single targets.

    Raises:
        ConfigError: as `require_pools`.
    """
    pools = pooled(artifacts, require_pools(params), params.grid.targets)
    attack, names = params.attack, params.grid.attacks
    moves = asked(pools, controls(attack, names))
    conditions = attacked_conditions(attack, names)
    return [row(key, way, pools, conditions, params.report) for key, way in moves.items()]


def pooled(artifacts: Iterable[Artifact], oracle: str, targets: Sequence[str]) -> Pools:
    """The numbers by checkpoint. The original and the oracle are the same for every seed of
    unlearning, so the first counts. A second oracle is not unlearned either.
    """
    cells: dict[tuple[Any, ...], Numbers] = {}
    for artifact in artifacts:
        if artifact.cell["target"] in targets:
            found = cells.setdefault(tuple(artifact.cell[key] for key in CELL), {})
            ending = f"/{SPLIT}"
            found |= {
                key.removesuffix(ending): value
                for key, value in artifact.metrics().items()
                if key.endswith(ending)
            }
    pools = Pools({}, {}, [])
    for (model, target, method, seed), numbers in cells.items():
        if method == ORIGINAL:
            pools.knowing.setdefault((model, target), numbers)
        elif method == oracle:
            pools.ignorant.setdefault((model, target), numbers)
        elif method not in REFERENCES:
            beside = cells[model, target, oracle, seed]
            pools.unlearned.append(((model, target), numbers, beside))
    return pools


def asked(pools: Pools, left_out: Sequence[str]) -> dict[str, Moves]:
    """Every number about the target that measures knowledge, with the way in which it moves.

    Of an attack's conditions those by the probe's own measure, whose items are counted.
    """
    known, found = registry(), {}
    every = [numbers for pool in (pools.knowing, pools.ignorant) for numbers in pool.values()]
    for numbers in every:
        for key in numbers:
            phase, _, name = key.partition("/")
            metric = known.get(key.rpartition(".")[2])
            of_attack = phase == "attack"
            parts = name.split(".")[of_attack:]
            if metric is None or metric.knowledge is None or parts[0] not in ABOUT:
                continue
            counted = not of_attack or len(parts) == 2 or f"{key}.n" in numbers
            if counted and not key.startswith(tuple(left_out)):
                found[key] = metric.knowledge
    return found


def controls(attack: AttackSection, names: Sequence[str]) -> list[str]:
    """Beginnings of the keys of conditions that only controls show."""
    columns = [(name, column) for name in names for column in attack_columns(attack, name)]
    shown = {(n, c) for n, column in columns if not column.control for c in column.conditions}
    return [
        f"attack/{name}.{column.role}.{condition}."
        for name, column in columns
        for condition in column.conditions
        if column.control and (name, condition) not in shown
    ]


@dataclass(frozen=True)
class Conditions:
    """Beginnings of keys: an answer before and after an attack; None where it was not run."""

    relearning: tuple[str, str] | None
    quantisation: tuple[str, str] | None


def attacked_conditions(attack: AttackSection, names: Sequence[str]) -> Conditions:
    """Where the first relearning and the first quantisation of the grid keep their answers."""

    def pair(kind: type, before: str, after: str) -> tuple[str, str] | None:
        name = named(attack, names, kind)
        if name is None:
            return None
        return f"attack/{name}.target.{before}.", f"attack/{name}.target.{after}."

    return Conditions(pair(Relearn, BEFORE, AFTER), pair(Quantise, FULL, QUANTISED))


def row(key: str, way: Moves, pools: Pools, conditions: Conditions, section: Report) -> Trust:
    """What is known of one number."""
    pairs = pools.both(key)
    area, low, high = interval(key, way, pairs, pools, section) if pairs else (None,) * 3
    relearning, quantisation = ratios(key, way, pools, conditions)
    return Trust(
        key,
        sum(key in numbers for numbers in pools.knowing.values()),
        sum(key in numbers for numbers in pools.ignorant.values()),
        area,
        low,
        high,
        max(len(relearning), len(quantisation)),
        mean_ratio(relearning),
        mean_ratio(quantisation),
        meta_eval_robustness(relearning, quantisation),
    )


def interval(
    key: str, way: Moves, pairs: Sequence[Pair], pools: Pools, section: Report
) -> tuple[float, float, float]:
    """The faithfulness with its bootstrap interval. Whole models are drawn with all their targets,
    in both pools alike, for an oracle has its original's size and training; whole targets where
    there is one model.
    """
    high, low = pools.values(key, pairs)
    several = len({model for model, _ in pairs}) > 1
    _, member = np.unique([pair[0 if several else 1] for pair in pairs], return_inverse=True)
    clusters = member.max() + 1
    drawn = generator(section.seed, "faithfulness", key).integers(
        clusters, size=(section.bootstrap, clusters)
    )
    weights = (drawn[:, :, None] == np.arange(clusters)).sum(axis=1)[:, member]
    wins = np.array([[faithfulness([a], [b], way) for b in low] for a in high])
    areas = np.einsum("di,ij,dj->d", weights, wins, weights) / weights.sum(axis=1) ** 2
    return faithfulness(high, low, way), *percentiles(areas, section.confidence)


def ratios(
    key: str, way: Moves, pools: Pools, conditions: Conditions
) -> tuple[list[float | None], list[float]]:
    """R and Q of every unlearned model that by this number does not know, of a number that is over
    the questions that attacks ask too, and that rises from 0 with knowledge.
    """
    metric, pairs = key.rpartition(".")[2], pools.both(key)
    plain = (f"rephrase/target.question.{metric}", f"privacy/target.{metric}")
    relearning: list[float | None] = []
    quantisation: list[float] = []
    if key not in plain or way != "rises" or not pairs:
        return relearning, quantisation
    knowing, ignorant = pools.values(key, pairs)
    for pair, numbers, oracle in pools.unlearned:
        if ruined(numbers, pools.knowing[pair]) or key not in numbers:
            continue
        if knows(numbers[key], knowing, ignorant, way):
            continue
        mine, theirs, rounded = (
            _pair(of, prefixes, metric)
            for of, prefixes in (
                (numbers, conditions.relearning),
                (oracle, conditions.relearning),
                (numbers, conditions.quantisation),
            )
        )
        if mine and theirs:
            relearning.append(relearning_ratio(*theirs, *mine))
        if rounded:
            quantisation.append(quantisation_ratio(*rounded))
    return relearning, quantisation


def ruined(numbers: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """Whether a model has lost too much utility to say anything of robustness."""
    return UTILITY in numbers and numbers[UTILITY] < KEPT * before[UTILITY]


def _pair(
    numbers: Mapping[str, float], prefixes: tuple[str, str] | None, metric: str
) -> tuple[float, float] | None:
    """A metric before and after an attack; None where one of the two is missing."""
    before, after = (numbers.get(f"{prefix}{metric}") for prefix in prefixes or ("", ""))
    return None if before is None or after is None else (before, after)
