"""`atu answers`: probes with the gold answer and those of the original, a method and the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.box import SIMPLE
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from atu.config.cells import finished_cells
from atu.config.roles import ORACLE, ORIGINAL
from atu.errors import ArtifactError, ConfigError
from atu.reporting.items import CELL, load_items
from atu.results.items import SCORE
from atu.terminal.printing import one_line, open_console
from atu.untrusted.names import composed

WIDE = 100
"""Characters of a terminal in which answers have room beside each other."""


@dataclass(frozen=True)
class Wanted:
    """Which answers; None is any."""

    role: str
    method: str
    target: str | None = None
    form: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Answers:
    """Some probes of the `report` split, and how many there are."""

    probes: list[dict[str, Any]]
    """The cell's keys without the method; `id`, `fact`, `form`, `seen`, `query`, `options`, `gold`;
    and `answers`: per method that has finished, `output` and `score`."""
    count: int


def answers(results: Path, wanted: Wanted, limit: int) -> Answers:
    """The first `limit` of the probes that are wanted, with the answers of all that were asked.

    Raises:
        ArtifactError: nothing is finished there, or a file is not as its manifest says.
        ConfigError: there is no such method, target, seed, role or form; names those there are.
    """
    finished = finished_cells(results, "rephrase")
    if not finished:
        raise ArtifactError(
            f"{results}: holds no finished rephrase job; name an experiment's folder below "
            "results/, or run `snakemake rephrase` first"
        )
    _choose("--method", wanted.method, (a.cell["method"] for a in finished))
    shown = list(dict.fromkeys((ORIGINAL, wanted.method, ORACLE)))
    items = load_items([a for a in finished if a.cell["method"] in shown])
    rows = items.filter(pl.col("method") == wanted.method)
    slugs = {a.folder.parent.parent.name: a.cell["target"] for a in finished}
    for option, column, value in _filters(wanted, slugs):
        if value is not None:
            _choose(option, value, rows[column])
            rows = rows.filter(pl.col(column) == value)
    keys = [key for key in CELL if key != "method"]
    chosen = rows.head(limit).select(*keys, "id")
    asked = items.join(chosen, on=[*keys, "id"], how="semi")
    by_probe: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in asked.iter_rows(named=True):
        by_probe.setdefault(tuple(row[k] for k in (*keys, "id")), {})[row["method"]] = row
    probes = [_probe(by_probe[key], shown, wanted.method) for key in chosen.iter_rows()]
    return Answers(probes, len(rows))


def _filters(wanted: Wanted, slugs: Mapping[str, str]) -> list[tuple[str, str, Any]]:
    """Options, the columns that they choose from, and what they choose; a target also by its
    folder's name.
    """
    target = None if wanted.target is None else composed(wanted.target)
    return [
        ("--target", "target", slugs.get(target or "", target)),
        ("--seed", "seed", wanted.seed),
        ("--role", "role", wanted.role),
        ("--form", "form", wanted.form),
    ]


def _choose(option: str, value: Any, there: Iterable[Any]) -> None:
    known = list(dict.fromkeys(there))
    if value not in known:
        listed = ", ".join(map(str, known))
        raise ConfigError(option, value, f"no finished answer has it; there are {listed}")


def _probe(rows: Mapping[str, Mapping[str, Any]], shown: list[str], method: str) -> dict[str, Any]:
    row = rows[method]
    kept = ("model", "target", "seed", "id", "fact", "form", "seen", "query", "options")
    return {key: row[key] for key in kept} | {
        "gold": row["answer"],
        "answers": {
            name: {"output": rows[name]["output"], "score": rows[name][SCORE]}
            for name in shown
            if name in rows
        },
    }


def print_answers(found: Answers) -> None:
    """All answers to a probe side by side, or below each other where the terminal is narrow."""
    console = open_console()
    if console.width >= WIDE and found.probes:
        console.print(_beside(found.probes))
    else:
        for probe in found.probes:
            console.print(Text(one_line(_head(probe)), "bold"))
            console.print(Padding(_below(probe), (0, 0, 0, 2), expand=False))
            console.print()
    console.print(f"{len(found.probes)} of {found.count} probes of the report split.")


def _head(probe: Mapping[str, Any]) -> str:
    seen = ", a wording of the forget corpus" if probe["seen"] else ""
    where = f"{probe['target']}, seed {probe['seed']}, {probe['model']}"
    return f"{probe['id']} ({probe['form']}{seen}; {where})"


def _beside(probes: Sequence[Mapping[str, Any]]) -> Table:
    """A row per probe: what was asked, the gold answer, and a column per method."""
    methods = list(dict.fromkeys(name for probe in probes for name in probe["answers"]))
    table = Table(box=SIMPLE, show_lines=True)
    for head in ("probe", "gold", *methods):
        table.add_column(Text(head), overflow="fold", ratio=1)
    for probe in probes:
        asked = [_head(probe), probe["query"], *(f"- {option}" for option in probe["options"])]
        texts = ["\n".join(map(one_line, asked)), one_line(probe["gold"])]
        for name in methods:
            answer = probe["answers"].get(name)
            texts.append(f"{one_line(answer['output'])}\n{_score(answer)}" if answer else "")
        table.add_row(*map(Text, texts))
    return table


def _below(probe: Mapping[str, Any]) -> Table:
    """The question and all answers, beside whom they are from and their scores."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "right", "left"):
        grid.add_column(justify=justify, overflow="fold")  # type: ignore[arg-type]
    texts = [("question", "", probe["query"])]
    texts += [("options", "", "; ".join(probe["options"]))] if probe["options"] else []
    texts.append(("gold", "", probe["gold"]))
    texts += [(name, _score(found), found["output"]) for name, found in probe["answers"].items()]
    for head, score, text in texts:
        grid.add_row(Text(head), Text(score), Text(one_line(text)))
    return grid


def _score(answer: Mapping[str, Any]) -> str:
    return "-" if answer["score"] is None else f"{answer['score']:.2f}"
