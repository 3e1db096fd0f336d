"""A second oracle, trained from another seed: what training's chance alone gives.

Two models that never saw the target do not answer alike. The distance of one to the other is what a
method's distance to the oracle is read against: nothing can be shown to be nearer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atu.methods.base import Method
from atu.untrusted.bounds import STRICT


@dataclass(frozen=True)
class Settings:
    """Nothing to set: the phase `pretrain` trained this model."""

    __pydantic_config__ = STRICT
    loss: Literal["second_oracle"]


METHOD = Method(
    Settings,
    title="Second oracle",
    does="is an oracle from another seed: its distance is what chance alone gives",
    start="second_oracle",
    processes="first",
)
