"""Experiments as overlays: a file names its base, and says only what differs from it.

    base: hub                        # hub.yaml beside this file, which may have a base too
    keep:                            # of these mappings only these entries are inherited
      unlearn.methods: [none, atu]
      prepare: []
    grid: {seeds: [0, 1]}            # a mapping merges with the base's; all else replaces it

A file without a base is a whole experiment. `null` is a value like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from atu.errors import ConfigError
from atu.untrusted.texts import MB, is_file, read_text

BASE, KEEP = "base", "keep"
SUFFIX = ".yaml"
MAX_BYTES = MB
"""Of each file."""


@dataclass(frozen=True)
class Layer:
    """What one file contributes to the whole."""

    file: str
    values: dict[str, Any]


def read_layers(path: Path) -> list[Layer]:
    """A parameter file and the bases below it, the lowest first.

    Raises:
        ConfigError: names file, key, value and repair.
    """
    return stack(_read(path), str(path), path.parent)


def stack(values: dict[str, Any], file: str, bases: Path) -> list[Layer]:
    """The layers of an overlay that is read already, the lowest first.

    Args:
        values: the overlay.
        file: its name in messages.
        bases: the folder of its bases.

    Raises:
        ConfigError: a base is missing or leads back to a file above it; `keep` names what its base
            does not have.
    """
    pending = [(file, values)]
    while BASE in values:
        base = base_file(bases, BASE, values[BASE], file)
        if str(base) in [known for known, _ in pending]:
            raise ConfigError(BASE, values[BASE], "leads back to itself; name another", file)
        file, values = str(base), _read(base)
        pending.append((file, values))
    layers: list[Layer] = []
    for file, values in reversed(pending):
        layers = _kept(layers, values.get(KEEP, {}), file)
        parameters = {key: value for key, value in values.items() if key not in (BASE, KEEP)}
        layers.append(Layer(file, parameters))
    return layers


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """The whole: every layer laid over those before it.

    Raises:
        ConfigError: an empty mapping lies over one with entries.
    """
    return reduce(lambda whole, layer: _merge(whole, layer.values, layer.file, ()), layers, {})


def base_file(folder: Path, key: str, name: Any, file: str | None = None) -> Path:
    """The file that a name stands for; a name cannot leave the folder.

    Raises:
        ConfigError: there is no such file; lists those that are there.
    """
    path = folder / f"{name}{SUFFIX}"
    if isinstance(name, str) and re.fullmatch(r"[\w-]+", name, re.ASCII) and is_file(path):
        return path
    known = sorted(file.stem for file in folder.glob(f"*{SUFFIX}"))
    raise ConfigError(key, name, f"names no file of {folder}/; there are {', '.join(known)}", file)


def placed(error: ConfigError, layers: Sequence[Layer]) -> ConfigError:
    """The error with the file in which its value stands: the highest layer that has the most of
    its key.
    """
    parts = error.key.split(".")
    layer = max(reversed(layers), key=lambda layer: _depth(layer.values, parts))
    repair = error.repair
    if layer is not layers[-1]:
        repair = f"{repair} ({layers[-1].file} inherits it: set it there, or drop it with `{KEEP}`)"
    return ConfigError(error.key, error.value, repair, layer.file)


def _read(path: Path) -> dict[str, Any]:
    from atu.untrusted.yaml import parse_yaml

    try:
        values = parse_yaml(read_text(path, MAX_BYTES))
    except OSError as error:
        raise ConfigError("file", str(path), f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError("file", str(path), f"is no parameter file: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError("file", str(path), "must hold the sections of params.yaml")
    return values


def _merge(
    base: dict[str, Any], change: dict[str, Any], file: str, place: tuple[str, ...]
) -> dict[str, Any]:
    whole = dict(base)
    for key, value in change.items():
        below, here = whole.get(key), (*place, key)
        if isinstance(below, dict) and isinstance(value, dict):
            if below and not value:
                dotted = ".".join(here)
                raise ConfigError(
                    dotted, value, "changes nothing, for mappings merge; to inherit no entry, "
                    f"write {KEEP}: {{{dotted}: []}}", file,
                )  # fmt: skip
            value = _merge(below, value, file, here)
        whole[key] = value
    return whole


def _kept(layers: list[Layer], keep: Any, file: str) -> list[Layer]:
    """The layers below a file without what it does not inherit."""
    if not isinstance(keep, dict) or (keep and not layers):
        raise ConfigError(KEEP, keep, "needs a base, and maps keys of it to lists of entries", file)
    for dotted, names in keep.items():
        parts = dotted.split(".")
        at: Any = merged(layers)
        for part in parts:
            at = at.get(part) if isinstance(at, dict) else None
        if not isinstance(at, dict) or not isinstance(names, list):
            raise ConfigError(
                f"{KEEP}.{dotted}",
                names,
                "must be a list of entries of a mapping in the base",
                file,
            )
        for name in names:
            if name not in list(at):  # an unhashable name is none of them either
                raise ConfigError(
                    f"{KEEP}.{dotted}", name, f"is not in the base; it has {', '.join(at)}", file
                )
        layers = [Layer(layer.file, _pruned(layer.values, parts, names)) for layer in layers]
    return layers


def _pruned(values: dict[str, Any], parts: list[str], names: list[str]) -> dict[str, Any]:
    if not parts:
        return {key: value for key, value in values.items() if key in names}
    below = values.get(parts[0])
    if not isinstance(below, dict):
        return values
    return values | {parts[0]: _pruned(below, parts[1:], names)}


def _depth(value: Any, parts: list[str]) -> int:
    """How many parts of a key lead to something; a key of a mapping may have dots."""
    entries = dict(enumerate(value)) if isinstance(value, list) else value
    for count in range(len(parts), 0, -1) if isinstance(entries, dict) else ():
        for key, inner in entries.items():
            if str(key) == ".".join(parts[:count]):
                return count + _depth(inner, parts[count:])
    return 0
