"""The number of a step, for stages in which not all steps are alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from atu.methods.base import Stage, split_steps

StepLoss = Callable[[int], tuple[Tensor, dict[str, float]]]
"""The loss of the step with this number, from 0."""


class CountedLoss:
    """The loss of one stage, whose steps are counted from the number that earlier stages took."""

    def __init__(self, step_loss: StepLoss, first: int) -> None:
        self.step_loss, self.first, self.number = step_loss, first, first

    def __call__(self) -> tuple[Tensor, dict[str, float]]:
        """The loss of the next step."""
        self.number += 1
        return self.step_loss(self.number - 1)

    def seek(self, done: int) -> None:
        """Go on after so many steps of the stage: the stage's `seek`."""
        self.number = self.first + done


def counted_stretches(
    settings: Any, parameters: list[nn.Parameter], step_loss: StepLoss
) -> Iterator[Stage]:
    """`stretches` of a loss that gets the number of its step, counted through all of them."""
    done = 0
    for index, steps in enumerate(split_steps(settings.steps, settings.evaluations)):
        loss = CountedLoss(step_loss, done)
        yield Stage(
            name=f"stretch {index + 1}",
            steps=steps,
            loss=loss,
            parameters=parameters,
            learning_rate=settings.learning_rate,
            seek=loss.seek,
        )
        done += steps
