"""The parameter file of `atu audit`: an experiment's questions, attacks and utility tasks, with
somebody else's checkpoint in the place of its methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atu.config.overlays import merged, read_layers
from atu.config.roles import ORACLE, ORIGINAL
from atu.config.written import EXPERIMENTS, params_text
from atu.errors import ConfigError
from atu.forget.experiment import Shape
from atu.models.encoder import BUNDLED
from atu.results.locks import Source
from atu.results.sources import PACKAGE
from atu.untrusted.texts import is_folder

COMMAND = "atu audit"
EXPERIMENT = "audit"
MODEL = "model"
CHECKPOINT = "checkpoint"
"""The checkpoint's key in `unlearn.methods`, and its name in the report."""
PREDICTING = "fresh_predictor"
"""The attack that needs windows and their embeddings."""
EXPERIMENT_OF = {
    "world": "world",
    "rwku": "rwku_phi3",
    "tofu": "tofu_llama",
    "muse": "muse_llama",
    "wmdp": "wmdp_zephyr",
}
"""Per benchmark the experiment that has its usual settings; `concept` is asked by the parameter
file that `atu forget` has written."""


@dataclass(frozen=True)
class Models:
    """The sources of an audit, as they stand in the parameter file."""

    checkpoint: Source
    original: Source | None
    oracle: Source | None


def experiment_file(benchmark: str | None, params: Path | None) -> Path:
    """The file that says how to ask.

    Raises:
        ConfigError: neither is named, both are, or there is no such benchmark.
    """
    if (benchmark is None) == (params is None):
        raise ConfigError(
            "--benchmark", benchmark, "name a benchmark, or a parameter file with --params; not "
            "both, for a parameter file has its own"
        )  # fmt: skip
    if params is not None:
        return params
    if benchmark not in EXPERIMENT_OF:
        raise ConfigError(
            "--benchmark", benchmark, f"known are {', '.join(EXPERIMENT_OF)}; for a concept that "
            "`atu forget` has written about, name its params.yaml with --params"
        )  # fmt: skip
    return PACKAGE.parents[1] / EXPERIMENTS / f"{EXPERIMENT_OF[benchmark]}.yaml"


def render(
    file: Path,
    models: Models,
    shape: Shape,
    *,
    targets: Sequence[str],
    attacks: Sequence[str] | None,
    data: Path | None,
) -> str:
    """The text of `params.yaml`, with every path absolute.

    Args:
        targets: what the checkpoint should not know; of none the experiment's own.
        attacks: keys of `attack.attacks`; None for the experiment's own.
        data: the folder of the benchmark's tables, in place of the experiment's.

    Raises:
        ConfigError: the experiment has several targets and none is named; or it has no such attack.
    """
    values = merged(read_layers(file))
    grid = values["grid"]
    chosen = [*(targets or grid["targets"])]
    if not targets and len(chosen) != 1:
        raise ConfigError(
            "--target", None, f"name what the checkpoint has forgotten; {file} has "
            f"{', '.join(chosen)}"
        )  # fmt: skip
    listed = [*(grid["attacks"] if attacks is None else attacks)]
    known = values["attack"]["attacks"]
    for name in listed:
        if name not in known:
            raise ConfigError("--attack", name, f"not in {file}, which has {', '.join(known)}")
    # As the paths in a parameter file are: relative to the folder that the command runs in, or for
    # the experiments of the checkout to that.
    home = Path.cwd() if not file.resolve().is_relative_to(PACKAGE.parents[1]) else _root(file)
    values["experiment"] = EXPERIMENT
    values["grid"] = {
        "models": [MODEL], "targets": chosen, "together": [], "sequences": [],
        "methods": [*([ORIGINAL] if models.original else []),
                    *([ORACLE] if models.oracle else []), CHECKPOINT],
        "seeds": [grid["seeds"][0]], "attacks": listed,
    }  # fmt: skip
    values["compute"]["remote_code"] = []
    values["prepare"] = _prepare(values["prepare"], home, data)
    values["pretrain"]["models"] = {MODEL: _model(models, chosen)}
    values["search"] |= {"targets": chosen[:1], "spaces": {}}
    values["unlearn"]["methods"] = {
        ORIGINAL: {"loss": "none"},
        ORACLE: {"loss": "oracle"},
        CHECKPOINT: {"loss": "checkpoint", "source": asdict(models.checkpoint)},
    }
    _fit_layers(values, shape)
    if not any(known[name]["attack"] == PREDICTING for name in listed):
        values["embed"]["encoder"] = BUNDLED  # nothing is encoded, so none need be downloaded
    for source in values["utility"]["benchmarks"].values():
        if source["kind"] != "hub":
            source["path"] = str(home / source["path"])
    values["report"]["compare"] = CHECKPOINT
    values["track"]["experiment"] = EXPERIMENT
    return params_text(values, COMMAND)


def _root(file: Path) -> Path:
    """The checkout, or where in it a parameter file stands beside its work."""
    root = PACKAGE.parents[1]
    return root if file.resolve().parent in (root, root / EXPERIMENTS) else Path.cwd()


def _model(models: Models, targets: Sequence[str]) -> dict[str, Any]:
    """The model of the grid: the original, or the checkpoint where nobody has it."""
    oracle = models.oracle
    return {
        "source": asdict(models.original or models.checkpoint),
        "finetune": False,
        "oracles": {target: asdict(oracle) for target in targets} if oracle else {},
    }


def _prepare(section: dict[str, Any], home: Path, data: Path | None) -> dict[str, Any]:
    """The benchmark's settings, with its folders and locks where they are."""
    changed = dict(section)
    sources = [k for k, v in section.items() if isinstance(v, dict) and {"place", "lock"} <= set(v)]
    if data is not None and len(sources) != 1:
        raise ConfigError(
            "--data", str(data), f"{section['benchmark']} has {len(sources)} sources; "
            "name their folders in a parameter file"
        )  # fmt: skip
    for key in sources:
        source = dict(section[key])
        lock = home / source["lock"]
        if data is not None:
            # Another copy of the tables: what they are is locked anew.
            source |= {"place": str(data.resolve()), "revision": None}
            lock = Path("locks") / f"{key}.json"
        elif is_folder(home / source["place"]):
            source["place"] = str((home / source["place"]).resolve())
        changed[key] = source | {"lock": str(lock)}
    return changed


def _fit_layers(values: dict[str, Any], shape: Shape) -> None:
    """Layers that the experiment names for its own model, where this one does not have them."""
    if max(values["align"]["hook_layers"]) >= shape.layers:
        values["align"]["hook_layers"] = [shape.hook]
    for settings in values["attack"]["attacks"].values():
        if any(layer >= shape.layers for layer in settings.get("layers", [])):
            settings["layers"] = [shape.hook]
