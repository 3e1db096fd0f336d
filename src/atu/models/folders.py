"""What a model folder and a model's configuration may hold before transformers reads them.

transformers is told to run no code from a folder and to read only safetensors. What a folder could
still make it do is refused here: follow links and file names out of the folder, load another model
(adapters), fetch attention kernels, which are code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atu.errors import ArtifactError, AtuError, shown
from atu.results.artifacts import EXECUTED
from atu.results.files import read_json
from atu.untrusted.texts import is_file, require_inside

ADAPTERS = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHTS = "*.safetensors"
PATTERNS = ("*.json", WEIGHTS, "*.model", "*.txt", "*.jinja")
"""The files of a model that transformers reads: neither pickled weights nor code."""
GGUF = ".gguf"
TO_SAFETENSORS = "and save it with `save_pretrained` into a folder of its own"
REPAIRS = {
    GGUF: "make a folder of one with `atu model FILE.gguf --out FOLDER`",
    "pickle": f"load it once with transformers, where you trust it, {TO_SAFETENSORS}",
    "quantised": "name the folder of the model that it was made from, in full precision",
    "bitsandbytes": "name the folder of the model that it was made from, or load it once with "
    f"transformers, call `dequantize()` on it {TO_SAFETENSORS}",
}
"""What to do with weights that are not read here, by what they are."""
METHODS = {"gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes"}
"""Values of `quant_method` that are spelled otherwise by people."""
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
)  # fmt: skip
CODE_KEYS = {
    "auto_map": "names code to run",
    "custom_generate": "names code to run",
    "transformers_weights": "names a file of weights of its own",
}
FOLDER_CODE = ("auto_map",)
"""The key whose code may run, for models that the parameters list: code of the folder itself, where
no `--` names another repository."""
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")
"""A value with a `/` names a kernel on the hub."""
LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "num_labels")
MAX_COUNT = 1000
"""transformers builds lists of these lengths when it reads a configuration."""


def check_model_folder(folder: Path, weights: bool = True, code: bool = False) -> None:
    """Refuse a folder that holds more than configuration, tokenizer and, with `weights`,
    safetensors. With `code` it may name code of its own.

    Files that are never opened (pickled weights beside safetensors, scripts, pictures) are
    harmless; a folder with only pickled weights or GGUF is refused, and so are quantised weights.

    Raises:
        ArtifactError: names the file, what is wrong with it, and the repair.
    """
    for path in folder.rglob("*"):
        check_link(folder, path)
    if (folder / ADAPTERS).exists():
        raise ArtifactError(
            f"{folder / ADAPTERS}: adapters name another model to load; merge them into the weights"
        )
    if weights:
        _check_weights(folder)
    for path in (folder / name for name in CONFIGS):
        if not path.exists():
            continue
        content = read_json(path)
        try:
            check_config(_without_unused_code(content, path.name), code)
        except ValueError as error:
            raise ArtifactError(
                f"{path}: {error}; use a model that needs none, or list it in compute.remote_code"
            ) from None
    for path in sorted(folder.glob("*.index.json")):
        _check_index(path)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter in place of a model."""
    weights = {path.name for path in folder.glob(WEIGHTS)} - {ADAPTER_WEIGHTS}
    return (folder / ADAPTERS).is_file() and not weights


def check_adapter_folder(folder: Path) -> None:
    """Refuse an adapter's folder with links out of it, or without safetensors.

    Raises:
        ArtifactError: names the file, what is wrong with it, and the repair.
    """
    for path in folder.rglob("*"):
        check_link(folder, path)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ArtifactError(
            f"{folder}: holds no {ADAPTER_WEIGHTS}; load the adapter once with peft, where you "
            "trust it, and `save_pretrained` it, which writes one"
        )


def refuse_file(path: Path) -> None:
    """Refuse a file in place of a model's folder.

    Raises:
        ArtifactError: says what it is and what to name instead.
    """
    if not is_file(path):
        return
    suffix = path.suffix.lower()
    if suffix in EXECUTED:
        fault = f"is a file of pickled weights, which would run code; {REPAIRS['pickle']}"
    elif (path.parent / "config.json").is_file():
        fault = f"is one file of a model; name its folder, {path.parent}"
    else:
        fault = "is a file; name the folder of a Hugging Face model"
    raise ArtifactError(f"{path}: {fault}")


