"""The language model: loading, building from a config, and hidden states by early exit.

`transformers` is imported where a model is built or loaded: the import takes seconds, and the
workflow and the parameter check import this module without either.

A causal LM is used through what four families have in common: a list of decoder layers, each called
with hidden states [batch, seq, hidden] as its first argument.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atu.errors import ArtifactError, LengthError
from atu.models.compute import Compute, settle
from atu.models.folders import loading, require_vocabulary
from atu.models.guards import load_guard
from atu.models.guards.base import unguarded
from atu.models.pinned import FOLDER, is_pinned, model_folder, pinned_folder
from atu.results.artifacts import Artifact

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
SAVED_GENERATION = "saved_generation_config"
"""The attribute of a loaded model that holds its saved generation config."""
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
LAYER_PATHS = ("model.layers", "transformer.h", "gpt_neox.layers")


def open_lm(
    lm: Artifact, compute: Compute, *, training: bool, place: torch.device | None = None
) -> tuple[PreTrainedModel, Any]:
    """`load_lm` of a job's folder `model`; code in it runs if `compute` lists the model.

    Raises:
        ArtifactError: as `load_lm`.
    """
    code = lm.cell["model"] in compute.remote_code
    folder = model_folder(lm, code)
    return load_lm(folder, compute, training=training, code=code, place=place)


def open_tokenizer(lm: Artifact, compute: Compute) -> Any:
    """The tokenizer of a job's folder `model`; as `open_lm`."""
    code = lm.cell["model"] in compute.remote_code
    return load_tokenizer(model_folder(lm, code), code)


def open_context(lm: Artifact, compute: Compute) -> int | None:
    """Tokens of the context of a job's model, by its configuration alone; as `open_lm`."""
    from transformers import AutoConfig

    code = lm.cell["model"] in compute.remote_code
    folder = pinned_folder(lm) if is_pinned(lm) else lm.file(f"{FOLDER}/config.json").parent
    with loading(folder, weights=False, code=code):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=code, local_files_only=True)
    return context_length(config)


def context_length(config: Any) -> int | None:
    """Tokens of prompt and answer together that a model of this configuration reads; None where it
    names no limit.
    """
    config = getattr(config, "text_config", None) or config
    limit: int | None = getattr(config, "max_position_embeddings", None)
    return limit


def load_lm(
    folder: Path,
    compute: Compute,
    *,
    training: bool,
    code: bool = False,
    place: torch.device | None = None,
) -> tuple[PreTrainedModel, Any]:
    """The LM (eval mode, on its device), with its guard if it has one, and its tokenizer, from a
    local folder of safetensors.

    Runs code from the folder only with `code`; never reads pickled weights.

    Args:
        training: whether weights will be trained or compared; they are then float32, whatever the
            precision.
        place: where to put the weights; None for the device that computes.

    Raises:
        ArtifactError: the folder holds a forbidden file, or cannot be read.
        ConfigError: the model has no such attention.
    """
    model = load_weights(folder, compute.dtype(training), code)
    return settle(model, compute, place).eval(), load_tokenizer(folder, code)


def load_weights(
    folder: Path, dtype: torch.dtype, code: bool = False, **options: Any
) -> PreTrainedModel:
    """The model of a folder with its guard, on the CPU; `options` are `from_pretrained`'s.

    Raises:
        ArtifactError: as `load_lm`.
    """
    from transformers import AutoModelForCausalLM

    with loading(folder, code=code):
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=code,
            local_files_only=True,
            **options,
        )
        guard = load_guard(folder)
        if guard is not None:
            guard.attach(model)
    use_plain_generation(model)
    return model


def use_plain_generation(model: PreTrainedModel) -> None:
    """Keep only the special tokens of the model's generation config: a repetition penalty (Qwen's)
    would change greedy answers and samples. `save_lm` saves the original config.
    """
    from transformers import GenerationConfig

    config = getattr(model, "generation_config", None)
    if config is not None:
        setattr(model, SAVED_GENERATION, config)
        named = {name: getattr(config, name) for name in SPECIAL_TOKENS}
        model.generation_config = GenerationConfig(**named)


