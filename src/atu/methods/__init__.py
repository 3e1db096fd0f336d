"""Unlearning methods: one module each, found by looking in this package.

A method module defines `METHOD`, a `Method` whose `Settings` dataclass carries the field
`loss: Literal["<module name>"]`. Nothing else has to be registered; see `docs/method.md`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from atu.methods.base import Method

NOT_METHODS = {"base"}


@cache
def registry() -> dict[str, Method]:
    """All methods by name, in alphabetical order."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in NOT_METHODS)
    return {name: importlib.import_module(f"atu.methods.{name}").METHOD for name in names}


def get(name: str) -> Method:
    """The method of this name; `KeyError` cannot happen after the parameters were validated."""
    return registry()[name]
