"""Windows: for every LM token, the next k tokens of the sentence encoder.

Two tokenizers split a text differently; character offsets align them. The window of LM
token t starts at the first encoder token that begins at or after the last character of t. It has k
tokens, or at a text's end those that are left, if there are enough. One pass over both token lists
finds all windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atu.seeding import hash_fraction

Offset = tuple[int, int]
Window = tuple[int, ...]
INCOMPLETE = -1
"""In the place of a window's start or number: too few tokens are left for one."""


def window_starts(
    lm_offsets: Sequence[Offset],
    encoder_offsets: Sequence[Offset],
    fewest: int,
    reference_compat: bool = False,
) -> list[int]:
    """Index of the first encoder token of each LM token's window, or `INCOMPLETE`.

    Args:
        lm_offsets: `(start, end)` characters per LM token, in text order. A leading special token
            has (0, 0): its window starts the text.
        encoder_offsets: the same for the encoder's tokens, without special tokens.
        fewest: encoder tokens that must be left for a window.
        reference_compat: as in the reference implementation, a window starts with the encoder token
            that the LM token ends in, so that it may hold text that the model has read.

    Linear in the number of tokens: both lists are walked once. A byte-level token that is part of
    one character carries that character's offsets, so its window starts after the character.
    """
    bounds = [end - 1 if reference_compat else begin for begin, end in encoder_offsets]
    starts = []
    cursor = 0
    for _, end in lm_offsets:
        while cursor < len(bounds) and bounds[cursor] < end:
            cursor += 1
        enough = cursor + fewest <= len(encoder_offsets)
        starts.append(cursor if enough else INCOMPLETE)
    return starts


@dataclass
class WindowTable:
    """Distinct windows in order of first use, so that each is encoded once.

    With a `share` below 1, only so many of the distinct windows are in it. A hash of its tokens
    decides, so that a window is in or out in every text, for every target and model.
    """

    k: int
    """Encoder tokens of a window."""
    fewest: int
    """Those of a window at a text's end, at least; k for whole windows alone."""
    share: float = 1.0

    def __post_init__(self) -> None:
        self._index: dict[Window, int] = {}

    def add(self, encoder_ids: Sequence[int], starts: Sequence[int]) -> list[int]:
        """Window numbers for one text's `starts`; `INCOMPLETE` stays, and stands for a window that
        is left out.
        """
        numbers = []
        for start in starts:
            if start == INCOMPLETE:
                numbers.append(INCOMPLETE)
                continue
            window = tuple(encoder_ids[start : start + self.k])
            numbers.append(self._number(window))
        return numbers

    def _number(self, window: Window) -> int:
        if window in self._index:
            return self._index[window]
        if self.share < 1 and hash_fraction("window", *map(str, window)) >= self.share:
            return INCOMPLETE
        return self._index.setdefault(window, len(self._index))

    @property
    def windows(self) -> list[Window]:
        """The distinct windows, by number."""
        return list(self._index)
