"""The number of a step, for stages in which not all steps are alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from atu.methods.base import Stage, split_steps


class Counter:
    """Counts the steps of one stage, from the number that earlier stages took."""

    def __init__(self, first: int) -> None:
        self.first = self.number = first

    def next(self) -> int:
        """The number of this step, from 0."""
        self.number += 1
        return self.number - 1

    def seek(self, done: int) -> None:
        """Go on after so many steps of the stage: the stage's `seek`."""
        self.number = self.first + done


StepLoss = Callable[[int], tuple[Tensor, dict[str, float]]]
"""The loss of the step with this number."""


def _next_loss(counter: Counter, step_loss: StepLoss) -> tuple[Tensor, dict[str, float]]:
    return step_loss(counter.next())


def counted_stretches(
    settings: Any, parameters: list[nn.Parameter], step_loss: StepLoss
) -> Iterator[Stage]:
    """`stretches` of a loss that gets the number of its step, counted through all of them."""
    done = 0
    for index, steps in enumerate(split_steps(settings.steps, settings.evaluations)):
        counter = Counter(done)
        yield Stage(
            name=f"stretch {index + 1}",
            steps=steps,
            loss=partial(_next_loss, counter, step_loss),
            parameters=parameters,
            learning_rate=settings.learning_rate,
            seek=counter.seek,
        )
        done += steps
