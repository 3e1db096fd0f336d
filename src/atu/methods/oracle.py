"""Exact unlearning: the model retrained without the target, the ground truth of forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atu.methods.base import Method
from atu.untrusted.bounds import STRICT


@dataclass(frozen=True)
class Settings:
    """Nothing to set: the phase `pretrain` trained this model."""

    __pydantic_config__ = STRICT
    loss: Literal["oracle"]


METHOD = Method(
    Settings,
    title="Oracle",
    does="is trained in the same way, but never on the target",
    start="oracle",
    processes="first",
)
