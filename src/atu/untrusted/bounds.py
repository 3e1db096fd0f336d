"""Bounds on settings fields that pydantic reads, without importing it.

The training core must load with only torch, transformers, numpy and safetensors installed, so
method settings are plain dataclasses. When pydantic validates them, it asks each annotation for its
schema; a core schema is a plain dict, into which `Bounds` writes its limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, get_args, get_type_hints


@dataclass(frozen=True)
class Bounds:
    """Limits of a number: greater than, at least, less than, at most."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        schema = dict(handler(source))
        schema.update({key: value for key, value in asdict(self).items() if value is not None})
        return schema


@dataclass(frozen=True)
class Pattern:
    """A regular expression that must match the whole text."""

    regex: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        return dict(handler(source)) | {"pattern": f"^(?:{self.regex})$"}


@dataclass(frozen=True)
class OneOf:
    """The discriminator of a union: a key that is a Literal in each of its classes.

    Without it pydantic would report a bad value of one class as a bad value of the first.
    """

    by: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        kinds = {get_args(get_type_hints(kind)[self.by])[0]: kind for kind in get_args(source)}

        def name(value: Any) -> str | None:
            label = value.get(self.by) if isinstance(value, dict) else getattr(value, self.by, None)
            return f"[{label}]" if label in list(kinds) else None

        return {
            "type": "tagged-union",
            "choices": {f"[{label}]": handler(kind) for label, kind in kinds.items()},
            "discriminator": name,
            "custom_error_type": "no_kind",
            "custom_error_message": f"needs the key `{self.by}`, one of {', '.join(kinds)}",
        }


STRICT = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
"""How pydantic treats unknown keys and wrong types when it validates settings."""
Positive = Annotated[float, Bounds(gt=0)]
NonNegative = Annotated[float, Bounds(ge=0)]
Fraction = Annotated[float, Bounds(ge=0, le=1)]
Cosine = Annotated[float, Bounds(ge=-1, le=1)]
Count = Annotated[int, Bounds(ge=1)]
CountOrZero = Annotated[int, Bounds(ge=0)]
