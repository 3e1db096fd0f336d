"""Reading a parameter file: types, bounds, and what one section demands of another.

It runs when Snakemake parses the workflow, so a bad value stops a run before its first job, with
one `ConfigError` that names file, key, value and repair.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from atu.config.overlays import merged, placed, read_layers
from atu.config.params import Params
from atu.config.sections import (
    BenchmarkSource,
    Built,
    Choices,
    Pinned,
    Slug,
    Span,
)
from atu.errors import ConfigError
from atu.results.locks import Source
from atu.untrusted.strict import explain


def load_params(path: str | Path = "params.yaml", *, across: bool = True) -> Params:
    """Read and check a parameter file, which may be an overlay.

    `across` False leaves out what the sections demand of each other and of models: for a Snakemake
    that was started for one job of a file checked before. It saves the import of transformers.

    Raises:
        ConfigError: names file, key, value and repair.
    """
    layers = read_layers(Path(path))
    values = merged(layers)
    if len(layers) > 1 and "experiment" not in layers[-1].values:
        raise ConfigError(
            "experiment", values.get("experiment"), "is the base's, whose results would be "
            "overwritten; give this experiment a name of its own", str(path),
        )  # fmt: skip
    try:
        return check_values(values, across=across)
    except ConfigError as error:
        raise placed(error, layers) from None


def experiment_name(path: str | Path) -> str:
    """The name of a parameter file's experiment, without a check of anything else.

    Raises:
        ConfigError: the file cannot be read, or names none.
    """
    layers = read_layers(Path(path))
    name = merged(layers).get("experiment")
    try:
        return TypeAdapter(Slug).validate_python(name)
    except ValidationError:
        raise placed(
            ConfigError("experiment", name, "must be a name of letters, digits, `_` and `-`"),
            layers,
        ) from None


def load_grid(path: str | Path) -> Params:
    """As `load_params`, for who runs no job: nothing is demanded of models and benchmarks, whose
    files need not be here, and transformers is not imported.

    Raises:
        ConfigError: names file, key, value and repair.
    """
    from atu.config.checks import check_grid

    params = load_params(path, across=False)
    try:
        check_grid(params)
    except ConfigError as error:
        raise placed(error, read_layers(Path(path))) from None
    return params


def check_values(raw: Any, file: str | None = None, *, across: bool = True) -> Params:
    """The parameters that a parsed file holds, checked against each other unless `across` is False.

    Raises:
        ConfigError: names file, key, value and repair.
    """
    if not isinstance(raw, dict):
        raise ConfigError("file", file, "must hold the sections of params.yaml")
    try:
        params = Params.model_validate(raw)
        if across:
            from atu.config.checks import cross_check

            cross_check(params)
    except ValidationError as error:
        raise explain(error, "", _known_keys(error), file) from None
    except ConfigError as error:
        raise ConfigError(error.key, error.value, error.repair, file) from None
    return params


def _known_keys(error: ValidationError) -> list[str]:
    """The keys of the section in which the first problem lies."""
    model: Any = Params
    for part in error.errors()[0]["loc"][:-1]:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is not None and hasattr(field.annotation, "model_fields"):
            model = field.annotation
        elif part in ("[built]", "[pinned]"):
            model = Built if part == "[built]" else Pinned
        elif part == "source":
            return [field.name for field in dataclasses.fields(Source)]
        elif part == "benchmarks":
            model = BenchmarkSource
        elif part in ("[span]", "[choices]"):
            model = Span if part == "[span]" else Choices
    return sorted(model.model_fields)
