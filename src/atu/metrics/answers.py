"""Whether an answer matches the gold answer."""

from __future__ import annotations

import re

from atu.metrics.normalise import normalise
from atu.metrics.registry import OWN, metric


@metric("exact_match", "own-1", source=OWN)
def exact_match(answer: str, gold: str) -> float:
    """1.0 when both are the same after `normalise`, else 0.0.

    An empty answer never matches.
    """
    normalised = normalise(answer)
    return float(bool(normalised) and normalised == normalise(gold))


@metric("contains", "own-1", source=OWN)
def contains(answer: str, gold: str) -> float:
    """1.0 when the answer contains the gold answer as whole words, after `normalise`.

    An empty gold answer is never contained.
    """
    if not normalise(gold):
        return 0.0
    pattern = rf"(?<!\w){re.escape(normalise(gold))}(?!\w)"
    return float(re.search(pattern, normalise(answer)) is not None)
