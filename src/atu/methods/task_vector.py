"""Task vectors: what further training on the forget corpus adds to the weights is subtracted
(Ilharco et al. 2022, arXiv 2212.04089, "forgetting via negation"; as unlearning of a corpus in
MUSE, Shi et al. 2024, arXiv 2407.06460).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor

from atu.methods.base import Context, Method, MethodSettings, Stage, done
from atu.methods.shared.reinforced import reinforce, reinforced_copy
from atu.models.trainable import Lora
from atu.untrusted.bounds import Bounds


@dataclass(frozen=True)
class Settings(MethodSettings):
    """`steps` and `learning_rate` are those of the reinforced copy."""

    loss: Literal["task_vector"]
    alphas: list[Annotated[float, Bounds(ge=0)]]
    """Rising multiples of the task vector, each measured from the original weights and each a point
    of the trajectory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alphas or any(a >= b for a, b in pairwise(self.alphas)):
            raise ValueError(f"alphas must be a list that rises strictly, not {self.alphas}")
        if self.retain.weights():
            raise ValueError(
                "a task vector is no loss: nothing is added to it; give `retain` no weight"
            )
        if isinstance(self.train, Lora):
            raise ValueError("task vectors are differences of weights; train.update: not lora")


def negated(original: Sequence[Tensor], reinforced: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """`original - alpha (reinforced - original)`, weight by weight; shapes as given.

    Original 1, reinforced 1.5: .5 at alpha 1, 0 at alpha 2, and 1 at alpha 0.
    """
    return [o - alpha * (r - o) for o, r in zip(original, reinforced, strict=True)]


def stages(context: Context) -> Iterator[Stage]:
    """The copy's training, then a point for every alpha."""
    settings = context.settings
    copied, parameters = reinforced_copy(context)
    yield reinforce(context, copied, parameters, settings.steps, settings.learning_rate)
    original = [p.detach().clone() for p in context.parameters]
    for alpha in settings.alphas:
        with torch.no_grad():
            for p, value in zip(
                context.parameters, negated(original, parameters, alpha), strict=True
            ):
                p.copy_(value)
        yield replace(done(f"alpha {alpha:g}"), facts={"alpha": alpha})


METHOD = Method(
    Settings,
    title="Task vector",
    does="subtracts what fine-tuning on the target adds",
    source="2212.04089",
    stages=stages,
    copies=1,
    processes="all",
    points=lambda settings, _compat: len(settings.alphas),
)
