"""attack: one attack on one unlearned model, scored item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from atu import attacks
from atu.alignment.loop import AlignmentData, load_predictors
from atu.attacks.base import Alignment, AttackContext, Row
from atu.config.dependencies import dependencies
from atu.config.roles import ORACLE
from atu.config.sections import AttackSection
from atu.errors import ConfigError, EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.finite import require_finite_weights
from atu.models.compute import Compute
from atu.models.encoder import SentenceEncoder
from atu.models.llm import open_lm
from atu.models.pinned import model_folder
from atu.privacy.answers import ANSWERS, means, score_probes
from atu.results.artifacts import Artifact
from atu.results.jobs import write_folder
from atu.results.tables import read_table, target_tables
from atu.seeding import child_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PHASE = "attack"
SPLIT = "report"
ITEMS: dict[str, Any] = {
    "condition": pl.String,
    "metric": pl.String,
    "id": pl.String,
    "fact": pl.String,
    "role": pl.String,
    "score": pl.Float64,
    "output": pl.String,
}


def run(
    out: Path,
    section: AttackSection,
    compute: Compute,
    name: str,
    unlearn: Artifact,
    prepare: Artifact,
    embed: Artifact | None,
    align: Artifact | None,
    original: Artifact | None = None,
    oracle: Artifact | None = None,
) -> None:
    """Write `items.parquet`, the attack's further tables, and the mean of every condition; of an
    attack that changes the weights `answers.parquet` too, the answers by every metric of answers.
    Of the other folders an attack is given those that it needs.

    Raises:
        ConfigError: the attack trains a predictor and has no alignment to train it on.
    """
    settings = section.attacks[name]
    attack = attacks.get(settings.attack)
    inputs = {"unlearn": unlearn, "prepare": prepare}
    alignment = None
    if attack.needs_alignment:
        if embed is None or align is None:
            raise ConfigError("--attack", name, "needs --embed and --align")
        inputs |= {"embed": embed, "align": align}
        alignment = open_alignment(embed, align, prepare, compute)
    beside = {
        name: folder
        for name, folder, needed in (
            ("original", original, attack.needs_original),
            (ORACLE, oracle, attack.needs_oracle),
        )
        if needed and folder is not None
    }
    inputs |= beside
    params = dependencies(PHASE, section, compute, name)
    cell = unlearn.cell | {"attack": name}
    with write_folder(out, PHASE, cell=cell, params=params, inputs=inputs) as job:
        batch_size = BatchSize(section.batch_size)
        opened: dict[str, Any] = {
            role: open_lm(folder, compute, training=False)[0] for role, folder in beside.items()
        }
        context = make_context(section, compute, settings, unlearn, prepare, batch_size)
        answers = Answers(context.tokenizer, batch_size)
        further = answers.take if attack.exact_weights else None
        context = replace(context, alignment=alignment, further=further, **opened)
        result = attack.run(context)
        require_finite_weights(context.model)
        items = require_known_items(name, context.probes, result.items)
        pl.DataFrame(items, schema=ITEMS, orient="row").write_parquet(job.path("items.parquet"))
        for table, rows in result.tables.items():
            frame = pl.DataFrame(rows, infer_schema_length=None)
            frame.write_parquet(job.path(f"{table}.parquet"))
        if answers.rows:
            answers.table().write_parquet(job.path("answers.parquet"))
        job.metrics = {
            f"attack/{name}.{key}/{SPLIT}": value
            for key, value in (answers.metrics() | summarise(items) | result.metrics).items()
        }
        job.notes["batch_size"] = batch_size.value


@dataclass
class Answers:
    """The answers to plain questions about the target under every condition, by every metric of
    answers that the phase `privacy` has.
    """

    tokenizer: Any
    batch_size: BatchSize
    rows: list[Row] = field(default_factory=list)

    def take(
        self, model: PreTrainedModel, probes: Sequence[Row], outputs: Sequence[str], condition: str
    ) -> None:
        """Score the answers of one model."""
        asked = [
            probe | {"condition": condition, "output": output}
            for probe, output in zip(probes, outputs, strict=True)
            if (probe["role"], probe["form"]) == ("target", "question")
        ]
        scores = score_probes(model, self.tokenizer, asked, self.batch_size) if asked else []
        self.rows += [probe | found for probe, found in zip(asked, scores, strict=True)]

    def table(self) -> pl.DataFrame:
        """One row per answer: its condition, and the columns of `privacy`'s table."""
        columns = {"condition": pl.String, **ANSWERS}
        rows = [{name: row[name] for name in columns} for row in self.rows]
        return pl.DataFrame(rows, schema=columns, orient="row")

    def metrics(self) -> dict[str, float]:
        """The means of every condition."""
        return {
            f"target.{condition}.{name}": value
            for (condition,), rows in self.table().group_by(["condition"], maintain_order=True)
            for name, value in means(rows).items()
        }


