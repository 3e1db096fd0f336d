"""Which parameters a method updates: all, those below the hook layer, chosen layers or their MLPs'
output projections, or LoRA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from safetensors.torch import save_file
from torch import Tensor, nn

from atu.errors import ConfigError
from atu.models.llm import decoder_layers, mlp_output, parameters_below
from atu.results.files import write_json
from atu.untrusted.bounds import STRICT, Bounds, Count, OneOf

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class All:
    """Every parameter."""

    __pydantic_config__ = STRICT
    update: Literal["all"]


@dataclass(frozen=True)
class BelowHook:
    """Embeddings and the layers below the highest hook layer: all that the predictor can see."""

    __pydantic_config__ = STRICT
    update: Literal["below_hook"]


@dataclass(frozen=True)
class Layers:
    """The decoder layers with these numbers, from 0; no embeddings."""

    __pydantic_config__ = STRICT
    update: Literal["layers"]
    layers: Annotated[list[Annotated[int, Bounds(ge=0)]], Bounds()]

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers = {self.layers}: list each layer to update once")


@dataclass(frozen=True)
class MlpOutput(Layers):
    """Only the MLP output projection of these decoder layers (`down_proj` in Llama)."""

    update: Literal["mlp_output"]  # type: ignore[assignment]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on every linear layer of the decoder (Hu et al. 2021, arXiv 2106.09685),
    merged into the weights when the method ends, and saved beside them. Adapters are float32; the
    frozen weights have the precision of `compute`.
    """

    __pydantic_config__ = STRICT
    update: Literal["lora"]
    rank: Count
    alpha: Count


Trainable = Annotated[All | BelowHook | Layers | MlpOutput | Lora, OneOf("update")]


@dataclass(frozen=True)
class Adapter:
    """A trained LoRA adapter, for the model that it was trained on."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def save(self, folder: Path) -> None:
        """A folder that `peft.PeftModel.from_pretrained` loads onto the original model."""
        folder.mkdir(parents=True)
        write_json(folder / "adapter_config.json", self.config)
        save_file(self.tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def trains_weights(settings: Any) -> bool:
    """Whether a method with these settings trains the model's weights, which must then be float32;
    with LoRA it trains adapters instead.
    """
    return not isinstance(getattr(settings, "train", None), Lora)


def make_trainable(
    model: PreTrainedModel, choice: Trainable, hook_layer: int | None
) -> tuple[list[nn.Parameter], Callable[[], Adapter | None]]:
    """The parameters to update, and a function to call when the method ends, which returns the
    adapter if there is one. Until then no other parameter gets gradients.

    Adapters are put into the model in place, so that every reference to it, its early exit and its
    generation see them; the function merges them and restores the plain layers.

    Raises:
        ConfigError: `below_hook` without a hook layer, or a layer that does not exist.
    """
    if isinstance(choice, All):
        return list(model.parameters()), _nothing
    if isinstance(choice, BelowHook):
        if hook_layer is None:
            raise ConfigError("train.update", "below_hook", "only methods with a predictor have it")
        return _only(model, parameters_below(model, hook_layer))
    layers = decoder_layers(model)
    if isinstance(choice, Layers):
        missing = [number for number in choice.layers if number >= len(layers)]
        if missing:
            raise ConfigError("train.layers", missing, f"the model has layers 0..{len(layers) - 1}")
        chosen = [layers[k] for k in choice.layers]
        if isinstance(choice, MlpOutput):
            chosen = [mlp_output(layer) for layer in chosen]
        return _only(model, [p for module in chosen for p in module.parameters()])
    return _add_lora(model, choice)


def _nothing() -> None:
    """Nothing to merge."""


def _only(
    model: PreTrainedModel, parameters: list[nn.Parameter]
) -> tuple[list[nn.Parameter], Callable[[], None]]:
    """These parameters, and a function that lets the others have gradients again."""
    chosen = {id(parameter) for parameter in parameters}
    held = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    for parameter in held:
        parameter.requires_grad_(False)

    def release() -> None:
        for parameter in held:
            parameter.requires_grad_(True)

    return parameters, release


def _add_lora(
    model: PreTrainedModel, choice: Lora
) -> tuple[list[nn.Parameter], Callable[[], Adapter | None]]:
    from peft import LoraConfig, LoraModel, get_peft_model_state_dict

    kinds = {
        f"{prefix}.{name}": type(layer).__name__
        for prefix, module in model.named_modules()
        if module is decoder_layers(model)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
    }
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    config: dict[str, Any] = {
        "r": choice.rank,
        "lora_alpha": choice.alpha,
        "target_modules": sorted(kinds),
        "fan_in_fan_out": "Conv1D" in kinds.values(),  # GPT-2 keeps its matrices transposed
    }
    adapted = LoraModel(model, LoraConfig(**config), "unlearn")
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        # peft gives adapters the type of their layer; in bfloat16 small steps are lost.
        parameter.data = parameter.data.float()

    def merge() -> Adapter:
        state = get_peft_model_state_dict(adapted, adapter_name="unlearn")
        # As PeftModel names them, whose base model is `adapted`.
        tensors = {f"base_model.{n}": v.detach().cpu().clone() for n, v in state.items()}
        # In float32: merged into bfloat16 the small changes would be rounded away.
        model.float()
        adapted.merge_and_unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
        return Adapter({"peft_type": "LORA", "task_type": "CAUSAL_LM", **config}, tensors)

    return trained, merge
