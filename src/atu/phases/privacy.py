"""privacy: what the model still tells about its training data, measured against the oracle.

Memorisation is TOFU's and MUSE's; membership inference asks whether texts about the target still
look like training data beside texts that no model ever saw. Everything that needs a model that
never knew the target takes it from the oracle's own folder of this phase; without one there is no
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from atu.config.dependencies import dependencies
from atu.config.roles import ORACLE, role_of
from atu.config.sections import Privacy
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.finite import require_finite_weights
from atu.models.compute import Compute
from atu.models.llm import open_lm
from atu.privacy.answers import answer_table, memorisation_metrics
from atu.privacy.texts import membership_metrics, text_metrics, text_table
from atu.results.artifacts import Artifact
from atu.results.jobs import write_folder
from atu.results.tables import read_frame

PHASE = "privacy"


def run(
    out: Path,
    section: Privacy,
    compute: Compute,
    unlearn: Artifact,
    prepare: Artifact,
    rephrase: Artifact,
    reference: Artifact | None,
    without_oracle: bool = False,
) -> None:
    """Write `answers.parquet` (one row per question), `texts.parquet` (one per text) and their
    summary. `reference` is the oracle's folder of this phase; the oracle itself has none.
    `without_oracle` says that none exists: then every number that needs one is left out.

    Raises:
        EvaluationError: a model that is not the oracle has no reference, or one that is not the
            oracle's of the same model and target, or was measured with another `min_k`.
    """
    if reference is not None:
        require_oracle(reference, unlearn, section)
    elif not without_oracle and not is_oracle(unlearn):
        raise EvaluationError(
            f"{unlearn.cell}: privacy needs --reference, the oracle's privacy folder; a missing "
            "reference has no default"
        )
    inputs = {"unlearn": unlearn, "prepare": prepare, "rephrase": rephrase}
    inputs |= {"reference": reference} if reference else {}
    params = dependencies(PHASE, section, compute)
    with write_folder(out, PHASE, cell=unlearn.cell, params=params, inputs=inputs) as job:
        model, tokenizer = open_lm(unlearn, compute, training=False)
        batch_size = BatchSize(section.batch_size)
        items = read_frame(rephrase.file("items.parquet"))
        answers = answer_table(model, tokenizer, items, batch_size)
        texts = text_table(model, tokenizer, prepare, section, batch_size)
        require_finite_weights(model)
        answers.write_parquet(job.path("answers.parquet"))
        texts.write_parquet(job.path("texts.parquet"))
        theirs: Sequence[pl.DataFrame | None] = (answers, texts)
        if without_oracle:
            theirs = (None, None)
        elif reference is not None:
            theirs = [read_frame(reference.file(f"{n}.parquet")) for n in ("answers", "texts")]
        job.metrics = {
            f"privacy/{name}/report": value
            for name, value in (
                memorisation_metrics(answers, theirs[0])
                | text_metrics(texts)
                | membership_metrics(texts, theirs[1])
            ).items()
        }
        job.notes["batch_size"] = batch_size.value


def is_oracle(unlearn: Artifact) -> bool:
    """Whether the cell's model is the one that never saw the target."""
    entry = unlearn.manifest["params"]["methods"][unlearn.cell["method"]]
    return role_of(entry["loss"]) == ORACLE


def require_oracle(reference: Artifact, unlearn: Artifact, section: Privacy) -> None:
    """Refuse a reference that would make any model look like the oracle.

    Raises:
        EvaluationError: it is not the oracle's folder of this model and target, or was measured
            with another `min_k`.
    """
    if "reference" in reference.manifest["inputs"]:
        raise EvaluationError(
            f"{reference.folder}: the reference is not the oracle's privacy folder"
        )
    for key in ("model", "target"):
        if reference.cell[key] != unlearn.cell[key]:
            raise EvaluationError(
                f"{reference.folder}: the oracle of {key} {reference.cell[key]!r}, but "
                f"{unlearn.cell[key]!r} is measured"
            )
    theirs = reference.manifest["params"]["min_k"]
    if theirs != section.min_k:
        raise EvaluationError(
            f"{reference.folder}: measured with min_k = {theirs}, not {section.min_k}; run it again"
        )
