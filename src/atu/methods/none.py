"""The original model, unchanged: the row `before` of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atu.methods.base import Method
from atu.untrusted.bounds import STRICT


@dataclass(frozen=True)
class Settings:
    """Nothing to set."""

    __pydantic_config__ = STRICT
    loss: Literal["none"]


METHOD = Method(
    Settings, title="Original", does="is the model before unlearning", processes="first"
)
