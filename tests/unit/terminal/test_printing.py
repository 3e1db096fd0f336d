"""Tables that fit, texts that command nothing, and JSON."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from atu.metrics.bootstrap import Estimate
from atu.terminal.printing import (
    fitting,
    one_line,
    open_console,
    plain,
    print_entry,
    print_json,
    styled,
)

HEADS = ["name", "one", "two", "three"]
ROWS = [["a", "failed", "2.00\n[1, 3]", "3"], ["b\nCOLLAPSED", "1", "2", "3"]]


def printed(*parts, width=80, terminal=None):
    """What a console of this width prints."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal)
    for part in parts:
        console.print(part)
    return file.getvalue()


def test_columns_that_do_not_fit_stand_in_a_further_table():
    """Widths 9, 6, 6 and 5 with a blank between two: 29 in all, 23 without the last, 22 without
    the second."""
    for width, columns in ((29, [4]), (28, [3, 2]), (23, [3, 2]), (22, [2, 3]), (21, [2, 2, 2])):
        tables = fitting(HEADS, ROWS, Console(width=width))
        assert [len(table.columns) for table in tables] == columns
    text = printed(*fitting(HEADS, ROWS, Console(width=23)), width=23)
    assert max(map(len, text.splitlines())) <= 23
    assert text.count("COLLAPSED") == 2 and text.count("[1, 3]") == 1


def test_colour_is_for_terminals(monkeypatch):
    """A word of ours is red there; nowhere else is there any command of a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    (table,) = fitting(HEADS, ROWS, Console(width=80))
    assert "\x1b[1;31mfailed" in printed(table, terminal=True)
    assert "\x1b" not in printed(table)


def test_a_line_that_can_be_copied_is_never_broken(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    print_entry(open_console(), f"stale   {'x' * 40}", "because of many things that changed")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"stale   {'x' * 40}"
    assert [line.strip() for line in lines[1:]] == ["because of many", "things that", "changed"]
    assert all(line.startswith("    ") for line in lines[1:])


@pytest.mark.parametrize("text", ["[bold]x[/bold]", ":smile:", "[link=http://x]y[/link]", "\\[x]"])
def test_markup_is_text(text, capsys):
    assert printed(styled(text), terminal=True) == f"{text}\n"
    open_console().print(text)
    assert capsys.readouterr().out == f"{text}\n"


def test_what_a_terminal_obeys_is_shown():
    assert one_line("a\x1b]0;t\x07\nb\tc\u2028") == r"a\x1b]0;t\x07\nb\tc\u2028"


def test_json_is_ascii_and_has_no_nan(capsys):
    """An estimate that is not valid has its counts alone."""
    value = {"a": Estimate(math.nan, math.nan, math.nan, 2, 1), "b": [Path("x"), ("\x1bé", None)]}
    print_json(value)
    text = capsys.readouterr().out
    assert text.isascii() and "\x1b" not in text
    assert json.loads(text) == {
        "a": {"mean": None, "low": None, "high": None, "n": 2, "n_scored": 1},
        "b": ["x", ["\x1bé", None]],
    }
    assert plain(Estimate(0.5, 0.25, 1.0, 4))["high"] == 1.0
