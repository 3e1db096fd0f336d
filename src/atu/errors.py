"""The errors that a user can cause, each with the repair in its message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class AtuError(Exception):
    """Base of every error this package raises on purpose; the CLI prints it without a traceback."""


class ConfigError(AtuError):
    """A parameter is wrong: names the key, the value and the repair (and the file, once known)."""

    def __init__(self, key: str, value: object, repair: str, file: str | None = None) -> None:
        self.key, self.value, self.repair, self.file = key, value, repair, file
        where = f"{file}: " if file else ""
        super().__init__(f"{where}{key} = {shown(value)}: {repair}")


class ArtifactError(AtuError):
    """A folder is not what its manifest says: missing, truncated, altered or of another phase."""


class SourceError(AtuError):
    """A benchmark or a model is not there, or not what its lock says: names the file."""


class StoppedError(AtuError):
    """The process was asked to stop (SIGTERM) and did, at a step after which it can go on."""


class TrainingError(AtuError):
    """Training cannot go on: a loss or a gradient is not finite."""


class MethodError(AtuError):
    """A method's run broke off; `cost` holds the steps and tokens that it had taken by then."""

    def __init__(self, reason: str, cost: dict[str, float]) -> None:
        self.cost = cost
        super().__init__(reason)


class EvaluationError(AtuError):
    """An evaluation could not score every item; a crash is never an empty answer."""


class LengthError(AtuError):
    """A text does not fit the model's context; cutting it would change what is asked."""


class TrackingError(AtuError):
    """The MLflow store did not take the mirror; results are whole, and only `track` runs again."""


class ResourceError(AtuError):
    """The machine has too little memory or disk for the job."""

    @classmethod
    def of(cls, error: Exception, relief: Sequence[str] = ()) -> ResourceError | None:
        """What a library's error says of the machine; None where it says something else.

        Memory and disk run out inside torch, NumPy, safetensors and polars, each of which has its
        own error for it.

        Args:
            relief: lines of the parameter file that would need less memory.
        """
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, MemoryError) or _mentions(error, "OutOfMemory", "allocate memory"):
            lines = ", ".join(f"`{line}`" for line in relief)
            return cls(
                f"out of memory: {reason}\ngive the job more (mem_mb or a larger GPU in the "
                f"profile){f', or set one of {lines}' if lines else ''}, and run again"
            )
        if _mentions(error, "No space left", "quota exceeded"):
            return cls(f"disk full: {reason}\nfree some space, and run again")
        return None


@contextmanager
def resource_errors(relief: Callable[[], Sequence[str]] = list) -> Iterator[None]:
    """Where memory or disk runs out, the library's error becomes a `ResourceError`.

    Args:
        relief: gives lines of the parameter file that would need less memory.
    """
    try:
        yield
    except Exception as error:
        known = None if isinstance(error, AtuError) else ResourceError.of(error, relief())
        if known is None:
            raise
        raise known from error


def _mentions(error: Exception, *words: str) -> bool:
    text = f"{type(error).__name__}: {error}"
    return any(word in text for word in words)


MAX_SHOWN = 300
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""What a reader cannot see and a terminal, a browser or a table may obey: control characters except
tab and line feed, line and paragraph separators, marks of direction, byte order marks, and unpaired
surrogates. Joiners stay: Persian, Indic scripts and emoji are written with them."""


def shown(value: object) -> str:
    """`repr` for a message: never long, never an exception."""
    try:
        text = repr(value)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; a cycle
        text = f"<{type(value).__name__}: {error}>"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


def visible(text: str) -> str:
    r"""A text for people, wherever it is shown, with `HIDDEN` characters as Python writes them:
    a carriage return as `\r`, a right-to-left override as `\u202e`.
    """
    return HIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)
