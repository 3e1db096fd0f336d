"""Figures are compared by their bytes: the same when drawn twice, others for other values."""

import math

import polars as pl
import pytest

from atu.metrics.bootstrap import Estimate
from atu.reporting import figures
from atu.reporting.robustness import Shown
from atu.reporting.tables import COLUMNS


def sure(value):
    return Estimate(value, value, value, 4)


def unsure(value):
    """The same numbers over three of four items."""
    return Estimate(value, value, value, 4, 3)


EMPTY = Estimate(math.nan, math.nan, math.nan, 1, 0)


def compared(value=0.25):
    """Rows of the main table: two special ones and a method."""
    values = {"none": (1.0, 1.0), "oracle": (0.0, 1.0), "ga": (value, 0.5)}
    return [
        {"model": "m", "method": method, "worst_form": sure(target), "neighbour": sure(neighbour)}
        for method, (target, neighbour) in values.items()
    ]


def forms(value=0.25):
    return [
        {"model": "m", "method": method, "form": form, "shown": form, "estimate": sure(value)}
        for method in ("none", "ga")
        for form in ("question, seen", "question", "cloze")
    ]


SHOWN = [Shown("a", "one way", False), Shown("b", "another", True)]


def tried(value=0.25):
    """Rows of the robustness table."""
    return [
        {"model": "m", "method": method, "a": sure(1.0), "b": sure(value)}
        for method in ("none", "ga")
    ]


NAMES = {"none": "Original", "ga": "Gradient ascent"}


def draw_tried(path, rows, names=NAMES, shown=SHOWN):
    figures.robustness(path, rows, shown, names)


def points(value=0.25, **columns):
    """The original's one point and the method's two."""
    return pl.DataFrame(
        {
            "method": ["none", "ga", "ga"],
            "step": [0, 0, 4],
            "score_target": [1.0, 1.0, value],
            "worst_form_target": [1.0, 1.0, 0.75],
            "score_neighbour": [1.0, 1.0, 0.5],
            "score_other": [1.0, 1.0, 0.5],
            "chosen": [0, 4, 4],
            **columns,
        }
    )


DRAWN = pytest.mark.parametrize(
    ("draw", "rows"),
    [
        (figures.forget_retain, compared),
        (figures.leakage_by_form, forms),
        (draw_tried, tried),
        (figures.trajectories, points),
    ],
)


@pytest.fixture
def svg(tmp_path):
    """A function that draws and gives the bytes."""

    def svg(draw, rows, name="figure.svg"):
        draw(tmp_path / name, rows, NAMES)
        return (tmp_path / name).read_bytes()

    return svg


@DRAWN
def test_the_same_table_gives_the_same_bytes(svg, draw, rows):
    first = svg(draw, rows(), "first.svg")
    assert b"<svg " in first
    assert svg(draw, rows(), "second.svg") == first


@DRAWN
def test_other_values_give_another_figure(svg, draw, rows):
    assert svg(draw, rows()) != svg(draw, rows(0.5))


@DRAWN
def test_no_version_or_time_is_written(svg, draw, rows):
    assert b"Matplotlib" not in svg(draw, rows()) and b"<dc:date>" not in svg(draw, rows())


@DRAWN
def test_figures_are_closed(svg, draw, rows):
    """Otherwise matplotlib keeps them all."""
    svg(draw, rows())
    assert figures.plt.get_fignums() == []


def test_the_end_of_every_round_is_marked(written):
    """Once, however many points there are in it."""
    marked = points(threshold=[None, 0.4, 0.4])
    assert written(figures.trajectories, marked).count("0.40") == 1


def test_thresholds_are_marked(svg):
    marked = points(threshold=[None, None, 0.4])
    unmarked = points(threshold=pl.Series([None, None, None], dtype=pl.Float64))
    assert svg(figures.trajectories, marked) != svg(figures.trajectories, unmarked)
    assert svg(figures.trajectories, unmarked) == svg(figures.trajectories, points())


@pytest.mark.parametrize("method", ["none", "ga"])
def test_trajectories_of_one_point(svg, method):
    """A grid of nothing but the original has a panel all the same."""
    alone = points().filter(pl.col("step") == 0, pl.col("method") == method)
    assert b"<svg " in svg(figures.trajectories, alone)


