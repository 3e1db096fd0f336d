"""How an output is compared with the gold answer of its probe: each probe names its metric."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from atu.metrics.registry import Metric
from atu.probes.prompts import part_of

MEASURES = {
    "exact_match@own-1": "answers",
    "contains@own-1": "answers",
    "rwku_rouge_l_recall@fixed-1": "rwku_recall",
    "tofu_rouge_l_recall@faithful-1": "tofu_recall",
    "muse_knowledge@faithful-2": "muse_knowledge",
}
"""What a probe's `measure` can be, numbers in [0, 1], defined for every output: the metric's id,
and its module in `metrics`. By name, so that a job depends on the measures of its own benchmark
only (`results.sources`), and a benchmark that names one on none."""


@cache
def measure(name: str) -> Metric[[str, str], float]:
    """The metric of this id.

    Raises:
        KeyError: it is none of `MEASURES`.
    """
    module = importlib.import_module(f"atu.metrics.{MEASURES[name]}")
    matching = [m for m in vars(module).values() if isinstance(m, Metric) and m.id == name]
    return matching[0]


def score_output(probe: Mapping[str, Any], output: str) -> float:
    """The output's score in [0, 1] by the probe's measure.

    Raises:
        KeyError: the measure is not in `MEASURES`.
    """
    return measure(probe["measure"])(part_of(output, probe["part"]), probe["answer"])
