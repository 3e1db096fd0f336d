"""A ruined model: ten thousand nats per token. Every number that is made of them is a number."""

import math

import numpy as np
import pytest

from atu.metrics import membership as mia
from atu.metrics import memorisation as memo
from atu.metrics.bootstrap import clustered_mean, paired_difference
from atu.metrics.options import option_accuracy, truthfulqa_mc2
from atu.metrics.overlap import ort_probability
from atu.metrics.recovery import quantisation_ratio, recovery, relearning_ratio
from atu.metrics.registry import registry
from atu.metrics.selection import CHANCE, LEAKS, RETAIN_LOSS, selection

NATS = 1e4
RUINED = np.array([-NATS, 0.0, -NATS])
RIGHT_AND_WRONG = [(NATS, [NATS, NATS]), (NATS, [0.0, 0.0]), (0.0, [NATS, NATS])]
OF_TOKENS = {
    mia.membership_loss: (RUINED,),
    mia.membership_zlib: (RUINED, "a text"),
    mia.membership_min_k: (RUINED, 0.4),
    mia.membership_min_k_fixed: (RUINED, 0.4),
    mia.membership_min_k_plus_plus: (RUINED, [0.0] * 3, [0.0] * 3, 0.4),
    mia.membership_min_k_plus_plus_faithful: (RUINED, [0.0] * 3, [1e-9] * 3, 1.0),
    mia.membership_gradient_norm: ([NATS, 0.0],),
    mia.membership_reference: (RUINED, [0.0]),
    mia.rwku_familiarity: ([RUINED, RUINED],),
    mia.auc: (RUINED, [0.0, -NATS]),
    memo.tofu_probability: (RUINED,),
    ort_probability: (RUINED,),
    option_accuracy: (RUINED, 1),
    truthfulqa_mc2: (RUINED - NATS, [True, False, False]),
}
OF_LOSSES = [
    memo.tofu_option_probability,
    memo.open_unlearning_option_probability,
    memo.open_unlearning_truth_ratio,
    memo.open_unlearning_tofu_truth_ratio,
    memo.tofu_truth_ratio,
    memo.tofu_truth_ratio_paper,
]
RATIOS = [memo.tofu_truth_ratio, memo.tofu_truth_ratio_paper]
"""Those that are infinite where a right answer is impossible; the numbers of a set are not."""

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("metric", OF_TOKENS, ids=lambda metric: metric.id)
def test_scores_of_tokens(metric):
    assert math.isfinite(metric(*OF_TOKENS[metric]))


@pytest.mark.parametrize("metric", OF_LOSSES, ids=lambda metric: metric.id)
@pytest.mark.parametrize(("right", "wrong"), RIGHT_AND_WRONG)
def test_scores_of_losses(metric, right, wrong):
    found = metric(right, wrong)
    assert found >= 0
    if metric in RATIOS and (right, wrong) == RIGHT_AND_WRONG[1]:
        assert found == math.inf
    else:
        assert math.isfinite(found)


@pytest.mark.parametrize("ratio", RATIOS, ids=lambda metric: metric.id)
def test_scores_of_sets(ratio):
    """Of ratios 1, infinite and 0: their inverses and 1 minus them are in [0, 1]."""
    ratios = [ratio(*pair) for pair in RIGHT_AND_WRONG]
    assert memo.tofu_forget_truth_ratio(ratios) == pytest.approx(1 / 3)
    assert memo.tofu_retain_truth_ratio(ratios) == pytest.approx(1 / 3)
    assert memo.tofu_forget_quality(ratios, ratios[::-1]) == pytest.approx(0.0, abs=1e-9)


def test_whether_anything_was_kept():
    point = dict.fromkeys((*LEAKS, *CHANCE), 0.0)
    assert selection(point | {RETAIN_LOSS: NATS}, {RETAIN_LOSS: 0.0}) == 0.0
    assert selection(point | {RETAIN_LOSS: 0.0}, {RETAIN_LOSS: NATS}) == 1.0


def test_recovered_losses():
    assert recovery(NATS, -NATS, NATS) == 1.0
    assert relearning_ratio(0.0, NATS, NATS, 0.0) == 0.0
    assert quantisation_ratio(NATS, NATS) == 1.0


def test_means_of_losses():
    rng = np.random.default_rng(0)
    found = clustered_mean(RUINED.tolist(), ["a", "b", "c"], rng, 20, 0.95)
    assert found.valid and math.isfinite(found.low)
    found = paired_difference(RUINED.tolist(), [0.0] * 3, ["a", "b", "c"], rng, 20, 0.95)
    assert found.mean == pytest.approx(-2 * NATS / 3)


def test_every_metric_of_log_probabilities_and_losses_is_here():
    """A new one, found by the names of its arguments, must be added above."""
    named = {"log_probs", "paraphrased_loss", "correct_loss", "norms", "log_probs_of_texts"}
    found = {
        metric.id
        for metric in registry().values()
        if named & set(metric.function.__code__.co_varnames[: metric.function.__code__.co_argcount])
    }
    assert found <= {metric.id for metric in (*OF_TOKENS, *OF_LOSSES)}
    assert len(found) > 10
