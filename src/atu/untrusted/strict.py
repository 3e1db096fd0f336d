"""Strict pydantic models of user input, and readable errors for invalid values."""

from __future__ import annotations

import re

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
)

from atu.errors import ConfigError


class Section(BaseModel):
    """Base of every section: frozen, strict about types, and refusing unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def explain(
    error: ValidationError, prefix: str, known: list[str], file: str | None = None
) -> ConfigError:
    """The first problem as a `ConfigError`, with the allowed keys for an unknown one."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"] if not re.fullmatch(r"\[\w+\]", str(part))]
    key = ".".join([prefix, *parts] if prefix else parts)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return ConfigError(
            key, first.get("input"), f"unknown key; known here are {', '.join(known)}", file
        )
    if first["type"] in ("missing", "missing_argument"):
        return ConfigError(key, None, "is required; add it", file)
    return ConfigError(key, first.get("input"), first["msg"].removeprefix("Value error, "), file)
