"""The parameters: one frozen model per phase, unknown keys refused, everything checked at once.

`load_params` reads `params.yaml`, checks types, bounds and what one section demands of another,
and raises one `ConfigError` that names file, key, value and repair. It runs when Snakemake parses
the workflow, so a bad value stops a run before its first job. There are no defaults in code:
`params.yaml` says everything.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
)

from atu import methods
from atu.errors import ConfigError

PHASES = (
    "prepare", "pretrain", "embed", "align", "unlearn", "rephrase", "utility", "report", "track",
)  # fmt: skip
RESERVED = {"shared", "full", "oracle"}
Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of every section: frozen, strict about types, and refusing unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Grid(Section):
    """Which cells to run: every model x target x method x seed."""

    models: list[Slug] = Field(min_length=1, description="keys of pretrain.models")
    targets: list[str] = Field(min_length=1, description="names of what to forget")
    methods: list[Slug] = Field(min_length=1, description="keys of unlearn.methods")
    seeds: list[Seed] = Field(min_length=1, description="seeds of align and unlearn")

    @field_validator("models", "targets", "methods", "seeds")
    @classmethod
    def _distinct(cls, values: list[Any]) -> list[Any]:
        if len(set(values)) != len(values):
            raise ValueError("lists an entry twice; remove one")
        return values

    @field_validator("targets")
    @classmethod
    def _safe(cls, values: list[str]) -> list[str]:
        slugs = [target_slug(value) for value in values]
        if len(set(slugs)) != len(slugs):
            raise ValueError(f"share a folder name: {', '.join(slugs)}; rename one")
        return values


class Prepare(Section):
    """The benchmark: which facts exist and which are probed."""

    benchmark: Literal["world"] = Field(description="where corpora and probes come from")
    seed: Seed = Field(description="draws the world")
    people: PositiveInt = Field(description="fictitious people in the world; even")
    other_facts: PositiveInt = Field(description="facts of unrelated people to probe")


class ModelSpec(Section):
    """A model to pretrain on the world."""

    config: dict[str, Any] = Field(description="transformers config: model_type and its keys")
    vocab_size: Annotated[int, Field(ge=260)] = Field(description="byte-level BPE vocabulary")


class Pretrain(Section):
    """How models learn the world."""

    seed: Seed
    models: dict[Slug, ModelSpec] = Field(min_length=1)
    steps: PositiveInt
    batch_tokens: PositiveInt = Field(description="padded tokens per step")
    length_pool: PositiveInt = Field(description="texts sorted by length together")
    learning_rate: PositiveFloat = Field(description="AdamW, for embeddings and norms")
    matrix_learning_rate: PositiveFloat = Field(description="Muon, for hidden weight matrices")
    warmup: Share = Field(description="share of steps")
    clip: PositiveFloat


class Embed(Section):
    """Target embeddings: the concept's, and those of every window of k encoder tokens."""

    encoder: str = Field(min_length=1, description="all-MiniLM-L6-v2, a folder, or a hub id")
    k: PositiveInt = Field(description="window length in encoder tokens")
    descriptions: list[str] = Field(description="more texts for the concept, besides its name")
    retain_texts: Annotated[int, Field(ge=0)] = Field(description="retain texts to align on")
    batch_size: PositiveInt
    reference_compat: bool = Field(description="frame the concept, not the windows")


class Align(Section):
    """The embedding predictor and its training on the frozen model."""

    hook_layer: PositiveInt = Field(description="hidden_states index the predictor reads")
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    feedforward: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    steps: PositiveInt
    batch_tokens: PositiveInt = Field(description="padded tokens per step")
    learning_rate: PositiveFloat
    warmup: Share
    clip: PositiveFloat
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(description="share of texts to score on")
    reference_compat: bool = Field(description="a predictor that sees the whole sequence")


