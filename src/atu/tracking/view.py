"""How MLflow shows an experiment: the columns, their order, the charts.

MLflow keeps a view that people share as a tag of the experiment, and opens it by the key in the
address. The format is MLflow 3.17's own and documented nowhere: a test opens it in a browser.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from atu.tracking.records import HEADLINE, TRAJECTORY

TAG = "mlflow.sharedViewState."
"""What the key of a view stands behind, in the name of its tag."""
HEADLINES, ANSWERS = "atu-headlines", "atu-answers"
"""The keys of our views. MLflow shows answers side by side only where runs are not grouped."""
NAMES = {HEADLINES: "Headlines", ANSWERS: "Answers"}
"""In MLflow's list of views."""
MODES = {
    "runs": (HEADLINES, "TABLE"), "charts": (HEADLINES, "CHART"), "answers": (ANSWERS, "ARTIFACT"),
}  # fmt: skip
"""What of an experiment a person opens: the view, and what MLflow calls this side of it."""
RUN_NAME = "attributes.`Run Name`"
NAME_WIDTH, MARGIN, LETTER = 160, 22, 7
"""Of columns, in pixels: of the first, and of a title's margins and letters. All of them fit into a
window of 1280."""
LOW, HIGH = "worst_form", "neighbours"
"""The axes of the trade-off: low is good, and high."""
BARS = ("worst_form", "neighbours", "target_questions", "utility", "distance")


def view_address(experiment_id: str, mode: str) -> str:
    """What stands behind a server's address to open one of `MODES`."""
    key, side = MODES[mode]
    return (
        f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&viewStateShareKey={key}&compareRunsMode={side}"
    )


def view_tags(shown: Collection[str], groups: Iterable[str], grouped: bool) -> dict[str, str]:
    """The tags of an experiment that has our views.

    Args:
        shown: the columns of `HEADLINE` for which some run has a number.
        groups: of all metrics; their charts are there, closed.
        grouped: by target.
    """
    titles = {f"metrics.`{name}`": name for key, name in HEADLINE.items() if key in shown}
    widths = {column: MARGIN + LETTER * len(title) for column, title in titles.items()}
    sections = {
        "Headlines": [
            *([_scatter(HEADLINE[LOW], HEADLINE[HIGH])] if {LOW, HIGH} <= set(shown) else []),
            *(_card("BAR", HEADLINE[key]) for key in BARS if key in shown),
        ],
        "Trajectories": [_card("LINE", f"trajectory/{name}") for name in TRAJECTORY.values()],
    }
    opened = [_section(name, True) for name in sections]
    state = {
        "orderByKey": f"metrics.`{HEADLINE['distance' if 'distance' in shown else LOW]}`",
        "orderByAsc": True,
        "selectedColumns": list(titles),
        "columnOrder": [RUN_NAME, *titles],
        "columnWidths": {RUN_NAME: NAME_WIDTH} | widths,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": opened + [_section(name, False) for name in sorted(groups)],
        "compareRunCharts": [
            card | {"metricSectionId": name} for name, cards in sections.items() for card in cards
        ],
        "isAccordionReordered": True,
    }
    by_target = {"groupBy": _by("target"), "useGroupedValuesInCharts": False}
    views = {HEADLINES: state | (by_target if grouped else {}), ANSWERS: state}
    return {f"{TAG}{key}": _envelope(NAMES[key], view) for key, view in views.items()}


def _envelope(name: str, state: dict[str, Any]) -> str:
    """As MLflow lists named views; the time of writing would change the tag every time."""
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def _by(param: str) -> dict[str, Any]:
    key = {"mode": "param", "groupByData": param}
    return {"aggregateFunction": "average", "groupByKeys": [key]}


def _section(name: str, display: bool) -> dict[str, Any]:
    return {"uuid": name, "name": name, "display": display, "isReordered": True}


def _card(kind: str, metric: str) -> dict[str, Any]:
    return _chart(kind, metric) | {"metricKey": metric}


def _scatter(across: str, up: str) -> dict[str, Any]:
    axes = {"xaxis": across, "yaxis": up}
    return _chart("SCATTER", "trade-off") | {
        axis: {"key": metric, "type": "METRIC"} for axis, metric in axes.items()
    }


def _chart(kind: str, uuid: str) -> dict[str, Any]:
    return {
        "type": kind, "uuid": uuid, "runsCountToCompare": 100, "isGenerated": False,
        "deleted": False,
    }  # fmt: skip
