"""Somebody else's checkpoint in the place of a method: nothing is trained, everything is measured.

The checkpoint must be one of the model of its cell: same tokenizer, same sizes. A LoRA adapter is
merged into that model. With several targets it is measured on each of them, so it should be one
that was made to forget all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atu.methods.base import Method
from atu.results.locks import Source
from atu.untrusted.bounds import STRICT


@dataclass(frozen=True)
class Settings:
    """Where the checkpoint is."""

    __pydantic_config__ = STRICT
    loss: Literal["checkpoint"]
    source: Source


METHOD = Method(
    Settings,
    title="Checkpoint",
    does="is somebody else’s checkpoint, measured as it is",
    given=True,
    processes="first",
)
