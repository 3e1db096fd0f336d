"""Plug-ins with a part of their own: the rows of a comparison that are no methods, the original
model and the oracles, and the attack that a search may run.
"""

from __future__ import annotations

from atu import methods

ORIGINAL = "none"
"""The key of the original model, which every result is read against."""
ORACLE = "oracle"
"""The key of the model that never saw the target, which privacy is measured against."""
SECOND_ORACLE = "second_oracle"
"""The key of the one from another seed, whose distance is what chance alone gives."""
ORACLES = (ORACLE, SECOND_ORACLE)
"""Models that never saw the target: keys, and what their methods start from."""
REFERENCES = (ORIGINAL, *ORACLES)
"""Rows of a table that are no methods."""
RELEARN = "relearn"
"""The attack whose settings `search.relearn` has."""


def role_of(loss: str) -> str | None:
    """Which of these rows a method's loss stands for; None for a method."""
    method = methods.get(loss)
    if method.start == "full":
        return ORIGINAL if method.unchanged else None
    return method.start
