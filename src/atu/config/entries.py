"""The settings of one plug-in: a plain dataclass from what a parameter file says of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from atu.errors import ConfigError
from atu.results.locks import Source
from atu.untrusted.strict import explain


def parse_entry(section: str, kind: str, known: Mapping[str, Any], name: str, value: Any) -> Any:
    """The settings dataclass of one entry of `unlearn.methods` or `attack.attacks`.

    `kind` is the entry's key that says which of `known` it configures.
    """
    return parse_settings(f"{section}.{name}", kind, known, value)


def parse_settings(key: str, kind: str, known: Mapping[str, Any], value: Any) -> Any:
    """The settings dataclass of the plug-in that the value's key `kind` names."""
    choices = ", ".join(known)
    if not isinstance(value, dict) or kind not in value:
        raise ConfigError(key, value, f"needs the key `{kind}`, one of {choices}")
    if value[kind] not in list(known):  # an unhashable value is none of them either
        raise ConfigError(f"{key}.{kind}", value[kind], f"unknown; known are {choices}")
    return parse_plain(known[value[kind]].settings, key, value)


def parse_plain(kind: type, key: str, value: Any) -> Any:
    """A plain dataclass from what stands under `key`.

    Raises:
        ConfigError: names key, value and repair.
    """
    try:
        # Through JSON, because strict validation takes a dataclass from JSON but not from a dict.
        return _adapter(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        raise explain(error, key, _allowed(kind, error.errors()[0]["loc"])) from None


def _allowed(kind: type, place: tuple[int | str, ...]) -> list[str]:
    """The keys of the dataclass, or of the source in it, in which a problem lies."""
    hint = get_type_hints(kind).get(str(place[0])) if len(place) > 1 else None
    inner = Source if Source in (hint, *get_args(hint)) else kind
    return [field.name for field in dataclasses.fields(inner)]


@cache
def _adapter(settings: type) -> TypeAdapter[Any]:
    """Made once: making it takes longer than what it validates."""
    return TypeAdapter(settings)
