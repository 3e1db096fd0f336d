"""What of the parameters a job depends on: its rule's `params`, and what its manifest records."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_jsonable_python

ENTRIES = {"pretrain": "models", "search": "spaces", "unlearn": "methods", "attack": "attacks"}
"""Sections with named entries, of which a job reads one."""


def dependencies(
    phase: str, section: Any, compute: Any = None, name: str | None = None, **others: Any
) -> dict[str, Any]:
    """The values of a phase's section, as JSON holds them.

    Args:
        compute: the section `compute`, of a job that runs a model.
        name: of the section's entries the one that the job reads.
        others: further sections that the job reads, with the same name.
    """
    values: dict[str, Any] = to_jsonable_python(section)
    if name is not None and phase in ENTRIES:
        entries = ENTRIES[phase]
        values[entries] = {name: values[entries][name]}
    for other, theirs in others.items():
        values[other] = dependencies(other, theirs, name=name)
    if compute is not None:
        values["compute"] = to_jsonable_python(compute)
    return values
