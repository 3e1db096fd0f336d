"""Scores of a multiple-choice question from the log-probabilities of its options."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from atu.errors import EvaluationError
from atu.metrics.membership import finite_values
from atu.metrics.registry import OWN, metric


@metric(
    "option_accuracy",
    "own-1",
    source=f"{OWN}; MMLU's accuracy, with the expected score of a guess among equal options",
    knowledge="rises",
)
def option_accuracy(log_probs: ArrayLike, gold: int) -> float:
    """1.0 where the gold option is the likeliest, 1/n where n options share that place, else 0.0.

    `log_probs` [options] in nats, of one question. (-1, -2, -1) gives 0.5, 0 and 0.5 for options
    0, 1 and 2. lm-eval takes the first of equal options and RWKU the first letter, so a model that
    says the same to every question is right where the answer is A; TruthfulQA's MC1 gives a tie 0.

    Raises:
        EvaluationError: no option, a value that is not finite, or no option `gold`.
    """
    options = finite_values(log_probs, "log-probabilities of the options")
    if gold not in range(len(options)):
        raise EvaluationError(f"option {gold} is right, but there are {len(options)} options")
    best = options == options.max()
    return float(best[gold]) / int(np.count_nonzero(best))


@metric(
    "truthfulqa_mc2",
    "faithful-1",
    source="TruthfulQA, arXiv 2109.07958; RWKU, arXiv 2406.10890: eval_truthfulqa.py",
    knowledge="rises",
)
def truthfulqa_mc2(log_probs: ArrayLike, true: Sequence[bool]) -> float:
    """The true options' share in [0, 1] of the probabilities of all options.

    `log_probs` [options] in nats, from which the shares are taken, so that a model under which
    every option is impossible has a score as well. (-1, -1, -1) with two true ones gives 2/3.

    Raises:
        EvaluationError: no option, or a value that is not finite.
        ValueError: more or fewer labels than options.
    """
    options = finite_values(log_probs, "log-probabilities of the options")
    if len(true) != len(options):
        raise ValueError(f"{len(true)} labels for {len(options)} options")
    weights = np.exp(options - options.max())
    return float(weights[np.asarray(true, dtype=bool)].sum() / weights.sum())