def load_tokenizer(folder: Path, code: bool = False) -> Any:
    """The tokenizer of a local model folder. One without a padding token (Llama's, GPT-2's) pads
    with its end-of-text token; padding is masked everywhere, so the choice does not matter.

    Raises:
        ArtifactError: as `load_lm`; or there is no end-of-text token.
    """
    from transformers import AutoTokenizer

    require_vocabulary(folder, code)
    with loading(folder, weights=False, code=code):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=code, local_files_only=True
        )
    if tokenizer.eos_token_id is None:
        raise ArtifactError(
            f"{folder}: the tokenizer has no token that ends a text; set `eos_token` in "
            "tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextlib.contextmanager
def saved_generation(model: PreTrainedModel) -> Iterator[None]:
    """The model with its saved generation config."""
    plain: Any = getattr(model, "generation_config", None)
    model.generation_config = getattr(model, SAVED_GENERATION, plain)
    try:
        yield
    finally:
        model.generation_config = plain


def save_lm(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write a Hugging Face folder that `from_pretrained` loads, with the guard's files in it."""
    with saved_generation(model), unguarded(model) as guard:
        model.save_pretrained(folder)
    if guard is not None:
        guard.save(folder)
    tokenizer.save_pretrained(folder)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The model's decoder layers, in order.

    Raises:
        TypeError: the architecture keeps its layers elsewhere than `LAYER_PATHS` says.
    """
    for path in LAYER_PATHS:
        with contextlib.suppress(AttributeError):
            layers = model.get_submodule(path)
            if isinstance(layers, nn.ModuleList):
                return layers
    raise TypeError(f"{type(model).__name__}: no decoder layers at {', '.join(LAYER_PATHS)}")


class _EarlyExit(Exception):
    """Leaves the forward pass at the highest layer that is read."""


EARLY_EXIT = "atu_early_exit"
"""The attribute of a sharded model that runs it up to an early exit."""


def hidden_states_at(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, indices: Sequence[int]
) -> dict[int, Tensor]:
    """What `output_hidden_states` gives at these indices, without running the layers above.

    Args:
        input_ids, attention_mask: [batch, seq].
        indices: in 1 .. number of layers - 1. (The last would be after the final norm.)

    Returns:
        [batch, seq, hidden] per index, with gradients to the layers below only.
    """
    layers = decoder_layers(model)
    for layer in indices:
        if not 1 <= layer < len(layers):
            raise ValueError(f"hook layer {layer} is not in 1..{len(layers) - 1}")
    return read_states(model, input_ids, attention_mask, {i: layers[i] for i in indices})


def read_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    readers: Mapping[int, nn.Module],
) -> dict[int, Tensor]:
    """The hidden states that each of these modules reads, [batch, seq, hidden], without running
    what comes behind the last of them.

    Args:
        input_ids, attention_mask: [batch, seq].
        readers: decoder layers or the final norm, by a number that rises with their order.
    """
    read: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            read[number] = args[0] if args else kwargs["hidden_states"]
            if number == max(readers):
                raise _EarlyExit

        return hook

    handles = [
        # Before all other hooks: the layer at which the pass ends need not be gathered from shards.
        module.register_forward_pre_hook(keep(number), with_kwargs=True, prepend=True)
        for number, module in readers.items()
    ]
    return _until_exit(model, input_ids, attention_mask, read, handles)


def _until_exit(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    read: T,
    handles: Sequence[RemovableHandle],
) -> T:
    """`read`, which the hooks fill before they leave the pass; removes the hooks."""
    run = getattr(model, EARLY_EXIT, None) or partial(_leave_early, model)
    try:
        return run(input_ids, attention_mask, read)
    finally:
        for handle in handles:
            handle.remove()


def _leave_early(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, read: T) -> T:
    try:
        model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    except _EarlyExit:
        return read
    raise RuntimeError("the hook layer was never reached")


def offer_early_exit(model: PreTrainedModel) -> None:
    """Register the early exit as a forward method of a sharded model: FSDP then gathers the
    parameters outside the layers before it and releases them after it.
    """
    from torch.distributed.fsdp import register_fsdp_forward_method

    setattr(model, EARLY_EXIT, partial(_leave_early, model))
    register_fsdp_forward_method(model, EARLY_EXIT)


def hidden_states(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, layer: int
) -> Tensor:
    """`hidden_states_at` one layer, [batch, seq, hidden]."""
    return hidden_states_at(model, input_ids, attention_mask, [layer])[layer]


def require_room(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], texts: Sequence[str], new: int = 0
) -> None:
    """Make sure that every text, with `new` tokens after it, fits the model's context.

    Beyond its context a model with learned positions fails, and one with rotary positions was never
    trained; nothing is truncated here.

    Args:
        rows: token ids of each text.
        texts: the texts themselves, or labels for them.

    Raises:
        LengthError: names the first text that does not fit, its length and the context's.
    """
    limit = context_length(getattr(model, "config", None))
    if limit is None:
        return
    for row, text in zip(rows, texts, strict=True):
        if len(row) + new > limit:
            more = f" and {new} new ones" if new else ""
            raise LengthError(
                f"{text[:200]!r} has {len(row)} tokens{more}, more than the {limit} of the model's "
                "context; shorten it where it is prepared, or take a model with a longer one"
            )


@contextlib.contextmanager
def logits_at(model: PreTrainedModel, chosen: Tensor) -> Iterator[None]:
    """Inside, the model's logits are [n, vocab]: only those of the n chosen positions.

    Args:
        chosen: [batch, seq], true where logits are computed.
    """

    def pick(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][chosen],)

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


MLP_OUTPUT_PATHS = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h")


def mlp_output(layer: nn.Module) -> nn.Module:
    """The projection of a decoder layer's MLP back into the residual stream.

    Raises:
        TypeError: the architecture keeps it elsewhere than `MLP_OUTPUT_PATHS` says.
    """
    for path in MLP_OUTPUT_PATHS:
        with contextlib.suppress(AttributeError):
            return layer.get_submodule(path)
    raise TypeError(f"{type(layer).__name__}: no MLP output at {', '.join(MLP_OUTPUT_PATHS)}")


def output_norm(layer: nn.Module) -> nn.Module | None:
    """The norm between a decoder layer's MLP and the residual stream, which Gemma 2 and 3 have."""
    norm = getattr(layer, "post_feedforward_layernorm", None)
    return norm if isinstance(norm, nn.Module) else None


def weight_matrix(projection: nn.Module) -> Tensor:
    """The weight of a linear layer as [out, in], in place: GPT-2's Conv1D keeps it transposed."""
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight.T if type(projection).__name__ == "Conv1D" else weight


def mlp_inputs(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, layer: int
) -> Tensor:
    """The inputs of the MLP output projection of decoder layer `layer`, by early exit.

    Args:
        input_ids, attention_mask: [batch, seq].
        layer: number of the decoder layer, from 0.

    Returns:
        [batch, seq, intermediate].
    """
    read: list[Tensor] = []
    projection = mlp_output(decoder_layers(model)[layer])

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # Under autocast this is bfloat16, which the projection cannot read outside the pass.
        read.append(args[0].to(weight_matrix(projection).dtype))
        raise _EarlyExit

    handle = projection.register_forward_pre_hook(hook)
    return _until_exit(model, input_ids, attention_mask, read, [handle])[0]


def parameters_below(model: PreTrainedModel, layer: int) -> list[nn.Parameter]:
    """All that the hidden states at `layer` depend on: embeddings and the decoder layers below.

    Tied output embeddings are the same tensor as the input embeddings and change with them.
    """
    tables = [m for m in model.base_model.modules() if isinstance(m, nn.Embedding)]
    parameters = [parameter for table in tables for parameter in table.parameters()]
    for module in decoder_layers(model)[:layer]:
        parameters += list(module.parameters())
    return parameters


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode without gradients; both are restored on leaving."""
    training = module.training
    flags = [p.requires_grad for p in module.parameters()]
    module.eval().requires_grad_(False)
    try:
        yield module
    finally:
        module.train(training)
        for parameter, flag in zip(module.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)


NORM_PATHS = ("norm", "ln_f", "final_layer_norm")


def final_norm(model: PreTrainedModel) -> nn.Module:
    """The norm between the last decoder layer and the output head.

    Raises:
        TypeError: the architecture keeps it elsewhere than `NORM_PATHS` says.
    """
    for path in NORM_PATHS:
        norm = getattr(model.base_model, path, None)
        if isinstance(norm, nn.Module):
            return norm
    raise TypeError(f"{type(model).__name__}: no final norm at {', '.join(NORM_PATHS)}")
