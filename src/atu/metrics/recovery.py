"""How much forgotten knowledge comes back: by fine-tuning, by quantisation or by context.

Every score here is knowledge about the target (higher means more of it), of one model on the same
items; the mean of held-out items for relearning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atu.metrics.registry import metric

OWN = "this project"
ZERO = 1e-8
"""Numbers below this are zero in the official meta-evaluation."""


@metric("recovery", "own-1", source=OWN)
def recovery(before: float, unlearned: float, after: float) -> float | None:
    """Share of the forgotten score that came back: (after - unlearned) / (before - unlearned).

    0 if nothing came back, 1 if everything did; below 0 or above 1 if the attack itself harms or
    teaches. None if before <= unlearned: nothing was forgotten, so nothing can be recovered.

    Args:
        before: score of the original model.
        unlearned: score after unlearning.
        after: score after unlearning and then the attack.

    0.9 before, 0.1 unlearned, 0.5 after: 0.4 / 0.8 = 0.5.
    """
    if before <= unlearned:
        return None
    return (after - unlearned) / (before - unlearned)


@metric("relearning_gain", "own-1", source=OWN)
def relearning_gain(
    unlearned: float, after: float, control_before: float, control_after: float
) -> float:
    """What fine-tuning brings back beyond plain learning, in the unit of the scores.

    (after - unlearned) - (control_after - control_before): the control is a target that the model
    never knew, scored before and after the same fine-tuning. Above 0, knowledge was only hidden.

    0.1 to 0.5 on the target and 0.0 to 0.1 on the control: 0.4 - 0.1 = 0.3.
    """
    return (after - unlearned) - (control_after - control_before)


@metric("relearning_steps", "own-1", source=OWN)
def relearning_steps(steps: Sequence[int]) -> float:
    """Mean number of steps until what a fine-tune teaches is answered, over fine-tunes.

    One that never gets there counts with all its steps, so the mean is then too low. Target and
    control are compared: what only was hidden is back in fewer steps than what was never known.

    10, 20 and 60 steps: 30.

    Raises:
        ValueError: no fine-tune.
    """
    if not steps:
        raise ValueError("no fine-tune whose steps could be averaged")
    return sum(steps) / len(steps)


def relearning_ratio(
    retain_before: float, retain_after: float, before: float, after: float
) -> float | None:
    """R in [0, 1]: how much a retain-only model moved when relearning, over the unlearned one.

    Near 1 the unlearned model learns the forget set as if for the first time. None where the
    unlearned model does not move (less than 1e-8): the official code leaves such models out.
    """
    moved = before - after
    if abs(moved) < ZERO:
        return None
    return max(0.0, min((retain_before - retain_after) / moved, 1.0))


def quantisation_ratio(before: float, after: float) -> float:
    """Q in [0, 1]: score of the quantised model over the unquantised one's; 1 where that is 0."""
    if abs(before) < ZERO:
        return 1.0
    return max(0.0, min(after / before, 1.0))


@metric(
    "meta_eval_robustness",
    "faithful-1",
    source="open-unlearning's meta-evaluation, arXiv 2506.12618, as gnueaj/unlearning-depth-score "
    "computes it: scripts/meta_eval_robustness.py of commit 02de437",
    defect="Q falls where the quantised model scores lower and stays 1 where knowledge returns; "
    "a model that relearning does not move is left out of R but not of Q",
)
def meta_eval_robustness(
    retain_before: float,
    retain_relearned: float,
    before: Sequence[float],
    relearned: Sequence[float],
    quantised: Sequence[float],
) -> float | None:
    """Harmonic mean in (0, 1] of a metric's robustness to relearning (R) and quantisation (Q).

    R = min(change of the retain-only model / change of the unlearned model, 1) and
    Q = min(quantised / before, 1), neither below 0, each averaged over unlearned models first.

    Args:
        retain_before, retain_relearned: the retain-only model before and after relearning.
        before, relearned, quantised: one score per unlearned model, in the same order. The
            official protocol leaves out models below 0.8 of the full model's utility.

    Division by zero: a model whose score relearning does not change has no R; a model that scores
    0 before has Q = 1; no R at all, or a mean R or Q of 0, gives None (no harmonic mean).

    Retain 0.1 to 0.3; one model 0.2 to 0.6, and 0.15 when quantised: R = 0.2 / 0.4 = 0.5,
    Q = 0.15 / 0.2 = 0.75, so 2 * 0.375 / 1.25 = 0.6.

    Raises:
        ValueError: no models, or a model without a score of each kind.
    """
    if not 0 < len(before) == len(relearned) == len(quantised):
        raise ValueError(
            f"{len(before)} models before, {len(relearned)} relearned, {len(quantised)} quantised"
        )
    ratios = [
        relearning_ratio(retain_before, retain_relearned, *pair)
        for pair in zip(before, relearned, strict=True)
    ]
    moved = [ratio for ratio in ratios if ratio is not None]
    r = float(np.mean(moved)) if moved else 0.0
    q = float(np.mean([quantisation_ratio(*pair) for pair in zip(before, quantised, strict=True)]))
    return 2 * r * q / (r + q) if r > 0 and q > 0 else None


@metric("context_leak", "own-1", source="this project, after in-context UnUnlearning, 2407.00106")
def context_leak(with_context: float, with_unrelated: float) -> float:
    """What a passage on the target brings back, in the unit of the scores: A - C.

    A: the target's questions asked after a passage about it whose answers and aliases are removed,
    so that reading alone cannot answer. C: asked after an unrelated passage of the same kind.

    0.35 with the passage and 0.1 with the unrelated one: 0.25.
    """
    return with_context - with_unrelated
