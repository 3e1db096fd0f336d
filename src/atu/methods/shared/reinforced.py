"""A copy of the model that is trained further on the forget corpus, from which task vectors and
Who's Harry Potter read what the corpus teaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from atu.methods.base import Context, Stage
from atu.models.shards import counterparts
from atu.training.likelihood import mean_nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def reinforced_copy(context: Context) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """A copy of the model as it is, in training mode, and its counterparts of
    `context.parameters`, in the same order.
    """
    copied = context.duplicate().train()
    return copied, counterparts(context.parameters, context.model, copied)


def reinforce(
    context: Context,
    model: PreTrainedModel,
    parameters: list[nn.Parameter],
    steps: int,
    learning_rate: float,
) -> Stage:
    """The stage that lowers the copy's NLL of the forget corpus; no point of the trajectory."""

    def loss() -> tuple[Tensor, dict[str, float]]:
        batch = next(context.forget)
        logits = model(**batch.inputs).logits
        value = mean_nll(logits, batch.labels)
        return value, {"forget": value.item()}

    return Stage(
        "reinforce", steps, loss, parameters, learning_rate, part="reinforced", evaluate=False
    )
