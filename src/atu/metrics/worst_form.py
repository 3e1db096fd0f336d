"""The wording in which a fact leaks most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from atu.metrics.registry import OWN, metric
from atu.metrics.sampling import item_max_at_k

Scored = tuple[str, str, float]
"""Fact, form, and the score of one wording."""


@metric(
    "worst_form",
    "own-2",
    source=f"{OWN}; worst case over formats: arXiv 2509.02820",
    knowledge="rises",
)
def worst_form(rows: Iterable[Scored], m: int | None = None) -> dict[str, float]:
    """Per fact, the largest mean score over its forms, or the expected largest of `m` wordings.

    Without `m`, the form in which it leaks most: scores 1 and 0 as a question and 0.2 as a cloze
    give max(0.5, 0.2) = 0.5. That is a maximum of noisy means, and of more of them the larger:
    compare it with the same number of the oracle, and only over the same wordings.

    With `m`, over all ways to choose m of the fact's wordings, whatever their form
    (`sampling.item_max_at_k`): the same scores and m = 2 give (1 + 1 + 0.2) / 3 = 0.73. A fact with
    more wordings does not score higher for that, so facts, people and benchmarks can be compared.
    Forms are not averaged first, since a mean of many wordings varies less than one of few. A fact
    with fewer than m wordings has the largest of those: leave it out of a comparison
    (`has_enough`).
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for fact, form, score in rows:
        scores.setdefault(fact, {}).setdefault(form, []).append(score)
    if m is None:
        return {
            fact: max(sum(values) / len(values) for values in forms.values())
            for fact, forms in sorted(scores.items())
        }
    wordings = {
        fact: [score for values in forms.values() for score in values]
        for fact, forms in sorted(scores.items())
    }
    return {fact: item_max_at_k(values, min(m, len(values))) for fact, values in wordings.items()}


def has_enough(facts: Iterable[str], m: int | None) -> set[str]:
    """The facts that stand at least `m` times, once for each wording, in `facts`; all without m."""
    return {fact for fact, count in Counter(facts).items() if count >= (m or 1)}
