"""How much forgotten knowledge comes back: by fine-tuning, by quantisation or by context.

Every score here is knowledge about the target (higher means more of it), of one model on the same
items; the mean of held-out items for relearning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atu.metrics.registry import OWN, metric

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


@metric("lasting_selection", "own-2", source=OWN)
def lasting_selection(selection: float, relearned: float, never_known: float) -> float:
    """Harmonic mean of `selection`'s five parts and, as a sixth, what does not return, in [0, 1].

    What returns: facts about the target that are answered after others were taught, beyond
    those that the same fine-tune finds of a person whom no model saw (`select` questions of both).
    A search may read it in place of `selection`, which sees what a model says and nothing of what
    it hides. 0 if either is 0.

    It weighs as much as plain questions, or as the worst form. In own-1 it weighed as much as all
    five together: one fact of eleven that came back cost as much as two thirds of the neighbours.

    Selection .95, .5 relearned and .1 of what was never known: 1 - .4 = .6, so
    6 / (5 / .95 + 1 / .6) = .87; nothing beyond the never known: 6 / (5 / .95 + 1) = .96.
    """
    gone = 1 - max(relearned - never_known, 0.0)
    return 6 / (5 / selection + 1 / gone) if selection and gone else 0.0


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
    """Q in [0, 1]: score of the unquantised model over the quantised one's; 1 where that is 0.

    Below 1 rounding brought something back: 0.25 to 0.5 gives 0.5.
    """
    if abs(after) < ZERO:
        return 1.0
    return max(0.0, min(before / after, 1.0))


@metric(
    "meta_eval_robustness",
    "paper-1",
    source="open-unlearning's meta-evaluation, arXiv 2506.12618: robustness to relearning, to "
    "quantisation, and their harmonic mean",
    defect="nothing is taken off where an attack lowers the score; a model that relearning does "
    "not move is left out of R but not of Q",
)
def meta_eval_robustness(
    relearning: Sequence[float | None], quantisation: Sequence[float]
) -> float | None:
    """Harmonic mean in (0, 1] of a metric's robustness to relearning (R) and quantisation (Q).

    R = min(change of the retain-only model / change of the unlearned model, 1) and
    Q = min(before / quantised, 1), neither below 0, each averaged over unlearned models first.

    gnueaj/unlearning-depth-score inverts Q (scripts/meta_eval_robustness.py of commit 02de437),
    which then falls where rounding harms and stays 1 where knowledge returns.

    Args:
        relearning: per unlearned model its `relearning_ratio`.
        quantisation: per unlearned model its `quantisation_ratio`.

    No R at all, no Q, or a mean R or Q of 0 gives None: there is no harmonic mean. R (0.5, None)
    and Q (1, 0.5): 2 * 0.5 * 0.75 / 1.25 = 0.6.
    """
    r, q = mean_ratio(relearning), mean_ratio(quantisation)
    return 2 * r * q / (r + q) if r and q else None


def mean_ratio(ratios: Sequence[float | None]) -> float | None:
    """The mean of those that are defined; None if none is."""
    defined = [ratio for ratio in ratios if ratio is not None]
    return float(np.mean(defined)) if defined else None


@metric(
    "context_leak",
    "own-1",
    source="this project, after in-context UnUnlearning, 2407.00106",
    knowledge="rises",
)
def context_leak(with_context: float, with_unrelated: float) -> float:
    """What a passage on the target brings back, in the unit of the scores: A - C.

    A: the target's questions asked after a passage about it whose answers and aliases are removed,
    so that reading alone cannot answer. C: asked after an unrelated passage of the same kind.

    0.35 with the passage and 0.1 with the unrelated one: 0.25.
    """
    return with_context - with_unrelated
