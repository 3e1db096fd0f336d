"""The report's main table, read back."""

import shutil

import pytest

from atu.errors import ArtifactError
from atu.metrics.bootstrap import Estimate
from atu.terminal.headline import headline, print_headline, read_estimate, two_lines

LOST = {"generate_truncated": 6.0, "generate_invalid": 1.0}


def shown(results, capsys, monkeypatch, width=80, everything=True):
    """What is printed, as the words of every line."""
    monkeypatch.setenv("COLUMNS", str(width))
    print_headline(headline(results, everything))
    text = capsys.readouterr().out
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= width
    return [line.split() for line in text.splitlines()]


def test_every_method_has_its_line(reported, capsys, monkeypatch):
    """GA as in tests/unit/reporting: nothing of the target's questions, half of its worst forms and
    of the neighbours, each of two facts: an interval from 0 to 1."""
    lines = shown(reported(), capsys, monkeypatch, width=100)
    assert lines[:4] == [
        ["target,"],
        ["target", "worst", "other", "general"],
        ["questions", "form", "neighbours", "people", "facts", "distance", "utility"],
        ["method", *["n", "2"] * 5, "n", "1", "n", "4", "generation"],
    ]  # fmt: skip
    assert ["Original", "1.00", "1.00", "1.00", "1.00", "1.00", "0.19", "0.95", "0.90"] in lines
    row = ["Gradient", "ascent", "0.00", "0.50", "0.50", "1.00", "1.00", "0.00", "0.95", "0.90"]
    ga = lines.index(row)
    assert lines[ga + 1] == [".00–1.00", ".00–1.00"]
    assert "95 % bootstrap intervals" in " ".join(lines[-2] + lines[-1])


def test_the_first_table_has_five_columns(reported, capsys, monkeypatch):
    """Utility is the mean of general facts, 1, and generation, .9."""
    lines = shown(reported(), capsys, monkeypatch, everything=False)
    assert lines[2:4] == [
        ["questions", "form", "neighbours", "utility", "distance"],
        ["method", "n", "2", "n", "2", "n", "2", "n", "4", "n", "1"],
    ]
    assert ["Gradient", "ascent", "0.00", "0.50", "0.50", "0.95", "0.00"] in lines


def test_a_collapsed_method_and_an_invalid_number_say_so(reported, capsys, monkeypatch, make_item):
    """Beside its name; a task whose prompts were cut; a question that was not scored."""
    from atu.phases.rephrase import SCORES

    item = make_item("Ada/job", **dict.fromkeys(SCORES, None))
    results = reported(scores={"collapsed": 1.0, **LOST}, extra=[item])
    lines = shown(results, capsys, monkeypatch, width=100)
    row = next(n for n, line in enumerate(lines) if line[:2] == ["Gradient", "ascent"])
    assert lines[row][2:] == [
        "INVALID", "INVALID", "0.50", "1.00", "1.00", "INVALID", "1.00", "INVALID",
    ]  # fmt: skip
    assert lines[row + 1][:7] == ["COLLAPSED", "2", "of", "3", "2", "of", "3"]
    assert [line for line in lines if "COLLAPSED" in line] == [lines[row + 1]]


def test_too_narrow_a_terminal_has_the_columns_below_each_other(reported, capsys, monkeypatch):
    """In four tables, with the methods before each of them."""
    lines = shown(reported(), capsys, monkeypatch, width=36)
    for first in ("method", "Original", "Oracle", "Gradient"):
        assert sum(line[:1] == [first] for line in lines) == 4
    assert ["Gradient", "ascent", "0.00", "0.50"] in lines


def test_a_column_that_is_not_known_here_is_shown_by_its_key(reported, capsys, monkeypatch):
    """Whatever estimate the report's table has more, such as a distance to the oracle."""
    results = reported()
    real = headline(results)
    for row in real.rows:
        row["oracle_distance"] = Estimate(0.25, 0.125, 0.375, 4)
    more = type(real)(real.rows, [*real.columns, "oracle_distance"], [], 0.95, 0, 1)
    monkeypatch.setenv("COLUMNS", "80")
    print_headline(more)
    assert "oracle_distance" in capsys.readouterr().out


def test_a_report_that_is_older_than_the_results_says_so(reported, world, capsys, monkeypatch):
    """GA was asked again; of 3 x 4 folders of cells, 1 alignment, 1 model and 1 table of searches
    one is another now."""
    results = reported()
    assert headline(results).changed == 0
    shutil.rmtree(results / "rephrase/m/Ada/ga")
    world("ga", leaks=None)
    lines = " ".join(word for line in shown(results, capsys, monkeypatch) for word in line)
    assert "older than these results: 1 of the 15 folders" in lines


def test_without_a_report_the_message_says_what_to_run(tmp_path):
    with pytest.raises(ArtifactError, match="missing; run `snakemake report` first"):
        headline(tmp_path)


def test_an_altered_table_is_refused(reported):
    results = reported()
    (results / "report/table.csv").write_text("method\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match="truncated or altered"):
        headline(results)


def test_an_estimate_is_read_as_it_was_written():
    row = {"x": 0.5, "x_low": 0.25, "x_high": 1.0, "x_n": 4, "x_n_scored": 4}
    assert read_estimate(row, "x") == Estimate(0.5, 0.25, 1.0, 4)
    lost = read_estimate(row | {"x": None, "x_low": None, "x_high": None, "x_n_scored": 3}, "x")
    assert not lost.valid and (lost.n, lost.n_scored) == (4, 3)


@pytest.mark.parametrize(
    ("estimate", "lines"),
    [
        (Estimate(0.5, 0.25, 1.0, 4), "0.50\n.25–1.00"),
        (Estimate(0.5, -0.25, 10.05, 4), "0.50\n-.25–10.05"),
        (Estimate(1.0, 1.0, 1.0, 4), "1.00"),
        (Estimate(0.5, 0.0, 1.0, 4, 3), "INVALID\n3 of 4"),
    ],
)
def test_an_interval_stands_below_its_mean(estimate, lines):
    assert two_lines(estimate) == lines
