"""Training on answers: logits are computed only for the tokens of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from atu.distributed import processes
from atu.models.llm import logits_at
from atu.training.batches import IGNORE, Batch, following

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def answer_nll(model: PreTrainedModel, batch: Batch) -> Tensor:
    """`mean_nll` of the model on a right-padded batch, with logits only at scored positions, which
    are few in questions with answers.
    """
    after = following(batch.labels)
    scored = after != IGNORE
    with logits_at(model, scored):
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
    nll = F.cross_entropy(logits, after[scored], reduction="sum")
    return processes.mean(nll, scored.sum())
