"""The views of an experiment, as MLflow keeps them; tests/workflow opens them in a browser."""

import json

import pytest

from atu.tracking.view import MODES, view_address, view_tags

EVERY = ["target_questions", "worst_form", "neighbours", "utility", "distance", "collapsed"]


def states(*given, **named):
    """The views by their keys, with what MLflow reads of them."""
    tags = view_tags(*given, **named)
    views = {key.removeprefix("mlflow.sharedViewState."): json.loads(v) for key, v in tags.items()}
    assert [view["name"] for view in views.values()] == ["Headlines", "Answers"]
    return {key: json.loads(view["state"]) for key, view in views.items()}


def test_columns_are_the_headlines_that_there_are():
    """Wide enough for their titles: 22 pixels and 7 per letter."""
    (state, answers) = states(["worst_form", "collapsed"], [], grouped=False).values()
    assert state["selectedColumns"] == ["metrics.`2 worst form`", "metrics.`6 COLLAPSED`"]
    assert state["columnOrder"] == ["attributes.`Run Name`", *state["selectedColumns"]]
    assert state["columnWidths"]["metrics.`2 worst form`"] == 22 + 7 * 12
    assert answers == state


@pytest.mark.parametrize(
    ("shown", "order"), [(EVERY, "metrics.`5 distance`"), (EVERY[:4], "metrics.`2 worst form`")]
)
def test_runs_are_sorted_by_distance_or_what_leaks(shown, order):
    """The best first; without an oracle there is no distance."""
    state = states(shown, [], grouped=False)["atu-headlines"]
    assert (state["orderByKey"], state["orderByAsc"]) == (order, True)


def test_runs_are_grouped_by_target_but_where_answers_are_compared():
    """MLflow shows no answers of groups; charts are of runs in both."""
    found = states(EVERY, [], grouped=True)
    group = {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "param", "groupByData": "target"}],
    }
    assert found["atu-headlines"]["groupBy"] == group
    assert found["atu-headlines"]["useGroupedValuesInCharts"] is False
    assert "groupBy" not in found["atu-answers"]


def test_charts_are_laid_out():
    """The trade-off, bars, what happened on the way; all other groups are closed."""
    state = states(EVERY[:3], ["utility", "align"], grouped=False)["atu-headlines"]
    assert [(s["name"], s["display"]) for s in state["compareRunSections"]] == [
        ("Headlines", True), ("Trajectories", True), ("align", False), ("utility", False),
    ]  # fmt: skip
    charts = [
        (c["metricSectionId"], c["type"], c.get("metricKey")) for c in state["compareRunCharts"]
    ]
    assert charts == [
        ("Headlines", "SCATTER", None), ("Headlines", "BAR", "2 worst form"),
        ("Headlines", "BAR", "3 neighbours"), ("Headlines", "BAR", "1 target questions"),
        ("Trajectories", "LINE", "trajectory/target questions"),
        ("Trajectories", "LINE", "trajectory/worst form"),
        ("Trajectories", "LINE", "trajectory/neighbours"),
    ]  # fmt: skip
    trade_off = state["compareRunCharts"][0]
    assert (trade_off["xaxis"]["key"], trade_off["yaxis"]["key"]) == (
        "2 worst form",
        "3 neighbours",
    )
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(charts)


def test_without_retain_questions_there_is_no_trade_off():
    """A benchmark may have none."""
    state = states(["worst_form"], [], grouped=False)["atu-headlines"]
    assert "SCATTER" not in [chart["type"] for chart in state["compareRunCharts"]]


def test_a_view_is_the_same_every_time():
    """Else every mirror would write the tag again."""
    assert view_tags(EVERY, {"b", "a"}, True) == view_tags(EVERY, ["a", "b"], True)


def test_addresses_open_the_views():
    """Each by a key that there is."""
    assert view_address("7", "charts") == (
        "/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=atu-headlines"
        "&compareRunsMode=CHART"
    )
    keys = {f"mlflow.sharedViewState.{key}" for key, _ in MODES.values()}
    assert keys == set(view_tags(EVERY, [], True))
