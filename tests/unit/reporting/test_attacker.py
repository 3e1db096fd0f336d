"""What an attacker sees, from made rows of the robustness and the privacy table."""

import pytest

from atu.metrics.bootstrap import Estimate
from atu.reporting.attacker import (
    MEMBERSHIP,
    PRIV_LEAK,
    attacker_columns,
    attacker_table,
    markdown_attacker,
)

NOBODY = Estimate(0.0, 0.0, 0.0, 0, 0)


def at(value):
    return Estimate(value, value, value, 4)


@pytest.fixture
def section(make_params):
    return make_params("lens").attack


def rows(values, **more):
    """A row of two methods with these numbers by column, GA's half of them."""
    return [
        {"model": "m", "method": method} | {k: at(v / share) for k, v in values.items()} | more
        for method, share in (("oracle", 1), ("ga", 2))
    ]


def test_what_was_measured_stands_side_by_side(section):
    robust = rows({"partner": 1.0, "lens.0": 0.5, "lens.1": 0.75, "question": 0.25})
    privacy = rows({MEMBERSHIP: 0.5, PRIV_LEAK: 4.0})
    columns = attacker_columns(robust, privacy, section, ["sampling", "lens"])
    assert columns == {
        "partner": "the retain question beside the target's",
        "lens.0": "logit lens, top 4 per layer",
        MEMBERSHIP: "membership AUC, loss",
        PRIV_LEAK: "PrivLeak, %",
    }
    found = attacker_table(robust, privacy, columns)
    assert [[row["method"], *(row[key].mean for key in columns)] for row in found] == [
        ["oracle", 1.0, 0.5, 0.5, 4.0], ["ga", 0.5, 0.25, 0.25, 2.0],
    ]  # fmt: skip
    assert markdown_attacker(found, columns, {}).splitlines()[2:] == [
        "| oracle | 1.00 | 0.50 | 0.50 | 4.00 |", "| ga | 0.50 | 0.25 | 0.25 | 2.00 |",
    ]  # fmt: skip


def test_what_was_not_measured_is_no_column(section):
    """No pairs, no lens in the grid, no text held out: no table."""
    robust, privacy = rows({}, partner=NOBODY), rows({})
    assert attacker_columns(robust, privacy, section, ["sampling"]) == {}
    assert markdown_attacker(attacker_table(robust, privacy, {}), {}, {}) == ""
    privacy = rows({MEMBERSHIP: 0.5})
    assert list(attacker_columns(robust, privacy, section, [])) == [MEMBERSHIP]
