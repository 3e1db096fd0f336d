"""Plug-ins with a part of their own: the two rows of every comparison that are no methods, the
original model and the oracle, and the attack that a search may run.
"""

from __future__ import annotations

from atu import methods

ORIGINAL = "none"
"""The key of the original model, which every result is read against."""
ORACLE = "oracle"
"""The usual key of the model that never saw the target, which privacy is measured against."""
REFERENCES = (ORIGINAL, ORACLE)
"""Rows of a table that are no methods."""
RELEARN = "relearn"
"""The attack whose settings `search.relearn` has."""


def role_of(loss: str) -> str | None:
    """Which of the two a method's loss stands for; None for a method."""
    method = methods.get(loss)
    if method.start == "full":
        return ORIGINAL if method.unchanged else None
    return ORACLE if method.start == ORACLE else None
