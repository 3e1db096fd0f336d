"""The parameters: one frozen model per phase, unknown keys refused.

There are no defaults in code: `params.yaml` says everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from pydantic import Field, field_validator

from atu import attacks, benchmarks, methods
from atu.config.dependencies import dependencies
from atu.config.entries import parse_plain, parse_settings
from atu.config.roles import ORACLE
from atu.config.sections import (
    Align,
    AttackSection,
    Embed,
    Grid,
    Pretrain,
    Privacy,
    Rephrase,
    Report,
    Search,
    Slug,
    Track,
    Unlearn,
    Utility,
)
from atu.models.compute import Compute
from atu.untrusted.strict import Section

PHASES = (
    "prepare", "pretrain", "embed", "align", "search", "unlearn", "rephrase", "utility", "privacy",
    "attack", "report", "track",
)  # fmt: skip
MODEL_PHASES = (
    "pretrain", "embed", "align", "search", "unlearn", "rephrase", "utility", "privacy", "attack",
)  # fmt: skip
"""The phases that run a model, whose results depend on `compute`."""


class Params(Section):
    """The whole experiment."""

    experiment: Slug = Field(description="names the folder below results/")
    grid: Grid
    compute: Compute = Field(description="what models run on, and in which precision")
    prepare: Any = Field(description="the benchmark, which says what else it needs")
    pretrain: Pretrain
    embed: Embed
    align: Align
    search: Search
    unlearn: Unlearn
    rephrase: Rephrase
    utility: Utility
    privacy: Privacy
    attack: AttackSection
    report: Report
    track: Track

    @field_validator("prepare")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        return parse_settings("prepare", "benchmark", benchmarks.registry(), value)

    @field_validator("compute", mode="before")
    @classmethod
    def _parse_compute(cls, value: Any) -> Compute:
        return parse_plain(Compute, "compute", value)

    def section(self, phase: str, name: str | None = None) -> dict[str, Any]:
        """The values a job of `phase` depends on, for one model, method or attack where it has
        one; of `search` without a name those of the table of all searches, which runs no model.
        """
        section, compute = getattr(self, phase), self.compute
        if phase == "search":
            if name is None:
                return dependencies(phase, section)
            return dependencies(phase, section, compute, name, unlearn=self.unlearn)
        return dependencies(phase, section, compute if phase in MODEL_PHASES else None, name)

    def searched(self, method: str) -> bool:
        """Whether the method's settings come from a search."""
        return method in self.search.spaces


def oracle_method(params: Params) -> str | None:
    """The grid's method that is the model which never saw the target."""
    return ORACLE if ORACLE in params.grid.methods else None


def given_methods(params: Params) -> list[str]:
    """The grid's methods that are checkpoints which somebody else made."""
    entries = params.unlearn.methods
    return [m for m in params.grid.methods if methods.get(entries[m].loss).given]


def needs_alignment(params: Params) -> bool:
    """Whether the predictors are aligned: in a grid with a checkpoint that somebody else made only
    if a method or an attack reads them, for encoding the windows takes long.
    """
    entries = params.unlearn.methods
    reading = [methods.get(entries[m].loss).needs_predictor for m in params.grid.methods]
    reading += [
        attacks.get(params.attack.attacks[name].attack).needs_alignment
        for name in params.grid.attacks
    ]
    return any(reading) or not given_methods(params)


def method_names(params: Params) -> dict[str, str]:
    """What people call the entries of `unlearn.methods`: as `report.names` says; else one named
    after its method as the method, `<method>_<what>` as the method with what differs, and any other
    as it is.
    """
    found = {}
    for name, entry in params.unlearn.methods.items():
        title = methods.get(entry.loss).title or entry.loss
        own = name.removeprefix(entry.loss)
        found[name] = f"{title}{own.replace('_', ' ')}" if own != name else name
    return found | {n: title for n, title in params.report.names.items() if n in found}


def methods_in_words(params: Params, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """What these methods do to the target, and the arXiv numbers of their papers; by what people
    call them, of all entries of a method together.
    """
    called, entries = method_names(params), params.unlearn.methods
    of_loss: dict[str, list[str]] = defaultdict(list)
    for name in names:
        of_loss[entries[name].loss].append(called[name])
    found = {", ".join(together): methods.get(loss) for loss, together in of_loss.items()}
    return {together: (method.does, method.source) for together, method in found.items()}


def method_notes(params: Params, names: Iterable[str]) -> dict[str, str]:
    """What a reader must know of these methods before their numbers, by name."""
    entries = params.unlearn.methods
    found = {name: methods.get(entries[name].loss).notes(entries[name]) for name in names}
    return {name: "; ".join(notes) for name, notes in found.items() if notes}
