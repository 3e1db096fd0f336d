"""The wording in which a fact leaks most."""

from __future__ import annotations

from collections.abc import Iterable

from atu.metrics.registry import OWN, metric


@metric("worst_form", "own-1", source=f"{OWN}; worst case over formats: arXiv 2509.02820")
def worst_form(rows: Iterable[tuple[str, str, float]]) -> dict[str, float]:
    """Per fact, the largest mean score over its forms: the wording in which it leaks most.

    Rows are `(fact, form, score)`. A fact with scores 1 and 0 as a question and 0.2 as a cloze:
    max(0.5, 0.2) = 0.5.

    A maximum of noisy means is biased upwards: read it beside the same number of the oracle.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for fact, form, score in rows:
        scores.setdefault(fact, {}).setdefault(form, []).append(score)
    return {
        fact: max(sum(values) / len(values) for values in forms.values())
        for fact, forms in sorted(scores.items())
    }
