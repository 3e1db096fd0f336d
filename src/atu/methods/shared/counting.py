"""The number of a step, for stages in which not all steps are alike."""

from __future__ import annotations


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
