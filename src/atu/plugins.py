"""Plug-ins: methods, attacks, benchmarks and guards, one module each, loaded when they are named.

Those of this package are found by looking into theirs; those of other packages are what these name
as entry points, `toy = "toy_package.toy:METHOD"` in the group `atu.methods`. So only what is
installed can be named, and only what is named runs.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from atu.errors import AtuError

T = TypeVar("T")
NOT_PLUGINS = {"base", "shared"}


class Plugins(Mapping[str, T]):
    """The plug-ins of one kind by name, in alphabetical order.

    Args:
        package: where this one keeps them: `atu.methods`.
        path: the folders of that package.
        attribute: what a module calls its plug-in: `METHOD`.

    Raises:
        AtuError: two have one name.
    """

    def __init__(self, package: str, path: Iterable[str], attribute: str) -> None:
        self._package, self._attribute = package, attribute
        self._own = {m.name for m in pkgutil.iter_modules(path)} - NOT_PLUGINS
        self._installed = installed(package)
        for name in sorted(self._own & set(self._installed)):
            raise AtuError(f"{describe(self._installed[name])}: {self._package} has one already")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._own | set(self._installed)))

    def __len__(self) -> int:
        return len(self._own) + len(self._installed)

    def __getitem__(self, name: str) -> T:
        if name in self._own:
            member: T = getattr(importlib.import_module(f"{self._package}.{name}"), self._attribute)
            return member
        entry = self._installed[name]
        try:
            return entry.load()  # type: ignore[no-any-return]
        except Exception as error:  # whatever a module of another package raises
            raise AtuError(f"{describe(entry)}: cannot be loaded: {error}") from error


def installed(package: str) -> dict[str, EntryPoint]:
    """The plug-ins that other packages name for one of ours (`atu.methods`); nothing is loaded.

    Raises:
        AtuError: two have one name.
    """
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=f"atu.{package.rpartition('.')[2]}"):
        if entry.name in entries and entry.value != entries[entry.name].value:
            raise AtuError(f"{describe(entry)}: {describe(entries[entry.name])} has this name")
        entries[entry.name] = entry
    return entries


def describe(entry: EntryPoint) -> str:
    """The entry point, for a message."""
    return f"entry point {entry.name} = {entry.value} of {entry.group}"
