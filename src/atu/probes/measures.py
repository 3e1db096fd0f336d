"""How an output is compared with the gold answer of its probe: each probe names its metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atu.metrics.answers import contains, exact_match
from atu.metrics.memorisation import muse_knowledge, tofu_rouge_l_recall
from atu.metrics.overlap import rwku_rouge_l_recall_fixed
from atu.metrics.registry import Metric
from atu.probes.prompts import part_of

MEASURES: dict[str, Metric[[str, str], float]] = {
    metric.id: metric
    for metric in (
        exact_match,
        contains,
        rwku_rouge_l_recall_fixed,
        tofu_rouge_l_recall,
        muse_knowledge,
    )
}
"""The values of a probe's `measure`: metrics in [0, 1] that are defined for every output."""


def score_output(probe: Mapping[str, Any], output: str) -> float:
    """The output's score in [0, 1] by the probe's measure.

    Raises:
        KeyError: the measure is not in `MEASURES`.
    """
    return MEASURES[probe["measure"]](part_of(output, probe["part"]), probe["answer"])
