"""Whether a metric can be trusted: does it tell a model that knows from one that never did?

The meta-evaluation of open-unlearning, arXiv 2506.12618. Its other half, robustness, is
`recovery.meta_eval_robustness`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atu.metrics.membership import auc
from atu.metrics.registry import Moves, metric


@metric(
    "faithfulness",
    "own-1",
    source="this project; the AUC of open-unlearning's meta-evaluation, arXiv 2506.12618, in the "
    "direction that the metric declares",
)
def faithfulness(knowing: Sequence[float], ignorant: Sequence[float], knowledge: Moves) -> float:
    """AUC in [0, 1] by which a metric's values tell models that know from those that never did.

    The direction is declared, not the better of the two: below 0.5 the metric says the contrary of
    what it is read as. Knowing (3, 1) and ignorant (2, 1) of a metric that rises with knowledge
    give (2 + 0.5) / 4 = 0.625 (`auc`), of one that falls 0.375.

    Raises:
        EvaluationError: an empty pool or a value that is not finite.
    """
    area = auc(knowing, ignorant)
    return area if knowledge == "rises" else 1 - area


def knows(
    value: float, knowing: Sequence[float], ignorant: Sequence[float], knowledge: Moves
) -> bool:
    """Whether a value is on the knowing side of the threshold that parts the pools best.

    The meta-evaluation leaves out unlearned models of which the metric itself says that they still
    know. Thresholds lie in the middle between two neighbouring values; the best has most models on
    their own side, and is the one of least knowledge among equals. Knowing (3, 1) and ignorant
    (0, 0): 0.5, so 0.6 knows.
    """
    sign = 1 if knowledge == "rises" else -1
    high, low = sign * np.asarray(knowing), sign * np.asarray(ignorant)
    values = np.unique(np.concatenate([high, low]))
    cuts = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    right = [int((high > cut).sum() + (low <= cut).sum()) for cut in cuts]
    return bool(sign * value > cuts[int(np.argmax(right))])
