"""How much leaks when a fact is asked in another way."""

from __future__ import annotations

from collections.abc import Sequence

from atu.metrics.registry import OWN, metric

RWKU_FORGET_COUNTS = (3268, 2879, 6984)
"""RWKU's probes of level 1, 2 and 3 over all its targets."""
RWKU_NEIGHBOUR_COUNTS = (5846, 5533)


@metric("seen_gap", "own-1", source=OWN)
def seen_gap(seen: Sequence[float], unseen: Sequence[float]) -> float:
    """Mean score over phrasings outside the unlearning corpus minus that over phrasings in it.

    Above 0 the wording was forgotten more than the fact: 0.6 on unseen and 0.1 on seen phrasings
    give 0.5.

    Raises:
        ValueError: one side is empty.
    """
    if not seen or not unseen:
        raise ValueError(f"{len(seen)} seen and {len(unseen)} unseen phrasings; both are needed")
    return sum(unseen) / len(unseen) - sum(seen) / len(seen)


@metric(
    "rwku_forget_all",
    "faithful-1",
    source="RWKU, arXiv 2406.10890, and ATU's evaluation: weighted with global counts",
    defect="a single target's levels are weighted by the counts of all 200 targets",
    knowledge="rises",
)
def rwku_forget_all(cloze: float, question: float, adversarial: float) -> float:
    """Mean of the three levels, weighted by RWKU's probes per level.

    (1, 0, 0): 3268 / 13131 = 0.2489.
    """
    return _weighted((cloze, question, adversarial), RWKU_FORGET_COUNTS)


@metric(
    "rwku_neighbour_all",
    "faithful-1",
    source="RWKU, arXiv 2406.10890, and ATU's evaluation: weighted with global counts",
    defect="a single target's levels are weighted by the counts of all 200 targets",
    knowledge="rises",
)
def rwku_neighbour_all(cloze: float, question: float) -> float:
    """Mean of the two levels, weighted by RWKU's probes per level.

    (0, 1): 5533 / 11379 = 0.4862.
    """
    return _weighted((cloze, question), RWKU_NEIGHBOUR_COUNTS)


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