@pytest.mark.parametrize(
    ("neighbour", "other", "shown"),
    [(1.0, 1.0, "neighbour"), (0.2, 1.0, "neighbour"), (0.15, 1.0, "other"),
     (0.15, 0.1, "neighbour"), (None, 1.0, "other"), (None, None, None)],
)  # fmt: skip
def test_what_the_original_hardly_knows_is_not_what_is_kept(written, neighbour, other, shown):
    """Below .2 there is nothing to lose, so the next role is drawn; with nothing above, the
    first."""
    roles = {"neighbour": neighbour, "other": other}
    own = {role: sure(value) for role, value in roles.items() if value is not None}
    rows = [
        {k: v for k, v in row.items() if k != "neighbour"} | own
        | (dict.fromkeys(own, sure(0.0)) if row["method"] == "ga" else {})
        for row in compared()
    ]  # fmt: skip
    words = written(figures.forget_retain, rows)
    title = COLUMNS.get(shown, "no retained questions")
    assert f"{title}: score   (up: it is kept)" in words


def test_special_rows_keep_their_colours():
    """Methods get the palette in order; adding the special rows between them changes nothing."""
    plain = figures._colours(["ga", "npo"])
    mixed = figures._colours(["none", "ga", "oracle", "npo"])
    assert {name: mixed[name] for name in ("ga", "npo")} == {k: plain[k] for k in ("ga", "npo")}
    assert mixed["ga"] != mixed["npo"] and mixed["none"] == figures.INK


@pytest.fixture
def written(monkeypatch, tmp_path):
    """A function that draws and gives all words of the figure."""

    def words(draw, rows):
        found = []

        def save(figure, path):
            found.extend(t.get_text() for t in figure.findobj(figures.plt.Text))
            figures.plt.close(figure)

        monkeypatch.setattr(figures, "_save", save)
        draw(tmp_path / "figure.svg", rows, NAMES)
        return found

    return words


@pytest.mark.parametrize(
    ("draw", "rows", "key"),
    [(figures.leakage_by_form, forms, "estimate"), (draw_tried, tried, "a")],
    ids=["forms", "robustness"],
)
@pytest.mark.parametrize("estimate", [unsure(0.75), EMPTY], ids=["in part", "not at all"])
def test_a_cell_that_was_not_wholly_scored_says_so(written, draw, rows, key, estimate):
    """Its mean stands nowhere, and no other cell changes."""
    sound, unsound = rows(), rows()
    unsound[-1] = unsound[-1] | {key: estimate}
    assert "INVALID" not in written(draw, sound)
    words = written(draw, unsound)
    assert words.count("INVALID") == 1
    assert "0.75" not in words and "nan" not in words


def test_a_cell_that_was_not_wholly_scored_has_no_colour(svg):
    """It is drawn the same whatever its mean over the others would be."""
    drawn = [
        svg(draw_tried, [*tried()[:1], tried()[1] | {"a": estimate}])
        for estimate in (unsure(0.0), unsure(1.0), sure(1.0))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_point_that_was_not_wholly_scored_is_not_drawn_as_if_it_were(svg):
    """In the scatter, where every other point is what it seems."""
    drawn = [
        svg(figures.forget_retain, [*compared()[:2], compared()[2] | {"worst_form": estimate}])
        for estimate in (sure(0.25), unsure(0.25), EMPTY)
    ]
    assert drawn[0] not in drawn[1:]


def test_names_of_many_methods_are_turned(monkeypatch, tmp_path):
    """Upright they would run into each other in narrow columns; a few stand upright."""
    found = []

    def save(figure, path):
        found.append({t.get_rotation() for t in figure.axes[0].get_xticklabels()})
        figures.plt.close(figure)

    monkeypatch.setattr(figures, "_save", save)
    row = tried()[1]
    for count in (figures.UPRIGHT, figures.UPRIGHT + 1):
        draw_tried(tmp_path / "f.svg", [row | {"method": f"m{i}"} for i in range(count)])
    assert found == [{0.0}, {60.0}]


def test_controls_are_marked(written):
    """With the number of items, as every line."""
    words = written(draw_tried, tried())
    assert "one way  (n = 4)" in words
    assert "control: another  (n = 4)" in words


def test_models_have_cells_of_their_own(written):
    """The same method of two models: both numbers are in the figure."""
    two = [row | {"model": "l", "estimate": sure(0.5)} for row in forms()] + forms(0.25)
    words = written(figures.leakage_by_form, two)
    assert {"0.50", "0.25"} <= set(words)


@pytest.mark.parametrize(
    ("lows", "bottom"), [([0.93, 1.0], 0.85), ([0.5, 0.9], 0.45), ([0.49, 1.0], -0.05), ([], -0.05)]
)
def test_the_axis_of_what_is_kept_begins_near_the_lowest_interval(lows, bottom):
    """Where all keep at least half; one that is not valid has no place."""
    kept = [Estimate(1.0, low, 1.0, 9) for low in lows] + [Estimate(math.nan, 0.1, 1.0, 2, 1)]
    assert figures._bottom(kept) == pytest.approx(bottom)
