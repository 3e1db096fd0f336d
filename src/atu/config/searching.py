"""Whether what is searched can be: checked with the parameters, before any trial."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from atu.config.params import Params
from atu.config.sections import Choices, Span
from atu.config.spaces import ends, has_key, overlapping, space_of, value_at, with_values
from atu.errors import ConfigError

SPACES, COMMON = "search.spaces", "search.common"


def check_search(params: Params, require_fit: Callable[[str, Any], None]) -> None:
    """Every searched key exists and is searched once, both ends and every choice are values that it
    can have, and the entry's own value is among them if the first trial has it.

    Args:
        require_fit: raises ConfigError for settings of a method that no model of the grid suits.

    Raises:
        ConfigError: names key, value and repair.
    """
    search = params.search
    for method in search.spaces:
        if method not in params.unlearn.methods:
            known = ", ".join(params.unlearn.methods)
            raise ConfigError(
                f"{SPACES}.{method}", method, f"not in unlearn.methods, which has {known}"
            )
    entries = {
        method: params.section("unlearn", method)["methods"][method] for method in search.spaces
    }
    _check_common(search.common, entries)
    for method, entry in entries.items():
        own = search.spaces[method]
        _require_apart(f"{SPACES}.{method}", [key for key in own if own[key] is not None])
        for key in own:
            value_at(entry, key, f"{SPACES}.{method}")
        for key, values in space_of(search, method, entry).items():
            where = f"{SPACES}.{method}.{key}" if key in own else f"{COMMON}.{key}"
            advice = "" if key in own else f"; give {SPACES}.{method} its own {key!r}, or null"
            for value in ends(values):
                try:
                    settings = with_values(method, entry, {key: value})
                    if method in params.grid.methods:
                        require_fit(method, settings)
                except ConfigError as error:
                    raise ConfigError(where, value, error.repair + advice) from None
            if search.trials is None and not isinstance(values, Choices):
                raise ConfigError(
                    where, ends(values), "is a range, of which nobody can try all; give `choices`, "
                    "or search.trials a number",
                )  # fmt: skip
            if search.trials is not None and search.first == "settings":
                _require_inside(where, values, value_at(entry, key, where), advice)


def _check_common(common: Mapping[str, Any], entries: Mapping[str, Any]) -> None:
    """A key that no searched entry has would silently search nothing."""
    _require_apart(COMMON, common)
    for key in common if entries else ():
        if not any(has_key(entry, key) for entry in entries.values()):
            raise ConfigError(f"{COMMON}.{key}", None, f"no entry of {SPACES} has this key")


def _require_apart(where: str, keys: Collection[str]) -> None:
    """One value must not be set twice in a trial."""
    for key in keys:
        if others := [other for other in overlapping(key, keys) if other != key]:
            raise ConfigError(
                f"{where}.{key}", None, f"is searched with {others[0]!r} too; leave one of them"
            )


def _require_inside(where: str, values: Span | Choices, current: Any, advice: str) -> None:
    inside = (
        current in values.choices
        if isinstance(values, Choices)
        else isinstance(current, (int, float)) and values.low <= current <= values.high
    )
    if not inside:
        raise ConfigError(
            where, ends(values),
            f"must hold the entry's own value {current!r}, or set search.first: drawn{advice}",
        )  # fmt: skip
