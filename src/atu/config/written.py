"""Parameter files that commands write, and whether somebody has edited one since."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atu.config.load import load_params
from atu.config.overlays import BASE, KEEP, MAX_BYTES, base_file, merged, read_layers
from atu.config.params import Params
from atu.config.spaces import chosen_values, nested
from atu.errors import ConfigError
from atu.results.artifacts import Artifact
from atu.results.files import write_whole
from atu.untrusted.texts import read_text

EXPERIMENTS = Path("experiments")
MAX_INLINE = 80
"""Characters of a mapping that is written in one line."""
_HEAD = (
    "# Written by `{command}`; an edit is kept. `atu check` checks an edit; every key is\n"
    "# described in workflow/schemas/params.schema.json. The sha256 of what follows, as written:\n"
    "# {digest}\n\n"
)
_WRITTEN = re.compile(
    re.escape(_HEAD).replace(r"\{command\}", "(.+)").replace(r"\{digest\}", r"(\w+)")
)


@dataclass(frozen=True)
class Origin:
    """Where a parameter file comes from."""

    command: str
    edited: bool


def params_text(values: dict[str, Any], command: str) -> str:
    """A whole parameter file, with the command that writes it."""
    body = yaml_text(values)
    return _HEAD.format(command=command, digest=_digest(body)) + body


def yaml_text(values: dict[str, Any]) -> str:
    """Sections in the order given, a line for each key, what is short in one line."""
    import yaml

    representer = yaml.representer.SafeRepresenter(sort_keys=False)
    representer.ignore_aliases = lambda data: True  # type: ignore[method-assign]
    root: Any = representer.represent_data(values)
    _arrange(root)
    for node in (root, *(section for _, section in root.value)):
        node.flow_style = False
    body = yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=100)
    return re.sub(r"\n(?=\w)", "\n\n", body)  # between sections


def _arrange(node: Any) -> int:
    """Put lists of scalars, and whatever is short, in one line; the node's length there."""
    if node.id == "scalar":
        return len(node.value) + 2
    parts = [*node.value] if node.id == "sequence" else [p for pair in node.value for p in pair]
    length = sum(map(_arrange, parts))
    plain = node.id == "sequence" and all(part.id == "scalar" for part in parts)
    node.flow_style = plain or length <= MAX_INLINE
    return length


def origin(path: Path) -> Origin | None:
    """Where a parameter file comes from; None where no command wrote it."""
    try:
        text = read_text(path, MAX_BYTES)
    except (OSError, ValueError):
        return None
    match = _WRITTEN.match(text)
    return None if match is None else Origin(match[1], match[2] != _digest(text[match.end() :]))


def write_experiment(name: str, path: Path) -> Path:
    """Write an experiment, whole, as the parameter file; the experiment's file comes back.

    Raises:
        ConfigError: there is no such experiment, it is not in order, or the parameter file holds
            somebody's edits.
    """
    source = base_file(EXPERIMENTS, "NAME", name)
    load_params(source)
    here = origin(path) if path.exists() else Origin("", edited=False)
    if here is None or here.edited:
        raise ConfigError(
            "--params", str(path), "holds edits, which would be lost; keep them as an experiment "
            f"(mv {path} {EXPERIMENTS}/...) or delete the file, then run this again",
        )  # fmt: skip
    text = params_text(merged(read_layers(source)), f"make experiment NAME={name}")
    write_whole(path, text)
    return source


def chosen_overlay(params: Params, searches: Sequence[Artifact]) -> dict[str, Any]:
    """What finished searches chose, as an overlay of the experiment that searched: the next machine
    runs its grid without them. A method without a finished search stays searched.

    Raises:
        ConfigError: nothing is finished, or it was searched on several models, which choose each
            for itself.
    """
    models = {search.cell["model"] for search in searches}
    if len(models) != 1:
        raise ConfigError(
            "--results", sorted(models), "must hold finished searches of one model, not of "
            f"{len(models)}; run `snakemake search` with one in grid.models",
        )  # fmt: skip
    chosen = {search.cell["method"]: chosen_values(search) for search in searches}
    replaced: dict[str, list[str]] = {
        f"unlearn.methods.{method}.{key}": []
        for method, values in chosen.items()
        for key, value in values.items()
        if isinstance(value, Mapping)
    }
    open_still = [method for method in params.search.spaces if method not in chosen]
    name = f"{params.experiment}_chosen"
    return {
        "experiment": name,
        BASE: params.experiment,
        KEEP: {"search.spaces": open_still} | replaced,
        "unlearn": {"methods": {method: nested(values) for method, values in chosen.items()}},
        "track": {"experiment": name},
    }


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8")).hexdigest()
