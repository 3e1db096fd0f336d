"""LoRA adapters of somebody else: checked against the model that they change, and merged into it.

Of `adapter_config.json` only what says how to merge is read; peft could be told by it to import a
module or to change the base in other ways.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atu.errors import ArtifactError, shown
from atu.models.folders import ADAPTER_WEIGHTS, ADAPTERS
from atu.results.files import read_json

MERGING = (
    "r", "lora_alpha", "target_modules", "fan_in_fan_out", "use_rslora", "rank_pattern",
    "alpha_pattern", "modules_to_save", "use_dora", "layers_to_transform", "layers_pattern",
    "exclude_modules",
)  # fmt: skip
"""The keys by which peft merges."""
PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),
    "layer_replication": (None,),
    "megatron_config": (None,),
    "target_parameters": (None, []),
}
"""Keys whose other values change more of the model than adapters: with the values that do not."""
PREFIX = "base_model.model."
PARTS = (".lora_A.weight", ".lora_B.weight")
REPAIR = "merge it with peft where it was trained (`merge_and_unload`), and name the merged folder"


def read_adapter(folder: Path) -> dict[str, Any]:
    """The keys of `MERGING` in the folder's configuration.

    Raises:
        ArtifactError: it is no plain LoRA.
    """
    path = folder / ADAPTERS
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else config
        raise ArtifactError(f"{path}: its peft_type is {shown(kind)}, not 'LORA'; {REPAIR}")
    for key, allowed in PLAIN.items():
        if config.get(key, allowed[0]) not in allowed:
            raise ArtifactError(f"{path}: {key} is {shown(config[key])}; {REPAIR}")
    return {key: config[key] for key in MERGING if config.get(key) is not None}


def check_fit(folder: Path, base: Path) -> None:
    """Refuse an adapter for layers that the base does not have, by the headers of the files alone.

    Raises:
        ArtifactError: names the layer, both shapes, and the repair.
    """
    read_adapter(folder)
    known = _shapes(base, "*.safetensors")
    file = folder / ADAPTER_WEIGHTS
    shapes = _shapes(folder, ADAPTER_WEIGHTS)
    if not shapes:
        raise ArtifactError(f"{file}: holds no tensors; name the adapter's folder")
    for name, shape in shapes.items():
        part = next((part for part in PARTS if name.endswith(part)), None)
        if part is None or not name.startswith(PREFIX):
            continue
        layer = name.removeprefix(PREFIX).removesuffix(part)
        full = known.get(f"{layer}.weight") or known.get(f"{layer.partition('.')[2]}.weight")
        size = shape[1] if part == PARTS[0] else shape[0]
        if full is None or size not in full:
            has = "has no such layer" if full is None else f"has {list(full)} there"
            raise ArtifactError(
                f"{file}: {layer} is of size {size}, and the original {has} ({base}); name the "
                "model that the adapter was trained on"
            )


def merge_adapter(folder: Path, base: Path, out: Path, code: bool = False) -> None:
    """Write the base with the adapter merged into it, in float32, as a Hugging Face folder.

    Raises:
        ArtifactError: the adapter does not fit the base.
    """
    import torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    from atu.models.llm import load_tokenizer, load_weights, save_lm

    check_fit(folder, base)
    values, file = read_adapter(folder), folder / ADAPTER_WEIGHTS
    model = load_weights(base, torch.float32, code)
    try:
        adapted = get_peft_model(model, LoraConfig(**values))
        loaded: Any = set_peft_model_state_dict(adapted, load_file(file))
    except Exception as error:  # peft and torch raise many types; all mean: no fit
        reason = " ".join(str(error).split())[:300]
        raise ArtifactError(f"{file}: does not fit {base}: {reason}; {REPAIR}") from error
    left = [*loaded.unexpected_keys, *(key for key in loaded.missing_keys if "lora_" in key)]
    if left:
        raise ArtifactError(f"{file}: does not fit {base}: {shown(left[0])}; {REPAIR}")
    merged: Any = adapted.merge_and_unload()
    save_lm(merged, load_tokenizer(base, code), out)


def _shapes(folder: Path, pattern: str) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob(pattern)):
        try:
            with safe_open(path, framework="np") as weights:
                found |= {k: tuple(weights.get_slice(k).get_shape()) for k in weights.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path}: cannot be read as safetensors: {error}") from None
    return found