class Unlearn(Section):
    """The methods; each entry names its loss and carries that loss's settings."""

    probes: PositiveInt = Field(description="select probes per role at a trajectory point")
    reference_compat: bool = Field(
        description="pads in the loss, labels shifted twice, optimizers rebuilt, no eval mode"
    )
    methods: dict[Slug, Any]

    @field_validator("methods")
    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: parse_method(name, value) for name, value in values.items()}


class Rephrase(Section):
    """Greedy answers to every probe."""

    max_new_tokens: PositiveInt
    batch_size: PositiveInt


class Utility(Section):
    """lm-eval tasks, fluency, and when a model counts as collapsed."""

    documents: PositiveInt = Field(description="documents per lm-eval task at most")
    batch_size: PositiveInt
    fluency_prompts: PositiveInt
    fluency_tokens: PositiveInt
    collapse_below: Share = Field(
        description="COLLAPSED when generation, fluency or distinct tokens fall below this share "
        "of the original model's"
    )


class Report(Section):
    """Tables, intervals and figures."""

    bootstrap: PositiveInt = Field(description="resamples")
    confidence: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


class Track(Section):
    """The MLflow mirror."""

    experiment: str = Field(min_length=1, description="MLflow experiment name")


class Params(Section):
    """The whole experiment."""

    experiment: Slug = Field(description="names the folder below results/")
    grid: Grid
    prepare: Prepare
    pretrain: Pretrain
    embed: Embed
    align: Align
    unlearn: Unlearn
    rephrase: Rephrase
    utility: Utility
    report: Report
    track: Track

    def section(self, phase: str, name: str | None = None) -> dict[str, Any]:
        """The values a job of `phase` depends on, for one model or method where it has one."""
        values = self.model_dump(mode="json")[phase]
        if phase == "pretrain" and name is not None:
            values["models"] = {name: values["models"][name]}
        if phase == "unlearn" and name is not None:
            values["methods"] = {name: values["methods"][name]}
        return values


def target_slug(name: str) -> str:
    """A target's folder name: letters, digits, `.`, `_`, `-` kept, spaces as `_`.

    Raises:
        ValueError: the name is empty, reserved, or could leave the results folder.
    """
    if not name.strip() or name != name.strip():
        raise ValueError(f"{name!r} is empty or has spaces around it")
    if re.search(r"[/\\\x00-\x1f]", name) or ".." in name or name.startswith("."):
        raise ValueError(f"{name!r} has a path separator or dots that could leave results/")
    slug = re.sub(r"[^\w.-]", "_", name.replace(" ", "_"))
    if slug.lower() in RESERVED:
        raise ValueError(f"{name!r} is a reserved folder name")
    return slug


def parse_method(name: str, value: Any) -> Any:
    """The settings dataclass of one entry of `unlearn.methods`."""
    key = f"unlearn.methods.{name}"
    known = ", ".join(methods.registry())
    if not isinstance(value, dict) or "loss" not in value:
        raise ConfigError(key, value, f"needs the key `loss`, one of {known}")
    if value["loss"] not in methods.registry():
        raise ConfigError(f"{key}.loss", value["loss"], f"unknown method; known are {known}")
    settings = methods.get(value["loss"]).settings
    try:
        # Through JSON, because strict validation takes a dataclass from JSON but not from a dict.
        return TypeAdapter(settings).validate_json(json.dumps(value))
    except ValidationError as error:
        allowed = [field.name for field in dataclasses.fields(settings)]
        raise explain(error, key, allowed) from None


