"""What forgetting cost, from the metrics and the provenance of folders written by hand."""

import json

import pytest

from atu.reporting.cost import cost_table, flat_cost, seconds, text_table
from atu.results.artifacts import PROVENANCE
from atu.results.costs import COSTS


@pytest.fixture
def folder(store):
    """A function that writes an `unlearn` folder with these costs."""

    def make(method, seed, costs, model="m"):
        cell = {"method": method, "seed": seed, "model": model}
        metrics = {f"unlearn/{name}/all": cost for name, cost in zip(COSTS, costs, strict=True)}
        return store(f"{model}/{method}/{seed}", "unlearn", cell, metrics=metrics)

    return make


def test_means_over_cells(folder):
    """ATU's two seeds took 10 and 20 steps, 4 and 0 of the predictor, 100 and 400 tokens; another
    model's cell is a row of its own."""
    cells = [
        folder("none", 0, (0, 0, 0)), folder("atu", 0, (10, 4, 100)),
        folder("atu", 0, (7, 7, 7), "n"), folder("atu", 1, (20, 0, 400)),
    ]  # fmt: skip
    costs = {"model_steps": 15.0, "predictor_steps": 2.0, "tokens": 250.0}
    assert cost_table(cells, []) == [
        {"model": "m", "method": "none", "cells": 1, "search": None} | dict.fromkeys(COSTS, 0.0),
        {"model": "m", "method": "atu", "cells": 2, "search": None} | costs,
        {"model": "n", "method": "atu", "cells": 1, "search": None} | dict.fromkeys(COSTS, 7.0),
    ]


def test_a_search_stands_beside_its_method(folder):
    """Of its model and of no other."""
    cells = [
        folder("ga", 0, (1, 0, 1)),
        folder("npo", 0, (1, 0, 1)),
        folder("ga", 0, (1, 0, 1), "n"),
    ]
    searched = [
        {"model": model, "method": "ga", "trials": trials, "tokens": 1, "values": {}}
        for model, trials in (("n", 3), ("m", 12))
    ]
    rows = cost_table(cells, searched)
    assert [row["search"] for row in rows] == [searched[1], None, searched[0]]


def test_as_plain_columns():
    """A search's counts and values; the same columns, empty, where nothing was searched."""
    row = {"model": "m", "method": "ga", "cells": 2} | dict.fromkeys(COSTS, 1.0)
    search = {"model": "m", "method": "ga", "trials": 8.0, "values": {"a.b": [1]}}
    search |= {"finals": 4.0, "failed": 1.0} | dict.fromkeys(COSTS, 5.0)
    found = flat_cost(row | {"search": search})
    columns = {"trials": 8.0, "finals": 4.0, "failed": 1.0} | dict.fromkeys(COSTS, 5.0)
    expected = {f"search_{name}": value for name, value in columns.items()}
    assert found == row | expected | {"chosen": '{"a.b": [1]}'}
    assert flat_cost(row | {"search": None}) == row | dict.fromkeys([*expected, "chosen"])


def test_seconds_are_those_of_the_provenance(folder):
    """Summed over jobs; 0 where there were none."""
    cells = [folder("ga", seed, (1, 0, 1)) for seed in (0, 1)]
    for cell, took in zip(cells, (1.5, 2.25), strict=True):
        path = cell.folder / PROVENANCE
        record = json.loads(path.read_text(encoding="utf-8")) | {"seconds": took}
        path.write_text(json.dumps(record), encoding="utf-8")
    assert seconds(cells) == 3.75
    assert seconds([]) == 0


def test_as_text():
    """Rounded; a method that was not searched had no trials."""
    row = {"model": "m", "method": "ga", "cells": 2, "model_steps": 15.4, "predictor_steps": 2.6,
           "tokens": 250.5,
           "search": {"trials": 12.0, "finals": 8.0, "tokens": 5000.0}}  # fmt: skip
    rows = [row, row | {"method": "npo", "search": None}]
    spent = {("m", "ga"): (61.7, 300.2), ("m", "npo"): (9.1, 0)}
    lines = text_table(rows, spent).splitlines()
    assert lines[2:] == [
        "| `ga` | 2 | 15 | 3 | 250 | 62 | 20 | 5000 | 300 |",
        "| `npo` | 2 | 15 | 3 | 250 | 9 | 0 | 0 | 0 |",
    ]
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].split(" | ")[5:] == [
        "seconds",
        "search runs",
        "search tokens",
        "search seconds |",
    ]
