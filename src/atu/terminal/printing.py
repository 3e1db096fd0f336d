"""How commands for people print: tables as wide as the terminal, anybody's texts, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from atu.errors import visible
from atu.metrics.bootstrap import Estimate

COLOURS = {
    "done": "green", "running": "cyan", "stale": "yellow", "failed": "bold red",
    "damaged": "bold red", "missing": "dim", "COLLAPSED": "bold red", "INVALID": "bold red",
    "better": "green", "worse": "red",
}  # fmt: skip
"""Words that stand out on a terminal."""

ENDLESS = 100_000
"""Columns of a terminal in which nothing is folded."""


def open_console() -> Console:
    """As wide as the terminal, 80 columns where there is none; in colour only on one. Texts are
    shown as they are: no markup, no emoji codes, no highlighting.
    """
    return Console(markup=False, emoji=False, highlight=False)


def one_line(text: str) -> str:
    r"""Anybody's text in one line: a line feed as `\n`, a tab as `\t`, and what a terminal might
    obey as `errors.visible` has it.
    """
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def styled(text: str) -> Text:
    """Lines of ours, which may hold anybody's words, in the colour of the first word."""
    word = text.split("\n")[0].split(" ")[0]
    return Text(_lines(text), style=COLOURS.get(word, ""))


def _lines(text: str) -> str:
    return "\n".join(map(one_line, text.split("\n")))


def fitting(heads: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> list[Table]:
    """The columns in as few tables as the width permits, each of which begins with the first
    column. Cells keep their lines; a first column that leaves no room for another is folded.
    """
    tables, chosen = [], [0]
    endless = console.options.update(max_width=ENDLESS)
    for column in range(1, len(heads)):
        wider = _table(heads, rows, [*chosen, column])
        width = console.measure(wider, options=endless).maximum
        if len(chosen) > 1 and width > console.width:
            tables.append(chosen)
            chosen = [0]
        chosen.append(column)
    return [_table(heads, rows, columns) for columns in (*tables, chosen)]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        justify: Any = "right" if column else "left"
        table.add_column(Text(_lines(heads[column])), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(styled(row[column]) for column in columns))
    return table


def print_tables(
    heads: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None
) -> None:
    """Print the tables of `fitting`, with a blank line between two."""
    console = console or open_console()
    for number, table in enumerate(fitting(heads, rows, console)):
        if number:
            console.print()
        console.print(table)


def print_entry(console: Console, head: str, below: str = "") -> None:
    """A line that is never broken, so that it can be copied, and a text that is, below it."""
    console.print(styled(head), soft_wrap=True)
    if below:
        text = Text(one_line(below), overflow="fold")
        console.print(Padding(text, (0, 0, 0, 4), expand=False))


def print_json(value: Any) -> None:
    """JSON for programs, in ASCII, which no terminal obeys."""
    print(json.dumps(plain(value), indent=1, allow_nan=False))


def plain(value: Any) -> Any:
    """A value as JSON holds it; an estimate that is not valid has its counts alone."""
    if isinstance(value, Estimate):
        numbers = asdict(value)
        return numbers if value.valid else numbers | dict.fromkeys(("mean", "low", "high"))
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(part) for name, part in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | Iterator):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
