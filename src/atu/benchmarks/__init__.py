"""Benchmarks, discovered as modules of this package.

A benchmark module defines `BENCHMARK`, a `Benchmark` whose `Settings` dataclass has the field
`benchmark: Literal["<module name>"]`. No other registration is needed; see `docs/benchmarks.md`.
"""

from __future__ import annotations

from functools import cache

from atu.benchmarks.base import Benchmark
from atu.plugins import Plugins


@cache
def registry() -> Plugins[Benchmark]:
    """All benchmarks by name, in alphabetical order."""
    return Plugins(__name__, __path__, "BENCHMARK")


def get(name: str) -> Benchmark:
    """The benchmark of this name. Validated parameters never raise `KeyError`."""
    return registry()[name]
