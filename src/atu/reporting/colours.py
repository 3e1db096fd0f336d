"""One colour per method, the same in every list and chart."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

from atu.config.roles import ORACLE, ORIGINAL, REFERENCES, SECOND_ORACLE

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which people with any colour vision tell apart, without yellow and black."""
REFERENCE_COLOURS = {ORIGINAL: "#333333", ORACLE: "#999999", SECOND_ORACLE: "#bbbbbb"}


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """By key of the grid, in its order; with more methods than colours some share one."""
    plain = [method for method in dict.fromkeys(methods) if method not in REFERENCES]
    return dict(zip(plain, cycle(COLOURS), strict=False)) | REFERENCE_COLOURS
