"""Align-then-Unlearn as a reproducible research pipeline; and what a notebook needs of it.

`docs/notebook.md` shows the names below. Each is imported when it is first used, so that
`import atu` itself takes no time.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # that of `typing` would double the time of this import
if TYPE_CHECKING:
    from typing import Any

    from atu.config.load import load_params
    from atu.config.models import load_model
    from atu.errors import AtuError
    from atu.forget.unlearn import UnlearnedModel, unlearn
    from atu.inference.asking import ask
    from atu.inference.generation import Sampling
    from atu.models.loaded import LoadedModel
    from atu.reporting.frames import results

__all__ = [
    "AtuError",
    "LoadedModel",
    "Sampling",
    "UnlearnedModel",
    "ask",
    "load_model",
    "load_params",
    "results",
    "unlearn",
]

_MODULES = {
    "AtuError": "atu.errors",
    "LoadedModel": "atu.models.loaded",
    "Sampling": "atu.inference.generation",
    "UnlearnedModel": "atu.forget.unlearn",
    "ask": "atu.inference.asking",
    "load_model": "atu.config.models",
    "load_params": "atu.config.load",
    "unlearn": "atu.forget.unlearn",
}
"""Where each name is defined; `results` is a package too, which can be called."""


def __getattr__(name: str) -> Any:
    """A name of `_MODULES`, imported now (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)


class _Results(ModuleType):
    """The package `atu.results`, which a notebook calls: the import of one of its modules would
    take a function of that name away again.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from atu.reporting.frames import results

        return results(*args, **kwargs)


import_module("atu.results").__class__ = _Results