def load_params(path: Path) -> Params:
    """Read and check a parameter file.

    Raises:
        ConfigError: names file, key, value and repair.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("file", str(path), f"cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("file", str(path), f"is not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError("file", str(path), "must hold the sections of params.yaml")
    try:
        params = Params.model_validate(raw)
        _cross_check(params)
    except ValidationError as error:
        raise explain(error, "", _known_keys(error), str(path)) from None
    except ConfigError as error:
        raise ConfigError(error.key, error.value, error.repair, str(path)) from None
    return params


def explain(
    error: ValidationError, prefix: str, known: list[str], file: str | None = None
) -> ConfigError:
    """The first problem as a `ConfigError`, with the allowed keys for an unknown one."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"] if part != "[key]"]
    key = ".".join([prefix, *parts] if prefix else parts)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return ConfigError(
            key, first.get("input"), f"unknown key; known here are {', '.join(known)}", file
        )
    if first["type"] in ("missing", "missing_argument"):
        return ConfigError(key, None, "is required; add it", file)
    return ConfigError(key, first.get("input"), first["msg"].removeprefix("Value error, "), file)


def _known_keys(error: ValidationError) -> list[str]:
    """The keys of the section in which the first problem lies."""
    model: Any = Params
    for part in error.errors()[0]["loc"][:-1]:
        field = model.model_fields.get(part)
        if field is not None and hasattr(field.annotation, "model_fields"):
            model = field.annotation
        elif part == "models" or model is Pretrain:
            model = ModelSpec
    return sorted(model.model_fields)


def _cross_check(params: Params) -> None:
    """What one section demands of another."""
    _check_grid(params)
    for name in params.grid.models:
        _check_model(params, name)
    if params.align.width % params.align.heads:
        raise ConfigError(
            "align.heads", params.align.heads, f"must divide align.width = {params.align.width}"
        )
    from atu.models.encoder import locate_encoder

    locate_encoder(params.embed.encoder)
    _check_targets(params)


def _check_grid(params: Params) -> None:
    known = {"models": params.pretrain.models, "methods": params.unlearn.methods}
    homes = {"models": "pretrain.models", "methods": "unlearn.methods"}
    for key, entries in known.items():
        for name in getattr(params.grid, key):
            if name not in entries:
                raise ConfigError(
                    f"grid.{key}", name, f"not in {homes[key]}, which has {', '.join(entries)}"
                )
    if "none" not in params.grid.methods:
        raise ConfigError(
            "grid.methods", params.grid.methods, "add `none`: every result is read against it"
        )


def _check_model(params: Params, name: str) -> None:
    from transformers import AutoConfig

    values = dict(params.pretrain.models[name].config)
    key = f"pretrain.models.{name}.config"
    model_type = values.pop("model_type", None)
    try:
        config = AutoConfig.for_model(model_type, **values)
    except Exception as error:  # transformers raises many types here; all mean a bad config
        raise ConfigError(key, params.pretrain.models[name].config, str(error)) from None
    layers = config.num_hidden_layers
    if params.align.hook_layer >= layers:
        raise ConfigError(
            "align.hook_layer",
            params.align.hook_layer,
            f"must be below the {layers} layers of model {name!r}; choose 1 to {layers - 1}",
        )


def _check_targets(params: Params) -> None:
    from atu.data.world import build_world

    people = build_world(params.prepare.seed, params.prepare.people).people
    for target in params.grid.targets:
        if target not in people:
            raise ConfigError(
                "grid.targets", target, f"not in the world; its people are {', '.join(people)}"
            )


def json_schema() -> dict[str, Any]:
    """The JSON schema of `params.yaml`, with the settings of every method."""
    union: Any = Union[tuple(m.settings for m in methods.registry().values())]  # noqa: UP007
    entry: Any = Annotated[union, Field(discriminator="loss")]
    unlearn = create_model("Unlearn", __base__=Unlearn, methods=(dict[Slug, entry], ...))
    whole = create_model("Params", __base__=Params, unlearn=(unlearn, ...))
    schema = whole.model_json_schema()
    schema["description"] = "Generated by `atu schema`; do not edit."
    return schema


def schema_text() -> str:
    """The schema as the bytes of `workflow/schemas/params.schema.json`."""
    return json.dumps(json_schema(), indent=1, sort_keys=True) + "\n"
