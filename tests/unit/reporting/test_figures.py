"""Figures are compared by their bytes: the same when drawn twice, others for other values."""

import polars as pl
import pytest

from atu.metrics.bootstrap import Estimate
from atu.reporting import figures

PNG = b"\x89PNG\r\n\x1a\n"


def sure(value):
    return Estimate(value, value, value, 4)


def compared(value=0.25):
    """Rows of the main table: two special ones and a method."""
    values = {"none": (1.0, 1.0), "oracle": (0.0, 1.0), "ga": (value, 0.5)}
    return [
        {"model": "m", "method": method, "target": sure(target), "neighbour": sure(neighbour)}
        for method, (target, neighbour) in values.items()
    ]


def forms(value=0.25):
    return [
        {"model": "m", "method": method, "form": form, "estimate": sure(value)}
        for method in ("none", "ga")
        for form in ("question, seen", "question", "cloze")
    ]


def points(value=0.25, **columns):
    """The original's one point and the method's two."""
    return pl.DataFrame(
        {
            "method": ["none", "ga", "ga"],
            "step": [0, 0, 4],
            "exact_match_target": [1.0, 1.0, value],
            "exact_match_neighbour": [1.0, 1.0, 0.5],
            "exact_match_other": [1.0, 1.0, 0.5],
            **columns,
        }
    )


DRAWN = pytest.mark.parametrize(
    ("draw", "rows"),
    [
        (figures.forget_retain, compared),
        (figures.leakage_by_form, forms),
        (figures.trajectories, points),
    ],
)


@pytest.fixture
def png(tmp_path):
    """A function that draws and gives the bytes."""

    def png(draw, rows, name="figure.png"):
        draw(tmp_path / name, rows, "title")
        return (tmp_path / name).read_bytes()

    return png


@DRAWN
def test_the_same_table_gives_the_same_bytes(png, draw, rows):
    first = png(draw, rows(), "first.png")
    assert first.startswith(PNG)
    assert png(draw, rows(), "second.png") == first


@DRAWN
def test_other_values_give_another_figure(png, draw, rows):
    assert png(draw, rows()) != png(draw, rows(0.5))


@DRAWN
def test_no_version_or_time_is_written(png, draw, rows):
    assert b"Software" not in png(draw, rows()) and b"tIME" not in png(draw, rows())


@DRAWN
def test_figures_are_closed(png, draw, rows):
    """Otherwise matplotlib keeps them all."""
    png(draw, rows())
    assert figures.plt.get_fignums() == []


def test_thresholds_are_marked(png):
    marked = points(threshold=[None, None, 0.4])
    unmarked = points(threshold=pl.Series([None, None, None], dtype=pl.Float64))
    assert png(figures.trajectories, marked) != png(figures.trajectories, unmarked)
    assert png(figures.trajectories, unmarked) == png(figures.trajectories, points())


@pytest.mark.parametrize("method", ["none", "ga"])
def test_trajectories_of_one_point(png, method):
    """A grid of nothing but the original has a panel all the same."""
    alone = points().filter(pl.col("step") == 0, pl.col("method") == method)
    assert png(figures.trajectories, alone).startswith(PNG)


def test_special_rows_keep_their_colours():
    """Methods get the palette in order; adding the special rows between them changes nothing."""
    plain = figures._colours(["ga", "npo"])
    mixed = figures._colours(["none", "ga", "oracle", "npo"])
    assert {name: mixed[name] for name in ("ga", "npo")} == {k: plain[k] for k in ("ga", "npo")}
    assert mixed["ga"] != mixed["npo"] and mixed["none"] == "black"
