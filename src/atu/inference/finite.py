"""NaN and infinity are never an answer: they fail an evaluation, which says the item and the layer.

`argmax` takes a NaN for the largest value, so a model of NaNs would be right wherever the first
option is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from atu.distributed import processes
from atu.errors import EvaluationError
from atu.models.compute import device_of
from atu.models.llm import decoder_layers


def require_finite(
    values: Tensor,
    items: Sequence[str],
    where: Callable[[int], str] | None = None,
    what: str = "a logit",
) -> None:
    """Refuse values of a model that are not finite.

    Args:
        values: [batch, ...].
        items: a name for each row of the batch.
        where: says of a row's number in which layer it is first so; called for the first bad row
            only.
        what: one of the values.

    Raises:
        EvaluationError: names the first item with a value that is NaN or infinite, and the layer.
    """
    good = torch.isfinite(values).flatten(1).all(dim=1)
    if bool(good.all()):
        return
    row = int((~good).nonzero()[0, 0])
    raise not_finite(items[row], where(row) if where else "", what)


def not_finite(item: str, layer: str, what: str = "a logit") -> EvaluationError:
    """The error that says so; `layer` is `failing_layer`'s."""
    return EvaluationError(f"{item}: {what} is not finite{layer and '; ' + layer}")


def require_finite_states(
    model: Any,
    states: Iterable[Tensor],
    rows: Sequence[Sequence[int] | Tensor],
    items: Sequence[str],
) -> None:
    """Refuse hidden states that are not finite.

    Args:
        states: [seq, hidden] of every text, padded on the right.
        rows: token ids of every text, without padding.
        items: a name for each text.

    Raises:
        EvaluationError: names the first text with a state that is NaN or infinite, and the layer.
    """
    for state, ids, item in zip(states, rows, items, strict=True):
        if not bool(torch.isfinite(state[: len(ids)]).all()):
            raise not_finite(item, failing_layer(model, ids), "a hidden state")


@torch.no_grad()
def failing_layer(model: Any, ids: Sequence[int] | Tensor) -> str:
    """Where the hidden states of one text stop being finite, by a forward pass of its own: layer 0
    are the embeddings, layer i the output of decoder layer i. Empty where that cannot be found out:
    in an unknown architecture, or with several ranks, whose passes must be the same.

    Args:
        ids: [seq], without padding.
    """
    try:
        layers = list(decoder_layers(model))
    except (TypeError, AttributeError):
        return ""
    if processes.world_size() > 1:
        return ""
    bad: list[int] = []

    def look(number: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            if not bool(torch.isfinite(states[:, : len(ids)]).all()):
                bad.append(number)

        return hook

    # With a padding token, so that attention gets a mask: without one PyTorch's kernel for the CPU
    # can turn a NaN into zeros.
    row = torch.as_tensor([*ids, ids[0]], device=device_of(model))[None]
    mask = torch.ones_like(row)
    mask[0, -1] = 0
    with ExitStack() as hooks:
        for number, module in enumerate([model.get_input_embeddings(), *layers]):
            hooks.callback(module.register_forward_hook(look(number)).remove)
        logits = model(input_ids=row, attention_mask=mask, use_cache=False).logits[:, : len(ids)]
    if bad:
        place = ", the embeddings" if bad[0] == 0 else ""
        return f"first in the hidden states of layer {bad[0]} of {len(layers)}{place}"
    if not bool(torch.isfinite(logits).all()):
        return f"all {len(layers)} layers are finite, the output head's logits are not"
    return "read alone it is finite everywhere"
