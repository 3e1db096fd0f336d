"""Teaching answers: their loss, at the price of their own tokens alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from atu.distributed import processes
from atu.models.llm import logits_at
from atu.training.batches import IGNORE, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def answer_nll(model: PreTrainedModel, batch: Batch) -> Tensor:
    """`mean_nll` of the model on a batch without padding on the left, its logits made only where
    they are scored: in questions with answers at few positions.
    """
    following = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORE)
    scored = following != IGNORE
    with logits_at(model, scored):
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
    nll = F.cross_entropy(logits, following[scored], reduction="sum")
    return processes.mean(nll, scored.sum())
