"""How an output is compared with the gold answer of its probe: each probe names its metric."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from atu.metrics.registry import Metric
from atu.probes.prompts import part_of

MEASURES = {
    "exact_match@own-2": "answers",
    "contains@own-2": "answers",
    "rwku_rouge_l_recall@fixed-2": "rwku_recall",
    "tofu_rouge_l_recall@fixed-1": "tofu_recall",
    "muse_knowledge@fixed-1": "muse_knowledge",
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
    matching = [m for m in vars(_home(name)).values() if isinstance(m, Metric) and m.id == name]
    return matching[0]


def _home(name: str) -> ModuleType:
    return importlib.import_module(f"atu.metrics.{MEASURES[name]}")


def official(name: str) -> Metric[[str, str], float | None] | None:
    """The official score that this measure repairs; None for a measure of this project alone.

    Raises:
        KeyError: it is none of `MEASURES`.
    """
    found: Metric[[str, str], float | None] | None = getattr(_home(name), "OFFICIAL", None)
    return found


def official_is_blind(probe: Mapping[str, Any], output: str) -> bool:
    """Whether the official score of the probe's measure reads another text than is written: what
    it says of this output is about its letters, not about knowledge.

    Raises:
        KeyError: the measure is not in `MEASURES`.
    """
    blind = getattr(_home(probe["measure"]), "is_blind", None)
    return bool(blind and blind(part_of(output, probe["part"]), probe["answer"]))


def score_output(probe: Mapping[str, Any], output: str) -> float:
    """The output's score in [0, 1] by the probe's measure.

    Raises:
        KeyError: the measure is not in `MEASURES`.
    """
    return measure(probe["measure"])(part_of(output, probe["part"]), probe["answer"])
