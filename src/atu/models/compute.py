"""Where and how models compute: device, precision, attention, checkpointing, code of their own.

Trained weights are float32; with bfloat16 the forward pass runs under autocast, which rounds a copy
and leaves the weights as they are. The reason: bfloat16 has 8 bits of mantissa, so a weight near 1
moves in steps of 2^-8 = 0.004 (downwards; 2^-7 upwards), and unlearning's steps of 1e-5 round to
nothing. A model that is only read may be loaded in bfloat16: autocast computes with the same
rounded weights. transformers keeps the type in which a checkpoint was saved, so every load names
the type.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from atu.errors import ConfigError
from atu.untrusted.bounds import STRICT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLASH = "flash_attention_2"


@dataclass(frozen=True)
class Compute:
    """The section `compute` of the parameters: what every model runs on."""

    __pydantic_config__ = STRICT

    device: Literal["auto", "cpu", "cuda"]
    """`auto` takes a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"]
    """`auto` is bfloat16 on a GPU and float32 on a CPU. Trained weights are float32 in each."""
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    checkpointing: bool
    """Activations of a layer are computed again in the backward pass instead of being kept."""
    remote_code: list[str]
    """Keys of `pretrain.models` whose folders may hold code, which then runs; others are refused.
    """

    def __post_init__(self) -> None:
        if self.attention == FLASH and (self.precision == "float32" or self.device == "cpu"):
            raise ValueError(
                f"attention = {FLASH} computes in bfloat16 on a GPU; with device = {self.device} "
                f"and precision = {self.precision} use sdpa"
            )

    @property
    def place(self) -> torch.device:
        """The device that models and batches are on."""
        kind = self.device
        if kind == "auto":
            kind = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(kind)

    @property
    def bfloat16(self) -> bool:
        """Whether forward passes run in bfloat16."""
        if self.precision == "auto":
            return self.place.type == "cuda"
        return self.precision == "bfloat16"

    def dtype(self, training: bool) -> torch.dtype:
        """The type that weights are loaded in: float32 for training."""
        return torch.bfloat16 if self.bfloat16 and not training else torch.float32

    def require(self) -> None:
        """Make sure that this machine has the device and the attention of these settings.

        Raises:
            ConfigError: names the key, its value and the repair.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "compute.device",
                self.device,
                "torch sees no CUDA device here; use auto or cpu, or a machine with a GPU",
            )
        if self.attention == FLASH:
            self._require_flash()

    def _require_flash(self) -> None:
        from transformers.utils import is_flash_attn_2_available

        if not is_flash_attn_2_available():
            raise ConfigError(
                "compute.attention",
                self.attention,
                "needs a CUDA device and the package flash-attn (`pip install flash-attn`); "
                "sdpa needs neither",
            )


class Autocast:
    """Runs a model's forward passes under autocast to bfloat16: those of the whole model and, for
    an early exit, those of its base.

    It works through hooks, which are copied with the model. Autocast's cache is off: it would keep
    the cast of every trained weight until the pass ends, so the whole model on every GPU, even
    under checkpointing and FSDP.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device.type
        self._open: list[tuple[nn.Module, torch.autocast]] = []

    def attach(self, model: PreTrainedModel) -> None:
        """Register the hooks."""
        for module in (model, model.base_model):
            module.register_forward_pre_hook(self._enter)
            # A pass that an exception ends, such as an early exit, must leave autocast too.
            module.register_forward_hook(self._leave, always_call=True)

    def _enter(self, module: nn.Module, _args: Any) -> None:
        context = torch.autocast(self.device, dtype=torch.bfloat16, cache_enabled=False)
        context.__enter__()
        self._open.append((module, context))

    def _leave(self, module: nn.Module, _args: Any, _output: Any) -> None:
        # A pass that failed before `_enter` has nothing to leave.
        if self._open and self._open[-1][0] is module:
            self._open.pop()[1].__exit__(None, None, None)


def settle(
    model: PreTrainedModel, compute: Compute, place: torch.device | None = None
) -> PreTrainedModel:
    """Move the model to its device and set attention and checkpointing, in place. Where the
    precision is bfloat16, float32 weights compute in it; logits are always float32.

    Args:
        place: where to put the weights, if not on the device that computes.

    Raises:
        ConfigError: the model has no such attention.
    """
    try:
        model.set_attn_implementation(compute.attention)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError("compute.attention", compute.attention, f"{reason}; use eager") from None
    model.to(place or compute.place)  # type: ignore[arg-type]
    if compute.bfloat16:
        if model.dtype == torch.float32:
            Autocast(compute.place).attach(model)
        model.register_forward_hook(_exact_logits)
    if compute.checkpointing:
        model.activation_checkpointing_enable()
        # Only reentrant checkpoints need inputs with gradients; these are not, and such inputs
        # would carry the backward pass through frozen layers.
        model.disable_input_require_grads()
    return model


def _exact_logits(_module: nn.Module, _args: Any, output: Any) -> None:
    """Logits in float32: bfloat16 has too few digits to sum many logarithms."""
    output.logits = output.logits.float()


def drop_dead_models() -> None:
    """Free the memory of models that are no longer referenced. A sharded model, or one with hooks,
    is a reference cycle, which Python may keep in memory (a GPU's too) for long.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
