"""Checkpoints that somebody else made: those of `loss: checkpoint`, and oracles that were
published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from atu import methods
from atu.config.params import Params, oracle_method
from atu.config.sections import Pinned
from atu.errors import AtuError, ConfigError
from atu.models.checkpoint import require_checkpoint_of
from atu.models.pinned import locate
from atu.results.locks import Lock, Source


@dataclass(frozen=True)
class Given:
    """A checkpoint, and where the parameters name it."""

    key: str
    source: Source
    models: list[str]
    """The models of the grid of which it must be a checkpoint."""
    code: list[str]
    """Those whose code may run."""


def given_checkpoints(params: Params) -> Iterator[Given]:
    """Every checkpoint that the grid reads."""
    allowed = [name for name in params.grid.models if name in params.compute.remote_code]
    for name in params.grid.methods:
        settings = params.unlearn.methods[name]
        if methods.get(settings.loss).given:
            key = f"unlearn.methods.{name}.source"
            yield Given(key, settings.source, params.grid.models, allowed)
    for model in params.grid.models if oracle_method(params) is not None else ():
        oracles = getattr(params.pretrain.models[model], "oracles", {})
        for target in params.grid.requests():
            if target.label in oracles:
                key = f"pretrain.models.{model}.oracles.{target.label}"
                code = [model] if model in allowed else []
                yield Given(key, oracles[target.label], [model], code)


def check_given(params: Params) -> None:
    """Refuse a checkpoint that is none of the model whose cell it stands in. A model that is built
    here has no files yet: there the job compares.

    Raises:
        ConfigError: names the key, what differs, and the repair.
    """
    for given in given_checkpoints(params):
        try:
            folder = locate(given.source, Lock.of(given.source).revision)
            for name in given.models:
                spec = params.pretrain.models[name]
                if isinstance(spec, Pinned):
                    original = locate(spec.source, Lock.of(spec.source).revision)
                    require_checkpoint_of(folder, original, name in given.code)
        except ConfigError:
            raise
        except AtuError as error:
            raise ConfigError(given.key, str(given.source), str(error)) from None
