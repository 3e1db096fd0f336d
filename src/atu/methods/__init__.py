"""Unlearning methods: one module each, discovered in this package.

A method module defines `METHOD`, a `Method` whose `Settings` dataclass carries the field
`loss: Literal["<module name>"]`. No other registration is needed; see `docs/add-a-method.md`.
"""

from __future__ import annotations

from functools import cache

from atu.methods.base import Method
from atu.plugins import Plugins


@cache
def registry() -> Plugins[Method]:
    """All methods by name, in alphabetical order."""
    return Plugins(__name__, __path__, "METHOD")


def get(name: str) -> Method:
    """The method of this name; `KeyError` cannot happen after the parameters were validated."""
    return registry()[name]
