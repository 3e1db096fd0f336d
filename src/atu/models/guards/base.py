"""Guards: they change what a model does and leave its weights as they are.

A guard is the submodule `guard` of a loaded model and works through forward hooks. It is saved
beside the model, as `guard.json` and `guard.safetensors`; the model's files do not contain it.
Hooks are bound methods of the guard, so that a copy of the model has a copy of the guard. A guard
is not trained with the model.

Each kind of guard has a module of its own beside this one.

A guard keeps its state on the KV cache, so it can continue only a cache that was filled with it.
Beam search, which reorders caches, is not supported.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from safetensors.torch import save_model
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atu.models.compute import device_of
from atu.results.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "guard"
SETTINGS_FILE, WEIGHTS_FILE = "guard.json", "guard.safetensors"
SEEN = "atu_guard"
"""The attribute of a cache that holds the guard's state at its tokens."""

FOREIGN_CACHE = "this cache was filled without the guard: run the prompt again"


class Guard(nn.Module):
    """Base of all guards: made from `settings`; its tensors are its state dict."""

    kind: ClassVar[str]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = dict(settings)
        self._handles: list[RemovableHandle] = []

    def _hook(self, model: PreTrainedModel) -> list[RemovableHandle]:
        raise NotImplementedError

    def attach(self, model: PreTrainedModel) -> None:
        """Put the guard on `model`.

        Raises:
            ValueError: it has a guard already.
        """
        if guard_of(model) is not None:
            raise ValueError(f"the model has a guard already: {guard_of(model)}")
        self.requires_grad_(False).eval().to(device_of(model))
        model.add_module(NAME, self)
        self._handles = self._hook(model)

    def detach(self, model: PreTrainedModel) -> None:
        """Remove the guard from `model`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        delattr(model, NAME)

    def train(self, mode: bool = True) -> Guard:
        """A guard stays in eval mode, whatever its model's mode."""
        return super().train(False)

    def save(self, folder: Path) -> None:
        """Write `guard.json` and `guard.safetensors`."""
        write_json(folder / SETTINGS_FILE, {"kind": self.kind, "settings": self.settings})
        save_model(self, str(folder / WEIGHTS_FILE))


def guard_of(model: nn.Module) -> Guard | None:
    """The model's guard, if it has one."""
    return getattr(model, NAME, None)


@contextlib.contextmanager
def unguarded(model: PreTrainedModel) -> Iterator[Guard | None]:
    """Yields the guard, detached from the model; attaches it again on leaving."""
    guard = guard_of(model)
    if guard is None:
        yield None
        return
    guard.detach(model)
    try:
        yield guard
    finally:
        guard.attach(model)


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name, positional ones too."""
    return dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs


def ids_of(values: Mapping[str, Any]) -> Tensor:
    """The token ids of a call.

    Raises:
        ValueError: it has none.
    """
    ids = values.get("input_ids")
    if ids is None:
        raise ValueError("a guarded model reads token ids, not embeddings")
    return ids


def cached_length(cache: Any) -> int:
    """How many tokens a cache holds, 0 without one."""
    return 0 if cache is None else int(cache.get_seq_length())
