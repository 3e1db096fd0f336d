"""Causal tracing: at which layer a fact about the subject can be restored.

After Meng et al. 2022 (ROME, arXiv 2202.05262, section 2.1): the embeddings of the subject's tokens
are corrupted with noise, so that the answer is lost; then the hidden state of the subject's last
token at one layer is restored, and the share of the answer's probability that returns says how much
of the fact that layer stores. The hook reads the concept at the layer with the largest recovery.

Two differences: one layer's state is restored, not a window of ten; and recovery is a share of the
probability lost to noise, pooled over questions, so that models can be compared.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atu.errors import EvaluationError
from atu.inference.finite import failing_layer, not_finite
from atu.models.compute import device_of
from atu.models.llm import frozen, hidden_states_at
from atu.models.patching import patched
from atu.probes.prompts import join_answer
from atu.training.batches import EncodedText, encode_text, subject_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOISE = 3.0
"""Standard deviation of the noise, relative to that of the subject tokens' embeddings."""
SAMPLES = 4
"""Noise samples per question."""


@dataclass(frozen=True)
class Question:
    """One question with its answer and the positions of its subject."""

    text: EncodedText
    subject: list[int]
    """Positions of the subject's tokens, over all occurrences."""

    @property
    def ids(self) -> Tensor:
        """Token ids [1, seq]."""
        return torch.tensor([self.text.ids])


def questions_about(
    tokenizer: Any, probes: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[Question]:
    """Probes as questions, without those that do not name a subject.

    Args:
        names: the subject's, and what else texts call it.

    Raises:
        EvaluationError: none names a subject.
    """
    questions = []
    for probe in probes:
        text = join_answer(probe["prompt"], probe["answer"])
        encoded = encode_text(tokenizer, text, probe["prompt"], end=False)
        before = [span for span in encoded.offsets if span[1] <= len(probe["prompt"])]
        places = subject_positions(before, text, names)
        if places:
            questions.append(Question(encoded, sorted({i for place in places for i in place})))
    if not questions:
        raise EvaluationError(f"causal tracing: no question names {', '.join(names)}")
    return questions


@torch.no_grad()
def trace_layers(
    model: PreTrainedModel, questions: Sequence[Question], layers: Sequence[int], seed: int
) -> dict[int, float]:
    """Per hook layer the share of the lost probability that its state restores.

    Sum over questions of (restored - corrupted) / (clean - corrupted), where each is the
    probability of the whole answer: 0 if nothing returns, 1 if everything does.

    Raises:
        EvaluationError: a probability is not finite; or the noise lowers none, so there is nothing
            to restore.
    """
    table: Any = model.get_input_embeddings().weight
    device = device_of(model)
    used = torch.tensor([q.text.ids[i] for q in questions for i in q.subject], device=device)
    scale = NOISE * table[used].std()
    generator = torch.Generator().manual_seed(seed)
    lost, back = 0.0, dict.fromkeys(layers, 0.0)
    with frozen(model):
        for number, question in enumerate(questions):
            shape = (SAMPLES, len(question.subject), int(table.shape[1]))
            noise = scale * torch.randn(shape, generator=generator).to(table)
            ids = question.ids.to(device)
            states = hidden_states_at(model, ids, torch.ones_like(ids), layers)
            last = torch.arange(ids.shape[1], device=device)[None] == question.subject[-1]
            clean = answer_probability(model, question, 1)
            if not math.isfinite(clean):
                place = failing_layer(model, question.text.ids)
                raise not_finite(f"causal tracing, item {number}", place, "a probability")
            with corrupted(model, question, noise):
                base = answer_probability(model, question, SAMPLES)
                for layer in layers:
                    with patched(model, layer, states[layer], last):
                        back[layer] += answer_probability(model, question, SAMPLES) - base
            lost += clean - base
    if lost <= 0:
        raise EvaluationError("causal tracing: noise on the subject does not lower any answer")
    return {layer: value / lost for layer, value in back.items()}


def answer_probability(model: PreTrainedModel, question: Question, copies: int) -> float:
    """Probability of all answer tokens together, averaged over `copies` equal rows."""
    ids = question.ids.to(device_of(model)).expand(copies, -1)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    start = question.text.answer_start
    scores = logits[:, start - 1 : -1].float().log_softmax(dim=-1)
    chosen = scores.gather(2, ids[:, start:, None]).squeeze(2)
    return chosen.sum(dim=1).exp().mean().item()


@contextlib.contextmanager
def corrupted(model: PreTrainedModel, question: Question, noise: Tensor) -> Iterator[None]:
    """The model with `noise` [samples, subject tokens, hidden] on the subject's embeddings."""

    def add(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, question.subject] += noise
        return output

    handle = model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