def make_context(
    section: AttackSection,
    compute: Compute,
    settings: Any,
    unlearn: Artifact,
    prepare: Artifact,
    batch_size: BatchSize,
) -> AttackContext:
    """The checkpoint, its corpora, and the probes of the `report` split: no attack sees others."""
    exact = attacks.get(settings.attack).exact_weights
    model, tokenizer = open_lm(unlearn, compute, training=exact)
    return AttackContext(
        settings,
        **target_tables(prepare, SPLIT),
        model=model,
        tokenizer=tokenizer,
        max_new_tokens=section.max_new_tokens,
        batch_size=batch_size,
        folder=model_folder(unlearn, unlearn.cell["model"] in compute.remote_code),
        seed=child_seed(unlearn.cell["seed"], "attack", settings.attack) % 2**31,
    )


def open_alignment(
    embed: Artifact, align: Artifact, prepare: Artifact, compute: Compute
) -> Alignment:
    """Alignment data, the method's predictor's sizes, and the embeddings of all names."""
    predictor = next(iter(load_predictors(align).values()))
    probes = read_table(prepare.file("probes.parquet"))
    targets = prepare.cell["new"]
    people = {p["subject"] for p in probes if p["role"] != "general" and p["split"] == SPLIT}
    names = [*targets, *sorted(people - set(targets))]
    encoder = SentenceEncoder(embed.manifest["params"]["encoder"], compute.place)
    return Alignment(
        data=AlignmentData.load(embed.file("embeddings.safetensors")),
        config=predictor.config,
        params=align.manifest["params"],
        names=names,
        embeddings=encoder.encode_texts(names),
    )


def require_known_items(name: str, probes: Sequence[Row], items: Sequence[Row]) -> list[Row]:
    """The items, unless there are none or one is about no reported probe.

    Raises:
        EvaluationError: an attack that scored nothing must not read as an attack that failed.
    """
    known = {probe["id"] for probe in probes}
    if not items:
        raise EvaluationError(f"{name}: the attack scored nothing")
    strange = [row["id"] for row in items if row["id"] not in known]
    if strange:
        raise EvaluationError(f"{name}: {strange[0]!r} is no probe of the {SPLIT} split")
    return list(items)


def summarise(items: Sequence[Row]) -> dict[str, float]:
    """Mean score per role, condition and metric, with the number of items; where an item could not
    be scored there is no mean, only how many were not.
    """
    groups: dict[str, list[float | None]] = {}
    for row in items:
        key = f"{row['role']}.{row['condition']}.{row['metric']}"
        groups.setdefault(key, []).append(row["score"])
    metrics: dict[str, float] = {}
    for key, scores in sorted(groups.items()):
        scored = [score for score in scores if score is not None]
        metrics[f"{key}.n"] = float(len(scores))
        if len(scored) == len(scores):
            metrics[key] = sum(scored) / len(scored)
        else:
            metrics[f"{key}.not_scored"] = float(len(scores) - len(scored))
    return metrics
