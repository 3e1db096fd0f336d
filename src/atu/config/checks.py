"""What the sections of the parameters demand of each other, checked before any job starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from atu import benchmarks, methods
from atu.benchmarks.shared.source import sources_of
from atu.config.given import check_given
from atu.config.params import Params, given_methods, oracle_method
from atu.config.points import check_points
from atu.config.roles import ORACLES, ORIGINAL, REFERENCES, SECOND_ORACLE, role_of
from atu.config.searching import check_search
from atu.config.sections import Pinned
from atu.errors import ArtifactError, ConfigError, SourceError, shown
from atu.models.folders import check_config, check_model_folder
from atu.models.gguf import gguf_config
from atu.models.gguf_header import is_gguf
from atu.models.pinned import locate
from atu.models.trainable import BelowHook
from atu.results.locks import Lock
from atu.untrusted.texts import is_file


def cross_check(params: Params) -> None:
    """What one section demands of another, and of the files it names.

    Raises:
        ConfigError: names key, value and repair.
    """
    check_grid(params)
    _check_sources(params)
    layers = {name: _layers(params, name) for name in params.grid.models}
    for name, count in layers.items():
        _check_model(params, name, count)
    check_given(params)
    for method in params.grid.methods:
        _require_hook(method, params.unlearn.methods[method])
    if params.align.width % params.align.heads:
        raise ConfigError(
            "align.heads", params.align.heads, f"must divide align.width = {params.align.width}"
        )
    _check_encoder(params.embed.encoder)
    _check_compute(params)
    _check_targets(params)
    check_search(params, partial(_require_trained, layers))
    check_points(params)
    _check_benchmarks(params)


def check_grid(params: Params) -> None:
    """The entries that the grid names exist, and stand for what they are read as. It reads no file.

    Raises:
        ConfigError: names key, value and repair.
    """
    known = {
        "models": params.pretrain.models,
        "methods": params.unlearn.methods,
        "attacks": params.attack.attacks,
    }
    homes = {
        "models": "pretrain.models",
        "methods": "unlearn.methods",
        "attacks": "attack.attacks",
    }
    for key, entries in known.items():
        for name in getattr(params.grid, key):
            if name not in entries:
                raise ConfigError(
                    f"grid.{key}", name, f"not in {homes[key]}, which has {', '.join(entries)}"
                )
    _check_roles(params)
    named = [("report.compare", params.report.compare)]
    named += [("track.registered", name) for name in params.track.registered]
    for key, name in named:
        if name not in params.grid.methods:
            raise ConfigError(
                key, name, f"not in grid.methods, which has {', '.join(params.grid.methods)}"
            )
    _check_oracle(params)


def _check_roles(params: Params) -> None:
    """What stands where the original model and the oracle are read is these."""
    trained = [m for m in params.grid.methods if m not in given_methods(params)]
    trained = [m for m in trained if role_of(params.unlearn.methods[m].loss) is None]
    if ORIGINAL not in params.grid.methods and (trained or not given_methods(params)):
        raise ConfigError(
            "grid.methods",
            params.grid.methods,
            f"add `{ORIGINAL}`: every result is read against it",
        )
    for name in params.grid.methods:
        loss = params.unlearn.methods[name].loss
        role = role_of(loss)
        if role in ORACLES and name != role:
            raise ConfigError(
                "grid.methods", name, f"is an oracle, which reports read by the key `{role}`; "
                "give its entry in unlearn.methods that key",
            )  # fmt: skip
        if name in REFERENCES and role != name:
            raise ConfigError(
                f"unlearn.methods.{name}.loss",
                loss,
                f"the report reads `{name}` as no method; give this one another name",
            )


def _check_oracle(params: Params) -> None:
    """A model that is trained here has an oracle, which privacy is measured against; one that came
    trained has none.
    """
    specs = {name: params.pretrain.models[name] for name in params.grid.models}
    trained = [n for n, spec in specs.items() if not isinstance(spec, Pinned) or spec.finetune]
    if trained and not benchmarks.get(params.prepare.benchmark).trains:
        raise ConfigError(
            "prepare.benchmark",
            params.prepare.benchmark,
            f"has no corpus to train {trained[0]!r} on; use a model with `source`, not fine-tuned",
        )
    for name in trained:
        if oracles := getattr(specs[name], "oracles", {}):
            raise ConfigError(
                f"pretrain.models.{name}.oracles", list(oracles), "the model is trained here, and "
                "its oracle with it; remove them, or set `finetune: false`"
            )  # fmt: skip
    having = [n for n in specs if n in trained or not _without_oracle(params, n)]
    if trained and len(having) < len(specs):
        raise ConfigError(
            "grid.models",
            params.grid.models,
            f"only {', '.join(having)} can have an oracle; compare the others in a file of theirs",
        )
    if trained and oracle_method(params) is None:
        raise ConfigError(
            "grid.methods",
            params.grid.methods,
            "add a method with `loss: oracle`: privacy is measured against it and has no default",
        )
    came = [name for name in specs if name not in trained]
    if SECOND_ORACLE in params.grid.methods and came:
        raise ConfigError(
            "grid.methods", SECOND_ORACLE, f"{', '.join(came)} came trained, so there is nothing "
            "to train from another seed; remove the method",
        )  # fmt: skip
    for name in specs if oracle_method(params) is not None else ():
        if name not in having:
            raise ConfigError(
                "grid.methods",
                oracle_method(params),
                f"{name} came trained: nothing says what it would be without "
                f"{_without_oracle(params, name)[0]}; remove the method, fine-tune the model here, "
                f"or name a model that never saw it in pretrain.models.{name}.oracles",
            )


def _without_oracle(params: Params, name: str) -> list[str]:
    """The targets for which a model that came trained has no oracle."""
    oracles = getattr(params.pretrain.models[name], "oracles", {})
    return [t.label for t in params.grid.requests() if t.label not in oracles]


def _check_compute(params: Params) -> None:
    """Code may run for models by name: a name that is none would switch nothing on."""
    models = params.pretrain.models
    for name in params.compute.remote_code:
        if name not in models:
            raise ConfigError(
                "compute.remote_code",
                name,
                f"not in pretrain.models, which has {', '.join(models)}",
            )


def _check_encoder(name: str) -> None:
    from atu.models.encoder import locate_encoder

    folder = locate_encoder(name)
    try:
        check_model_folder(folder)
    except ArtifactError as error:
        raise ConfigError("embed.encoder", name, str(error)) from None


def _check_model(params: Params, name: str, layers: int) -> None:
    """The layers that methods, attacks and alignment name exist."""
    for attack in params.grid.attacks:
        read = getattr(params.attack.attacks[attack], "layers", [])
        require_layers(f"attack.attacks.{attack}.layers", read, layers, name)
    for method in params.grid.methods:
        require_trained(method, params.unlearn.methods[method], layers, name)
    require_layers("align.hook_layers", params.align.hook_layers, layers, name)


def _require_trained(layers: Mapping[str, int], method: str, settings: Any) -> None:
    """Refuse settings that train what a model of the grid does not have, or that the method does
    not know.

    Raises:
        ConfigError: as `require_layers`.
    """
    for name, count in layers.items():
        require_trained(method, settings, count, name)
    _require_hook(method, settings)


def require_trained(method: str, settings: Any, layers: int, name: str) -> None:
    """Refuse settings that train a layer which the model `name` does not have.

    Raises:
        ConfigError: as `require_layers`.
    """
    trained = getattr(getattr(settings, "train", None), "layers", [])
    require_layers(f"unlearn.methods.{method}.train.layers", trained, layers, name, first=0)


def require_layers(
    key: str, numbers: Sequence[int], layers: int, name: str, *, first: int = 1
) -> None:
    """Refuse numbers of layers that the model `name`, of so many layers, does not have.

    Raises:
        ConfigError: names the key, the numbers and those that there are.
    """
    wrong = [number for number in numbers if number >= layers]
    if wrong:
        raise ConfigError(
            key,
            wrong,
            f"must be below the {layers} layers of model {name!r}; choose {first} to {layers - 1}",
        )


def _layers(params: Params, name: str) -> int:
    """How many decoder layers a model has, by its configuration.

    Raises:
        ConfigError: the configuration is bad, or a model that exists is not here.
    """
    from transformers import AutoConfig

    spec = params.pretrain.models[name]
    key = f"pretrain.models.{name}." + ("source" if isinstance(spec, Pinned) else "config")
    value = str(spec.source) if isinstance(spec, Pinned) else spec.config
    try:
        if isinstance(spec, Pinned):
            folder = locate(spec.source, Lock.read(Path(spec.source.lock)).revision)
            if is_gguf(folder):
                layers = gguf_config(folder)["num_hidden_layers"]
            else:
                check_model_folder(folder, code=name in params.compute.remote_code)
                config = AutoConfig.from_pretrained(folder, local_files_only=True)
                layers = config.num_hidden_layers
        else:
            check_config(spec.config)
            values = dict(spec.config)
            config = AutoConfig.for_model(values.pop("model_type", None), **values)
            layers = config.num_hidden_layers
        if type(layers) is not int or layers < 1:
            raise ValueError(f"num_hidden_layers is {shown(layers)}; give a number of 1 or more")
    except Exception as error:  # transformers raises many types here; all mean a bad config
        raise ConfigError(key, value, " ".join(str(error).split())) from None
    return layers


def _check_sources(params: Params) -> None:
    """Snakemake would say of a missing lock only that a file is missing."""
    for name, source in sources_of(params.prepare).items():
        try:
            Lock.of(source)
        except SourceError as error:
            raise ConfigError(f"prepare.{name}.lock", source.lock, str(error)) from None


def _require_hook(method: str, settings: Any) -> None:
    """Only a method with a predictor knows a hook layer below which it could be trained."""
    train = getattr(settings, "train", None)
    if isinstance(train, BelowHook) and not methods.get(settings.loss).needs_predictor:
        raise ConfigError(
            f"unlearn.methods.{method}.train.update",
            train.update,
            "only methods with a predictor have a hook layer; choose all, layers or lora",
        )


def _check_targets(params: Params) -> None:
    """Where the settings say what can be asked for, everything asked for is among it."""
    benchmark = benchmarks.get(params.prepare.benchmark)
    if benchmark.targets is None:
        return
    people = benchmark.targets(params.prepare)
    grid = params.grid
    named = [("grid.targets", name) for name in grid.targets]
    for key in ("together", "sequences"):
        named += [(f"grid.{key}", name) for names in getattr(grid, key) for name in names]
    named += [("search.targets", name) for name in params.search.targets]
    for key, target in named:
        if target not in people:
            known = ", ".join(people)
            raise ConfigError(key, target, f"not in {params.prepare.benchmark}, which has {known}")


def _check_benchmarks(params: Params) -> None:
    """Snakemake would not notice that a finished job's file is gone; old numbers would stay."""
    for name, source in params.utility.benchmarks.items():
        key = f"utility.benchmarks.{name}.path"
        if source.kind != "hub" and not is_file(Path(source.path)):
            raise ConfigError(key, source.path, "no such file; put it there")
        if source.kind != "hub" and {"{", "}"} & set(source.path):
            raise ConfigError(key, source.path, "Snakemake reads braces as wildcards; rename it")
