"""The folders that a report reads, and whether they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atu.errors import ArtifactError
from atu.metrics.registry import METRIC_ID
from atu.results.artifacts import Artifact


@dataclass(frozen=True)
class ReportInputs:
    """The folders of every cell, in the same order, and those of the shared phases."""

    rephrase: list[Artifact]
    utility: list[Artifact]
    privacy: list[Artifact]
    unlearn: list[Artifact]
    align: list[Artifact]
    pretrain: list[Artifact]
    attack: list[Artifact]
    """Every attack on every cell; empty where the grid lists none."""
    search: list[Artifact]
    """The one table of all searches."""

    def of_targets(self, labels: Sequence[str]) -> ReportInputs:
        """The folders of these targets' cells, and what has no target."""
        kept = {
            name: [a for a in artifacts if a.cell.get("target", labels[0]) in labels]
            for name, artifacts in vars(self).items()
        }
        return ReportInputs(**kept)


def require_same_cells(inputs: ReportInputs, attacks: Sequence[str]) -> None:
    """Refuse a comparison in which a cell is missing from one of the phases or attacks, or whose
    methods do not share all models, targets and seeds.

    Raises:
        ArtifactError: names the phase, attack or method.
    """

    def cells(artifacts: Sequence[Artifact]) -> set[Any]:
        keys = ("model", "target", "method", "seed")
        return {tuple(artifact.cell[key] for key in keys) for artifact in artifacts}

    covered = {name: cells(getattr(inputs, name)) for name in ("rephrase", "utility", "privacy")}
    for name in attacks:
        covered[f"attack {name}"] = cells([a for a in inputs.attack if a.cell["attack"] == name])
    for name, answered in covered.items():
        if answered != cells(inputs.unlearn):
            raise ArtifactError(f"report: {name} and unlearn cover different cells")
    rows: dict[str, set[Any]] = {}
    for model, target, method, seed in cells(inputs.unlearn):
        rows.setdefault(method, set()).add((model, target, seed))
    first = next(iter(rows))
    for method, values in rows.items():
        if values != rows[first]:
            raise ArtifactError(
                f"report: {method} and {first} differ in models, targets or seeds: not comparable"
            )


def require_same_evaluation(inputs: ReportInputs) -> None:
    """Refuse a comparison of cells that were not asked the same in the same way.

    Raises:
        ArtifactError: two cells differ in evaluation parameters or metrics' versions, or two of one
            target in probes; names both folders.
    """
    for phase in ("rephrase", "utility", "privacy", "attack"):
        seen: dict[tuple[str, ...], tuple[Any, Artifact]] = {}
        for artifact in getattr(inputs, phase):
            kind = artifact.cell.get("attack", phase)
            ids = sorted({name for key in artifact.metrics() for name in METRIC_ID.findall(key)})
            manifest = artifact.manifest
            versions: dict[tuple[str, ...], Any] = {
                (kind,): (manifest["params"], ids),
                (kind, artifact.cell["target"]): manifest["inputs"]["prepare"],
            }
            for key, version in versions.items():
                known, other = seen.setdefault(key, (version, artifact))
                if known != version:
                    raise ArtifactError(
                        f"report: {artifact.folder} and {other.folder} were evaluated differently "
                        "(probes, parameters or metric versions); run `snakemake` to bring both "
                        "up to date"
                    )
