"""The result: a folder that transformers or peft loads, with its card and its parameter file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atu import methods
from atu.config.cells import Cell, grid_cells, manifest_path
from atu.config.params import Params
from atu.config.roles import ORIGINAL
from atu.errors import ArtifactError
from atu.forget.card import Sources, make_card, numbers, read_rows
from atu.forget.corpus import CHOICES
from atu.forget.evidence import Evidence, gather
from atu.forget.samples import write_samples
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import read_json, write_json
from atu.results.jobs import write_folder
from atu.results.locks import Lock
from atu.results.tables import read_frame
from atu.workfolder.folder import PARAMS, is_here, standing_result

PHASE = "forget"
CARD = "README.md"
NUMBERS = "numbers.json"
"""All numbers of the card."""
ADAPTER = "adapter"
ADAPTER_CONFIG = "adapter_config.json"


def export(out: Path, params: Params, params_file: Path, results: Path, corpus: Artifact) -> bool:
    """Write the result folder, whole or not at all; False if it exists and has the same inputs.

    Raises:
        ArtifactError: `out` holds something else, or a job's folder is damaged.
    """
    cell = unlearned_cell(params)
    inputs = {
        "unlearn": Artifact.open(manifest_path(results, "unlearn", cell), "unlearn"),
        "rephrase": Artifact.open(manifest_path(results, "rephrase", cell), "rephrase"),
        "report": Artifact.open(results / "report" / MANIFEST, "report"),
        "concept": corpus,
    }
    if is_here(out, PHASE, inputs):
        return False
    source = params.pretrain.models[cell.model].source  # type: ignore[union-attr]
    unlearned = inputs["unlearn"]
    lora = f"{ADAPTER}/{ADAPTER_CONFIG}" in unlearned.manifest["artifacts"]
    revision = Lock.read(Path(source.lock)).revision
    before = _jobs(results, next(c for c in grid_cells(params) if c.method == ORIGINAL))
    after = _jobs(results, cell)
    found = Sources(
        corpus=corpus,
        report=inputs["report"],
        unlearned=unlearned,
        rephrased=inputs["rephrase"],
        evidence=_evidence(before, after, params, inputs["report"], cell.method),
        samples=write_samples(
            [before["unlearn"], after["unlearn"]],
            params.compute,
            corpus.cell["concept"][0],
            read_json(corpus.file(CHOICES))["neighbours"],
        ),
        place=source.place,
        revision=revision,
        is_hub=source.folder is None,
        method=cell.method,
        lora=lora,
        aligned=_aligned(params, results, cell),
        select=params.prepare.select,
        keep=params.unlearn.keep,
        attacks=bool(params.grid.attacks),
    )
    cells = {"concept": corpus.cell["concept"], "method": cell.method, "lora": lora}
    with write_folder(out / MANIFEST, PHASE, cell=cells, params={}, inputs=inputs) as job:
        if lora:
            _copy(unlearned.subfolder(ADAPTER), job.folder)
            _name_base(job.folder / ADAPTER_CONFIG, source.place, revision)
        else:
            _copy(unlearned.subfolder("model"), job.folder)
        job.path(CARD).write_text(make_card(found), encoding="utf-8")
        write_json(job.path(NUMBERS), numbers(found))
        shutil.copyfile(params_file, job.path(PARAMS))
        job.metrics = inputs["report"].metrics()
    return True


def _jobs(results: Path, cell: Cell) -> dict[str, Artifact]:
    """The folders of a cell that the evidence is read from."""
    return {
        phase: Artifact.open(manifest_path(results, phase, cell), phase)
        for phase in ("unlearn", "rephrase", "privacy")
    }


def _evidence(
    before: dict[str, Artifact], after: dict[str, Artifact], params: Params, report: Artifact,
    method: str,
) -> Evidence:  # fmt: skip
    items = [read_frame(jobs["rephrase"].file("items.parquet")) for jobs in (before, after)]
    answers = [read_frame(jobs["privacy"].file("answers.parquet")) for jobs in (before, after)]
    collapsed = bool(float(read_rows(report)[method]["collapsed"]))
    return gather(items[0], items[1], (answers[0], answers[1]), params.report, collapsed)


def _aligned(params: Params, results: Path, cell: Cell) -> Artifact | None:
    """The alignment, if the method needs one."""
    if not methods.get(params.unlearn.methods[cell.method].loss).needs_predictor:
        return None
    return Artifact.open(manifest_path(results, "align", cell), "align")


def unlearned_cell(params: Params) -> Cell:
    """The cell of the method that forgets."""
    return next(cell for cell in grid_cells(params) if cell.method != ORIGINAL)


def require_free(out: Path, names: Sequence[str]) -> None:
    """Refuse an occupied folder before anything is computed: other files, a result for another
    concept, or a result that was edited since.

    Raises:
        ArtifactError: names the folder.
    """
    result = standing_result(out, PHASE)
    if result is not None and result.cell["concept"] != list(names):
        raise ArtifactError(
            f"--out {out}: holds a result for {', '.join(result.cell['concept'])}; "
            "name another folder"
        )


def _copy(source: Path, destination: Path) -> None:
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, destination / path.name)


def _name_base(path: Path, place: str, revision: str | None) -> None:
    """Write the original model into the adapter's configuration, where peft looks for it."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, values | {"base_model_name_or_path": place, "revision": revision})
