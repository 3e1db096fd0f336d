"""Scored items of all cells as tables, and estimates from them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import polars as pl

from atu.config.sections import Report
from atu.metrics.bootstrap import Estimate, clustered_mean, paired_difference
from atu.metrics.selection import PARTNER
from atu.metrics.worst_form import has_enough
from atu.results.artifacts import Artifact
from atu.results.items import SCORE, counted, wordings_per_fact, worst_of, worst_of_rows
from atu.results.tables import read_frame
from atu.seeding import generator

SPLIT = "report"
CELL = ("model", "target", "method", "seed")
PAIR = ("target", "seed", "id")
"""The columns that identify an item across methods."""


def load_items(rephrase: Sequence[Artifact]) -> pl.DataFrame:
    """All reported items: the `report` split of every cell, with the cell's keys as columns."""
    frames = [
        with_cell(
            read_frame(artifact.file("items.parquet")).filter(pl.col("split") == SPLIT),
            artifact,
        )
        for artifact in rephrase
    ]
    return pl.concat(frames)


def load_attacks(attacks: Sequence[Artifact]) -> pl.DataFrame:
    """All items of all attacks, with the cell's keys and the attack's name as columns."""
    frames = [
        with_cell(read_frame(artifact.file("items.parquet")), artifact).with_columns(
            attack=pl.lit(artifact.cell["attack"])
        )
        for artifact in attacks
    ]
    return pl.concat(frames) if frames else pl.DataFrame()


def load_documents(utility: Sequence[Artifact]) -> pl.DataFrame:
    """Every scored document of every utility task, with the cell's keys as columns; `task` names
    its task, `fact` is the document, as of an item of its own.
    """
    rows = [
        {key: artifact.cell[key] for key in CELL}
        | {"task": row["task"], "id": str(row["id"]), "fact": str(row["id"]), SCORE: row["score"]}
        for artifact in utility
        for row in artifact.read_jsonl("samples.jsonl")
    ]
    texts = dict.fromkeys(("model", "target", "method", "task", "id", "fact"), pl.String)
    schema = texts | {"seed": pl.Int64, SCORE: pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def with_cell(items: pl.DataFrame, artifact: Artifact) -> pl.DataFrame:
    """The items with their cell's model, target, method and seed."""
    return items.with_columns(**{key: pl.lit(artifact.cell[key]) for key in CELL})


_SPLIT: list[tuple[pl.DataFrame, tuple[str, ...], dict[Any, pl.DataFrame]]] = []
"""The last tables that `of` has split, the latest first."""
_TABLES = 6
"""How many it remembers: a report has five, of which one is split in two ways."""


def of(items: pl.DataFrame, model: str, method: str, **more: str) -> pl.DataFrame:
    """The items of one row of a table, and with other columns' values of a part of it.

    A table is split once: a report asks for the same parts again for every number, and to filter
    the whole table each time took most of the time of a large one.
    """
    keys = ("model", "method", *more)
    parts = next((p for table, by, p in _SPLIT if table is items and by == keys), None)
    if parts is None:
        parts = items.partition_by(keys, as_dict=True, maintain_order=True)
        _SPLIT.insert(0, (items, keys, parts))
        del _SPLIT[_TABLES:]
    found = parts.get((model, method, *more.values()))
    return items.clear() if found is None else found


def beside(items: pl.DataFrame) -> pl.DataFrame:
    """The retain questions that stand in one prompt with one about the target."""
    return items.filter((pl.col("role") == PARTNER) & ~pl.col("seen"))


def clusters(items: pl.DataFrame) -> list[str]:
    """The clusters of the bootstrap: targets, or facts if there is only one target."""
    if items["target"].n_unique() > 1:
        return items["target"].to_list()
    return items["fact"].to_list()


def estimate(items: pl.DataFrame, section: Report, score: str = SCORE) -> Estimate:
    """Mean score with its interval, which is the same for the same items in every table; an empty
    table gives an invalid estimate, not an error.
    """
    if items.is_empty():
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    return clustered_mean(
        items[score].to_list(),
        clusters(items),
        generator(section.seed, "bootstrap"),
        section.bootstrap,
        section.confidence,
    )


def difference(
    first: pl.DataFrame, second: pl.DataFrame, section: Report, name: str, score: str = SCORE
) -> Estimate:
    """Mean of `first - second` over the items, which must be the same on both sides.

    Raises:
        ValueError: the items differ.
    """
    keys = [side.select(PAIR).sort(PAIR) for side in (first, second)]
    if not keys[0].equals(keys[1]):
        raise ValueError(f"{name}: the compared methods have different items")
    joined = (
        first.select(*PAIR, "fact", first=pl.col(score))
        .join(second.select(*PAIR, second=pl.col(score)), on=PAIR)
        .sort(PAIR)
    )
    return paired_difference(
        joined["first"].to_list(),
        joined["second"].to_list(),
        clusters(joined),
        generator(section.seed, "paired", name),
        section.bootstrap,
        section.confidence,
    )


def worst(items: pl.DataFrame, score: str = SCORE) -> pl.DataFrame:
    """One row per target, seed and fact that has enough wordings: its score in the form, or of the
    wordings, in which it leaks most (`results.items.worst_of_rows`). The column `id` is the fact,
    so that methods can be paired.
    """
    rows: list[dict[str, Any]] = []
    m = worst_of(items)
    for (target, seed), group in counted(items).group_by(["target", "seed"], maintain_order=True):
        scored = group.select("fact", "form", score).rows()
        enough = has_enough((fact for fact, _, _ in scored), m)
        unscored = {fact: None for fact, _, value in scored if value is None and fact in enough}
        rows += [
            {"target": target, "seed": seed, "fact": fact, "id": fact, score: value}
            for fact, value in sorted((worst_of_rows(scored, m) | unscored).items())
        ]
    schema = {"target": pl.String, "seed": pl.Int64, "fact": pl.String, "id": pl.String}
    return pl.DataFrame(rows, schema=schema | {score: pl.Float64}, orient="row")


def worst_note(items: pl.DataFrame) -> str:
    """What the column of worst forms holds, and how many wordings a fact has, in one sentence."""
    about = items.filter((pl.col("role") == "target") & ~pl.col("seen"))
    counts, m = wordings_per_fact(about), worst_of(about)
    spread = f"asked in {min(counts)} to {max(counts)} wordings each (median {median(counts):g})"
    if m is None:
        text = f"the form in which it leaks most; {len(counts)} facts, {spread}"
    else:
        few = sum(count < m for count in counts)
        text = f"the expected worst of {m} of its wordings; of {len(counts)} facts, {spread}, "
        text += f"{few} have fewer and are left out"
    return f"Worst form: per fact, {text}."
