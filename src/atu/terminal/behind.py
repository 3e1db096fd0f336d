"""The items behind a number: which rows of which file it was computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from atu.metrics.bootstrap import ROUNDING
from atu.metrics.registry import METRIC_ID
from atu.probes.prompts import ADVERSARIAL, FORMS, ORT
from atu.reporting.items import load_items, of, worst
from atu.results.artifacts import Artifact
from atu.results.items import SCORE, worst_forms
from atu.results.tables import read_frame

SHOWN = 5
ABOUT = ("id", "fact", "condition", "query", "text", "answer", "output")
"""Columns that tell an item, where its file has them."""
ITEMS = "items.parquet"


@dataclass(frozen=True)
class Behind:
    """The rows behind a number."""

    file: str
    """Below the job's folder, or the files of several jobs."""
    rule: str
    """Which rows these are."""
    count: int
    is_mean: bool
    """Whether the number is the mean of these rows' scores, as computed here again."""
    examples: list[dict[str, Any]]


Rows = tuple[str, str, pl.DataFrame, str | None]
"""File, rule, rows, and the column of the scores; None for a number of whole texts."""


def behind(
    job: Artifact, key: str, value: float, finished: Mapping[str, Artifact]
) -> Behind | None:
    """The rows behind the metric `key` of a job; None where it is no number about items.

    Args:
        finished: all finished folders by digest, among which those are that a report read.

    Raises:
        ArtifactError: a file is not as its manifest says.
    """
    phase, _, rest = key.partition("/")
    name, _, split = rest.rpartition("/")
    found: Rows | None = None
    if phase == "report":
        read = [finished[d] for d in job.manifest["inputs"].values() if d in finished]
        found = _reported(
            job, name.split("."), [a for a in read if a.manifest["phase"] == "rephrase"]
        )
    elif phase in _CHOOSE:
        found = _CHOOSE[phase](job, name, split)
    if found is None or found[2].is_empty():
        return None
    file, rule, rows, column = found
    scores = rows[column].to_list() if column else [None]
    known = None not in scores
    is_mean = known and abs(sum(scores) / len(scores) - value) < ROUNDING
    kept = [c for c in (*ABOUT, *([column] if column else [])) if c in rows.columns]
    return Behind(file, rule, len(rows), is_mean, rows.head(SHOWN).select(kept).to_dicts())


def _rephrased(job: Artifact, name: str, split: str) -> Rows:
    """Of a form, its wordings that no corpus has; of a worst form, a row per fact."""
    role, _, rest = name.partition(".")
    part = rest.split(".")[0]
    rows = read_frame(job.file(ITEMS)).filter(pl.col("split") == split, pl.col("role") == role)
    column = _column(rest, rows)
    rule = f"split {split}, role {role}"
    if part == "question_seen":
        rows = rows.filter(pl.col("form") == "question", pl.col("seen"))
        return ITEMS, f"{rule}, plain questions in wordings of the forget corpus", rows, column
    held_out, rule = rows.filter(~pl.col("seen")), f"{rule}, wordings of no corpus"
    if part in FORMS:
        return ITEMS, f"{rule}, form {part}", held_out.filter(pl.col("form") == part), column
    if not part.startswith("worst"):
        return ITEMS, f"split {split}, role {role}", rows, column
    forms = {"worst_adversarial": ADVERSARIAL, "worst_ort": ORT}
    among = next((f for kind, f in forms.items() if part.startswith(kind)), tuple(FORMS))
    chosen = held_out.filter(pl.col("form").is_in(among))
    per_fact = worst_forms(chosen, column) if column else {}
    facts = pl.DataFrame({"fact": [*per_fact], SCORE: [*per_fact.values()]})
    return ITEMS, f"{rule}, per fact the worst of {len(chosen)} items", facts, SCORE


def _attacked(job: Artifact, name: str, split: str) -> Rows:
    """The items of one role, condition and metric."""
    rest = name.removeprefix(f"{job.cell['attack']}.")
    of_key = pl.concat_str("role", "condition", "metric", separator=".")
    items = read_frame(job.file(ITEMS))
    counted = rest.removesuffix(".n").removesuffix(".not_scored")
    rows = items.filter(of_key == counted)
    column = SCORE if rest == counted else None
    return ITEMS, f"split {split}, role, condition and metric {counted}", rows, column


def _private(job: Artifact, name: str, split: str) -> Rows:
    """Questions of a role, or texts of a corpus (of forget and holdout, where they are told apart
    by an AUC).
    """
    kind = name.split(".")[0]
    answers = read_frame(job.file("answers.parquet"))
    if kind in answers["role"]:
        rows = answers.filter(pl.col("role") == kind)
        return "answers.parquet", f"role {kind}", rows, _column(name, rows)
    texts = read_frame(job.file("texts.parquet"))
    if kind in texts["corpus"]:
        corpora = [kind, "holdout"] if kind == "forget" else [kind]
        rows = texts.filter(pl.col("corpus").is_in(corpora))
        return "texts.parquet", f"texts of {' and '.join(corpora)}", rows, _column(name, rows)
    return "answers.parquet", "all roles", answers, None


def _useful(job: Artifact, name: str, split: str) -> Rows | None:
    """The documents of a task."""
    file = "samples.jsonl"
    if file not in job.manifest["artifacts"]:
        return None
    task = name.removesuffix("_n").removesuffix("_truncated").removesuffix("_invalid")
    rows = [row for row in job.read_jsonl(file) if row["task"] == task]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return file, f"documents of the task {task}", frame, SCORE if task == name else None


def _reported(job: Artifact, parts: Sequence[str], rephrased: Sequence[Artifact]) -> Rows | None:
    """The items of a column of the report's main table, of all single targets and seeds."""
    if len(parts) < 3 or not rephrased:
        return None
    model, method, role = parts[:3]
    text = job.file("requests.csv").read_text(encoding="utf-8").strip()
    several = set(pl.read_csv(text.encode())["request"]) if text else set()
    cells = [a for a in rephrased if a.cell["target"] not in several]
    rows = of(load_items(cells), model, method).filter(~pl.col("seen"))
    file = f"rephrase/{model}/*/{method}/*/{ITEMS}"
    rule = f"split report, wordings of no corpus, {len({a.cell['target'] for a in cells})} targets"
    if role.startswith("worst"):
        facts = worst(rows.filter(pl.col("role") == "target"))
        return file, f"{rule}, role target, per fact the worst", facts, SCORE
    chosen = rows.filter(pl.col("role") == role, pl.col("form") == "question")
    return file, f"{rule}, role {role}, plain questions", chosen, SCORE


def _column(name: str, rows: pl.DataFrame) -> str | None:
    """The scores that a key names: of its metric ids the first that is a column, or the measure of
    these probes.
    """
    ids = METRIC_ID.findall(name)
    known = [metric for metric in ids if metric in rows.columns]
    if not known and "measure" in rows.columns and ids[:1] == rows["measure"].unique().to_list():
        known = [SCORE]
    return known[0] if known and not name.endswith((".n", ".blind", ".not_scored")) else None


_CHOOSE: dict[str, Callable[[Artifact, str, str], Rows | None]] = {
    "rephrase": _rephrased, "attack": _attacked, "privacy": _private, "utility": _useful,
}  # fmt: skip
