"""How far a model is from the one that never saw the target."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from atu.metrics.registry import OWN, metric
from atu.metrics.selection import NEAR

TASK = "task."
"""What the name of a utility task begins with among the parts."""
FORGETTING = "forgetting"
"""The group in which more than the oracle's is as far from it as less."""
GROUPS = {
    "target": FORGETTING, "worst_form": FORGETTING,
    **dict.fromkeys(NEAR, "near"), "other": "others", "general": "utility",
}  # fmt: skip
"""The group of each part; utility tasks are in the last one."""


@metric("oracle_distance", "own-3", source=OWN)
def oracle_distance(
    method: Mapping[str, NDArray[np.float64]], oracle: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """How far a model answers from the oracle: mean of four parts, in [0, 1].

    The parts are forgetting (plain questions about the target, and its worst form), what is near it
    (neighbours, and the retain questions that stand in one prompt with one about it), other people,
    and utility (general facts, and every utility task). Within a part means are taken of
    differences, one for each mean score; the four weigh the same. In forgetting they are absolute:
    who answers less than the oracle is as far from it as who answers more. Elsewhere only what the
    oracle answers more counts: it is another model, with luck of its own, and to keep what it does
    not know is no harm (own-2 counted that too). A score that the benchmark does not ask for is
    left out, and so is a part without scores.

    Leaking 0 and 0 where the oracle, which guesses, has 0 and .25: .125. Neighbours .9 of 1: .1,
    and .5 of .9 beside the target: .25 in the mean; others equal: 0; general facts 1 of .9: 0, and
    generation .8 of .9: .05 in the mean. So .425 / 4 = .106.

    Args:
        method, oracle: mean scores by the names in `GROUPS`, tasks as `TASK` and their name; the
            same names on both sides. Numbers, or arrays of one shape (resamples).

    Raises:
        ValueError: the names differ, or there is none.
    """
    if method.keys() != oracle.keys() or not method:
        raise ValueError(f"{sorted(method)} against {sorted(oracle)}: not the same scores")
    groups: dict[str, list[NDArray[np.float64]]] = {}
    for name, gap in gaps(method, oracle).items():
        groups.setdefault(_group(name), []).append(gap)
    return np.mean([np.mean(found, axis=0) for found in groups.values()], axis=0)


def gaps(
    method: Mapping[str, NDArray[np.float64]], oracle: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """How far each score is from the oracle's: either way about the target, elsewhere below it. The
    arguments are those of `oracle_distance`.
    """
    found = {}
    for name, score in method.items():
        lacking = np.subtract(oracle[name], score)
        either = _group(name) == FORGETTING
        found[name] = np.abs(lacking) if either else np.maximum(lacking, 0)
    return found


def _group(name: str) -> str:
    return "utility" if name.startswith(TASK) else GROUPS[name]
