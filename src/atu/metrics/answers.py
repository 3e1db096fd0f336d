"""Whether an answer matches the gold answer."""

from __future__ import annotations

from atu.metrics.registry import OWN, metric
from atu.metrics.words import content, same, words


@metric("exact_match", "own-2", source=OWN, knowledge="rises")
def exact_match(answer: str, gold: str) -> float:
    """1.0 when both have the same words but for a leading article, in any script, else 0.0.

    An answer and a gold answer without any word match when they show the same signs; an empty
    answer never matches.
    """
    return float(same(answer, gold))


@metric("contains", "own-2", source=OWN, knowledge="rises")
def contains(answer: str, gold: str) -> float:
    """1.0 when the answer has the words of the gold answer in a row, in any script, else 0.0.

    The gold answer's leading article does not count. A gold answer without a word is never
    contained.
    """
    found, sought = words(answer), content(gold)
    ends = range(len(found) - len(sought) + 1) if sought else ()
    return float(any(found[at : at + len(sought)] == sought for at in ends))
