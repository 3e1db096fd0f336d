"""Attacks on an unlearned model: one module each, discovered in this package.

An attack module defines `ATTACK`, an `Attack` whose `Settings` dataclass carries the field
`attack: Literal["<module name>"]`. No other registration is needed; see `docs/robustness.md`.
"""

from __future__ import annotations

from functools import cache

from atu.attacks.base import Attack
from atu.plugins import Plugins


@cache
def registry() -> Plugins[Attack]:
    """All attacks by name, in alphabetical order."""
    return Plugins(__name__, __path__, "ATTACK")


def get(name: str) -> Attack:
    """The attack of this name; `KeyError` cannot happen after the parameters were validated."""
    return registry()[name]
