"""Where a number of ours differs from official code on purpose: the one list, with its reasons.

A golden case (`tests/unit/golden`) must equal the official value unless a line here names it; then
our value is stated in the test and must really differ. `docs/metrics.md` is generated from this.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Difference:
    """One deliberate difference to official code."""

    cases: tuple[str, ...]
    """Patterns (`fnmatch`) of the golden cases' ids."""
    official: str
    """What official code does."""
    ours: str
    """What we do instead."""
    reason: str

    def covers(self, case: str) -> bool:
        """Whether the case of this id is one of these."""
        return any(fnmatchcase(case, pattern) for pattern in self.cases)


DIFFERENCES: tuple[Difference, ...] = ()
