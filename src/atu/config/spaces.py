"""Search spaces: what a method's own entry may be changed to, by dotted key."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from atu import methods
from atu.config.entries import parse_entry
from atu.config.sections import Choices, Search, Span
from atu.errors import ConfigError
from atu.results.artifacts import Artifact
from atu.results.files import read_json

CHOSEN = "chosen.json"
"""What a search writes: the chosen values, and the whole settings with them."""


def space_of(search: Search, method: str, entry: Mapping[str, Any]) -> dict[str, Span | Choices]:
    """All that is searched of a method: its own space, and of what is common to all methods the
    keys that its entry has and its own space says nothing of.
    """
    own = search.spaces[method]
    common = {
        key: values
        for key, values in search.common.items()
        if has_key(entry, key) and not overlapping(key, own)
    }
    return common | {key: values for key, values in own.items() if values is not None}


def overlapping(key: str, others: Iterable[str]) -> list[str]:
    """Those of the other dotted keys that are this one, a part of it, or hold it."""
    return [o for o in others if f"{key}.".startswith(f"{o}.") or f"{o}.".startswith(f"{key}.")]


def has_key(entry: Mapping[str, Any], key: str) -> bool:
    """Whether the entry has a value at a dotted key."""
    try:
        value_at(entry, key, "")
    except ConfigError:
        return False
    return True


def value_at(entry: Mapping[str, Any], key: str, where: str) -> Any:
    """The entry's value at a dotted key such as `retain.nll`.

    Raises:
        ConfigError: there is no such key.
    """
    at: Any = entry
    for part in key.split("."):
        if not isinstance(at, Mapping) or part not in at:
            known = ", ".join(at) if isinstance(at, Mapping) else "no keys"
            raise ConfigError(f"{where}.{key}", None, f"the entry has no {part!r}, but {known}")
        at = at[part]
    return at


def with_values(method: str, entry: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """The settings of a method's entry with these values at dotted keys, checked.

    Raises:
        ConfigError: a value is none that the key can have.
    """
    changed = nested(values, copy.deepcopy(dict(entry)))
    return parse_entry("unlearn.methods", "loss", methods.registry(), method, changed)


def nested(values: Mapping[str, Any], whole: dict[str, Any] | None = None) -> dict[str, Any]:
    """Values at dotted keys as mappings in mappings, put into `whole` where one is given."""
    whole = {} if whole is None else whole
    for key, value in values.items():
        *parents, last = key.split(".")
        at = whole
        for part in parents:
            at = at.setdefault(part, {})
        at[last] = value
    return whole


def ends(values: Span | Choices) -> list[Any]:
    """Both ends of a span, or all choices."""
    return list(values.choices) if isinstance(values, Choices) else [values.low, values.high]


def search_row(search: Artifact) -> dict[str, Any]:
    """A search as a row of a table: model, method, the values it chose and in which trial, every
    trial's score on the first target, the best so far after each and its scores on the other
    targets, whether nothing was left to try, and the search's metrics.
    """
    metrics = {key.split("/")[1]: value for key, value in search.metrics().items()}
    trials = search.read_jsonl("trials.jsonl")
    scores = [trial["score"] for trial in trials]
    curve = {"scores": scores, "best_so_far": list(accumulate(scores, max))}
    others = {"others": [[run["score"] for run in trial["finals"]] for trial in trials]}
    chosen = {key: _read(search)[key] for key in ("trial", "values")}
    whole = {"complete": search.manifest["params"]["trials"] is None}
    return search.cell | chosen | curve | others | whole | metrics


def chosen_values(search: Artifact) -> dict[str, Any]:
    """The values that a search chose, by dotted key."""
    return dict(_read(search)["values"])


def chosen_settings(search: Artifact, method: str) -> Any:
    """A method's settings as a search chose them."""
    return with_values(method, _read(search)["settings"], {})


def _read(search: Artifact) -> dict[str, Any]:
    return read_json(search.file(CHOSEN))
