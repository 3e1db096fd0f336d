"""Corpora and probes as parquet; the only place that defines their columns' types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from atu.errors import ArtifactError, visible
from atu.results.artifacts import Artifact

MAX_ROWS = 10_000_000
"""Limit of any table; the largest so far has some ten thousand."""

TASKS = "tasks"
"""Folder of the utility tasks that come with a target: `<name>.json` with `kind` and `rows`."""
ORACLE = "oracle.parquet"
"""The oracle's corpus in a folder of `prepare`, if it is more than the retain corpus."""
TEXTS: dict[str, Any] = {
    "text": pl.String,
    "prompt": pl.String,
    "answer": pl.String,
    "fact": pl.String,
    "form": pl.String,
    "type": pl.String,
    "split": pl.String,
    "names": pl.List(pl.String),
}
MEMBERS: dict[str, Any] = {"corpus": pl.String, **TEXTS}
PROBES: dict[str, Any] = {
    "id": pl.String,
    "role": pl.String,
    "subject": pl.String,
    "fact": pl.String,
    "form": pl.String,
    "type": pl.String,
    "phrasing": pl.Int64,
    "seen": pl.Boolean,
    "query": pl.String,
    "options": pl.List(pl.String),
    "prompt": pl.String,
    "part": pl.Int64,
    "stops": pl.List(pl.String),
    "answer": pl.String,
    "measure": pl.String,
    "wrong": pl.List(pl.String),
    "paraphrased": pl.String,
    "needs": pl.List(pl.String),
    "split": pl.String,
    "worst_of": pl.Int64,
}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: dict[str, Any]) -> None:
    """Write parquet: equal rows give equal bytes."""
    pl.DataFrame(list(rows), schema=schema, orient="row").write_parquet(path)


def read_table(path: Path) -> list[dict[str, Any]]:
    """All rows of a corpus, of the texts for membership tests, or of the probes.

    Raises:
        ArtifactError: as `read_frame`.
    """
    return read_frame(path, TEXTS, MEMBERS, PROBES).to_dicts()


def read_frame(path: Path, *schemas: Mapping[str, Any]) -> pl.DataFrame:
    """A parquet file, whose columns must match one of `schemas`, if any.

    Raises:
        ArtifactError: it is not parquet, has other columns, or claims more than `MAX_ROWS` rows.
    """
    with _reading(path):
        schema = _schema(path)
        if not schemas or schema in schemas:
            return pl.read_parquet(path, glob=False)
    raise ArtifactError(f"{path}: has other columns than it should; delete the folder")


def read_text_column(path: Path, column: str) -> list[str | None]:
    """One column of anybody's parquet file.

    Raises:
        ArtifactError: it is not parquet, claims more than `MAX_ROWS` rows, or has no such column of
            texts; names the columns that it has.
    """
    with _reading(path):
        schema = _schema(path)
        if schema.get(column) == pl.String:
            return pl.read_parquet(path, columns=[column], glob=False)[column].to_list()
    there = ", ".join(f"{visible(name)} ({kind})" for name, kind in schema.items())
    raise ArtifactError(
        f"{path}: has no column {column!r} of texts but {there or 'none'}; rename the one that "
        "holds them"
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"{path}: cannot be read as parquet: {error}") from None


def _schema(path: Path) -> dict[str, Any]:
    """The columns, once the number of rows is known to be within `MAX_ROWS`. It is read from the
    metadata: a small file can hold any number of equal rows.
    """
    schema = dict(pl.read_parquet_schema(path))
    rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    if rows > MAX_ROWS:
        raise ArtifactError(f"{path}: claims {rows} rows, {MAX_ROWS} are read")
    return schema


def target_tables(prepare: Artifact, split: str) -> dict[str, Any]:
    """What was prepared for a target, as rows: the probes of one split, `probes`, and the corpora
    `forget`, `retain` and `holdout`.
    """
    every = read_table(prepare.file("probes.parquet"))
    corpora = ("forget", "retain", "holdout")
    return {"probes": [probe for probe in every if probe["split"] == split]} | {
        name: read_table(prepare.file(f"{name}.parquet")) for name in corpora
    }
