"""Retain texts about the target's neighbours, of which a method may read more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atu.errors import ConfigError, shown
from atu.untrusted.names import has_name


def neighbour_texts(
    rows: Sequence[Mapping[str, Any]], neighbours: Sequence[str], share: float
) -> list[int]:
    """Numbers of the retain texts that name a neighbour, or by their column `names` state a fact
    about one; none where `share` is 0.

    Raises:
        ConfigError: a share of such texts is asked for, and there is none.
    """
    if not share:
        return []
    found = [
        number
        for number, row in enumerate(rows)
        if not set(neighbours).isdisjoint(row["names"]) or has_name(row["text"], neighbours)
    ]
    if not found:
        names = ", ".join(map(shown, neighbours))
        raise ConfigError(
            "retain.neighbours",
            share,
            f"none of the {len(rows)} retain texts names {names}; give 0"
            if neighbours
            else "the benchmark asks about no neighbour by name; give 0",
        )
    return found