def _check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors, or with quantised ones."""
    if not any(folder.glob(WEIGHTS)):
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        gguf = [name for name in names if name.lower().endswith(GGUF)]
        pickled = [name for name in names if Path(name).suffix.lower() in EXECUTED]
        if gguf:
            fault = f"only GGUF ({', '.join(gguf)}); {REPAIRS[GGUF]}"
        elif pickled:
            fault = f"only {', '.join(pickled)}, which would run code; {REPAIRS['pickle']}"
        else:
            fault = "so it is no model; name the folder of a Hugging Face model"
        raise ArtifactError(f"{folder}: holds no {WEIGHTS}, {fault}")
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    quantised = config.get("quantization_config") if isinstance(config, dict) else None
    if quantised or (folder / "quantize_config.json").exists():
        values = quantised if isinstance(quantised, dict) else {}
        method = str(values.get("quant_method") or _method_of(values))
        repair = REPAIRS.get(method, REPAIRS["quantised"])
        raise ArtifactError(
            f"{folder}: its weights are quantised by {METHODS.get(method, shown(method))} "
            f"(quantization_config of config.json), and only full ones can be trained; {repair}"
        )


def _method_of(values: dict[str, Any]) -> str:
    """The quantisation of a configuration that does not name it, as old ones do not."""
    return "bitsandbytes" if any(key.startswith(("load_in_", "bnb_")) for key in values) else "gptq"


def require_vocabulary(folder: Path, code: bool = False) -> None:
    """Refuse a folder without a tokenizer: transformers would make an empty one, to which every
    text is one unknown token. A model with code of its own may keep its vocabulary elsewhere.

    Raises:
        ArtifactError: names the folder.
    """
    if not code and not any((folder / name).is_file() for name in VOCABULARIES):
        raise ArtifactError(
            f"{folder}: holds no tokenizer ({', '.join(VOCABULARIES)}); copy the files of the one "
            "that it was trained with into a copy of the folder, and name that"
        )


def _without_unused_code(content: Any, name: str) -> Any:
    """A model's configuration without the key that names its code, where transformers has the
    architecture. (The hub's copies of Phi-3 and others name code all the same; without trust
    transformers takes its own class.)
    """
    if name != "config.json" or not isinstance(content, dict) or "auto_map" not in content:
        return content
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if content.get("model_type") not in list(CONFIG_MAPPING_NAMES):  # it may be unhashable
        return content
    return {key: value for key, value in content.items() if key != "auto_map"}


def check_link(folder: Path, path: Path) -> None:
    """Refuse a link that leads out of the folder, except from a snapshot in the hub's cache to the
    `blobs` beside it.
    """
    if not path.is_symlink():
        return
    place = Path(os.path.realpath(folder))
    homes = [place, place.parent.parent / "blobs"] if place.parent.name == "snapshots" else [place]
    # `realpath`, because `Path.resolve` raises on a loop of links.
    if not any(Path(os.path.realpath(path)).is_relative_to(home) for home in homes):
        raise ArtifactError(f"{path}: a link out of the folder; put the file itself there")


def _check_index(path: Path) -> None:
    content = read_json(path)
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(n, str) for n in weights.values()):
        raise ArtifactError(f"{path}: has no `weight_map` of file names")
    for name in sorted(set(weights.values())):
        try:
            require_inside(name)
        except ValueError as error:
            raise ArtifactError(f"{path}: {error}") from None


def check_config(values: Any, code: bool = False) -> None:
    """Refuse a configuration that would load code or build endless lists; `code` allows code of the
    model's own folder, never from elsewhere.

    Raises:
        ValueError: names the key.
    """
    if not isinstance(values, dict):
        raise ValueError("is no JSON object")
    waiting: list[Any] = [values]
    while waiting:
        at = waiting.pop()
        if isinstance(at, list):
            waiting += at
        elif isinstance(at, dict):
            for key, value in at.items():
                _check_key(key, value, code)
            waiting += at.values()


def _check_key(key: str, value: Any, code: bool) -> None:
    allowed = code and key in FOLDER_CODE and "--" not in str(value)
    if key in CODE_KEYS and value and not allowed:
        raise ValueError(f"{key} {CODE_KEYS[key]} ({shown(value)})")
    if key in KERNEL_KEYS and "/" in str(value):
        raise ValueError(f"{key} = {shown(value)} names a kernel to fetch, which is code")
    if key in LAYER_KEYS and isinstance(value, (int, float)) and value > MAX_COUNT:
        raise ValueError(f"{key} = {shown(value)} is more than {MAX_COUNT}")


@contextmanager
def loading(folder: Path, weights: bool = True, code: bool = False) -> Iterator[None]:
    """Check the folder; any failure while it is read becomes an `ArtifactError`.

    Raises:
        ArtifactError: as `check_model_folder`, or transformers or safetensors cannot read it.
    """
    check_model_folder(folder, weights, code)
    try:
        yield
    except (AtuError, MemoryError):
        raise
    except Exception as error:  # transformers raises many types here; all mean a bad folder
        reason = f"{type(error).__name__}: {str(error).strip()}"
        raise ArtifactError(f"{folder}: cannot be loaded as a model: {reason[:500]}") from error
