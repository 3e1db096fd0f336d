"""Answers of several models to the same probes, chosen by a rule and not by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from atu.config.roles import ORACLE, ORIGINAL, REFERENCES
from atu.metrics.answers import contains
from atu.results.items import SCORE

FACTS = 4
"""Facts of every group."""
COLUMNS = 6
"""Models whose answers stand side by side: a page has no room for more."""


@dataclass(frozen=True)
class Group:
    """Probes of one kind, with all answers."""

    title: str
    rule: str
    """By what these probes were chosen."""
    kept: bool
    """Whether these should be answered still."""
    probes: list[dict[str, Any]]
    """`form`, `query`, `options`, `gold`, and `answers`: per method `output` and `score`."""


def shown_methods(methods: Sequence[str], ours: str) -> list[str]:
    """Whose answers are shown: the original, the oracle, `ours`, and others in their order."""
    first = [name for name in (ORIGINAL, ORACLE, ours) if name in methods]
    others = [name for name in methods if name not in first]
    return [*first, *others[: COLUMNS - len(first)]]


def answer_groups(items: pl.DataFrame, methods: Sequence[str]) -> list[Group]:
    """Of the first cell: the first facts about the target, asked plainly; the facts and forms that
    leak most; and the first facts about neighbours, or about other people where there are none. All
    in wordings that no corpus has.
    """
    first = items.select(pl.col("model", "target", "seed").first())
    rows = items.join(first, on=["model", "target", "seed"], how="semi")
    rows = rows.filter(~pl.col("seen") & pl.col("method").is_in(list(methods)))
    about = rows.filter(pl.col("role") == "target")
    plain = about.filter(pl.col("form") == "question")
    kept = rows.filter((pl.col("role") == "neighbour") & (pl.col("form") == "question"))
    title = "Neighbours"
    if kept.is_empty():
        kept = rows.filter((pl.col("role") == "other") & (pl.col("form") == "question"))
        title = "Other people"
    groups = [
        Group(
            "The target, asked plainly",
            "the first facts",
            False,
            _asked(plain, _first(plain["fact"]), methods),
        ),
        Group(
            "The target, in the form that leaks most",
            "of every fact the form in which unlearned models score most, the worst facts first",
            False,
            _leakiest(about.filter(pl.col("form") != "question"), methods),
        ),
        Group(title, "the first facts", True, _asked(kept, _first(kept["fact"]), methods)),
    ]
    return [group for group in groups if group.probes]


def _first(facts: pl.Series) -> list[str]:
    return facts.unique(maintain_order=True).to_list()[:FACTS]


def _asked(
    rows: pl.DataFrame, facts: Sequence[str], methods: Sequence[str]
) -> list[dict[str, Any]]:
    """The first wording of every fact."""
    found = (rows.filter(pl.col("fact") == fact)["id"].head(1).to_list() for fact in facts)
    return [_probe(rows, number, methods) for ids in found for number in ids]


def _leakiest(rows: pl.DataFrame, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Of every fact the probe that scores most over the unlearned models, and of these the facts
    that score most; the first of equals.
    """
    judged = rows.filter(~pl.col("method").is_in(REFERENCES)).drop_nulls(SCORE)
    mean = judged.group_by("fact", "id", maintain_order=True).agg(pl.col(SCORE).mean())
    mean = mean.sort(SCORE, descending=True, maintain_order=True)
    best = mean.unique("fact", keep="first", maintain_order=True)
    return [_probe(rows, number, methods) for number in best["id"].head(FACTS)]


def is_amid(answer: str, output: str, score: float | None) -> bool:
    """Whether the right answer stands in an output that did not get the point for it."""
    return score is not None and score < 1 and contains(output, answer) == 1


def amid_counts(items: pl.DataFrame, methods: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Of every method, how many outputs about the target hold the right answer without the point
    for it, and how many outputs there are; without choices, whose options many outputs repeat.
    """
    about = items.filter((pl.col("role") == "target") & ~pl.col("seen"))
    about = about.filter(pl.col("options").list.len() == 0)
    found = {}
    for method in methods:
        rows = about.filter(pl.col("method") == method).select("answer", "output", SCORE).rows()
        found[method] = (sum(is_amid(*row) for row in rows), len(rows))
    return found


def _probe(rows: pl.DataFrame, number: str, methods: Sequence[str]) -> dict[str, Any]:
    same: Mapping[str, Mapping[str, Any]] = {
        row["method"]: row for row in rows.filter(pl.col("id") == number).to_dicts()
    }
    row = next(iter(same.values()))
    return {
        "form": row["form"],
        "query": row["query"],
        "options": row["options"],
        "gold": row["answer"],
        "answers": {
            name: {
                "output": same[name]["output"],
                "score": same[name][SCORE],
                "amid": is_amid(row["answer"], same[name]["output"], same[name][SCORE]),
            }
            for name in methods
        },
    }
