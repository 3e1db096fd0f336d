"""Methods and attacks: one module each, found by looking in their package."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

NOT_PLUGINS = {"base", "shared"}


def find_plugins(package: str, path: Iterable[str], attribute: str) -> dict[str, Any]:
    """What every module of a package calls `attribute`, by module name in alphabetical order.

    Raises:
        AttributeError: a module does not have it.
    """
    names = sorted(m.name for m in pkgutil.iter_modules(path) if m.name not in NOT_PLUGINS)
    return {
        name: getattr(importlib.import_module(f"{package}.{name}"), attribute) for name in names
    }
