"""Guards: one module each, found by the name that stands in a model's folder.

A guard module defines `GUARD`, a `Guard` whose `kind` is the module's name. A model is loaded with
the guard that is saved beside it, so only phases that read unlearned models depend on guards, and
only on that of their method (`results.sources`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from safetensors.torch import load_model

from atu.errors import ArtifactError
from atu.models.guards.base import SETTINGS_FILE, WEIGHTS_FILE, Guard
from atu.plugins import Plugins
from atu.results.files import read_json


@cache
def registry() -> Plugins[type[Guard]]:
    """All guards by kind, in alphabetical order."""
    return Plugins(__name__, __path__, "GUARD")


def load_guard(folder: Path) -> Guard | None:
    """The guard saved in this folder, if there is one.

    Raises:
        ArtifactError: its kind is unknown, or its files are damaged.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or set(content) != {"kind", "settings"}:
        raise ArtifactError(f"{path}: must hold `kind` and `settings`")
    kinds = list(registry())
    if content["kind"] not in kinds:
        raise ArtifactError(
            f"{path}: unknown kind of guard {content['kind']!r}, not one of {kinds}; "
            "load it with the version that wrote it"
        )
    guard = registry()[content["kind"]](content["settings"])
    load_model(guard, str(folder / WEIGHTS_FILE))
    return guard
