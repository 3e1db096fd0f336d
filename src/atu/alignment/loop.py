"""Alignment data and the alignment loss, shared by `align` and by the re-alignment of `unlearn`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from atu.alignment.cosine import alignment_loss
from atu.distributed import processes
from atu.inference.finite import require_finite_states
from atu.models.compute import device_of
from atu.models.llm import frozen, hidden_states_at, require_room
from atu.models.predictor import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    EmbeddingPredictor,
    load_predictor,
)
from atu.results.artifacts import Artifact
from atu.results.files import read_tensors
from atu.seeding import child_seed, generator
from atu.training.batches import length_sorted_batches, pass_over
from atu.training.keeper import Keeper
from atu.training.loop import LossFunction, constant, make_optimizers, run_steps, warmup_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AlignmentData:
    """Texts as token ids, with the number of every token's window; -1 where there is none."""

    windows: Tensor
    """[n_windows, dim], unit length."""
    concept: Tensor
    """[n_concepts, dim], unit length."""
    token_ids: list[Tensor]
    window_numbers: list[Tensor]
    answers: Tensor | None = None
    """[n_forget, dim]: of each forget text's own answer, unit length, zeros where a text answers no
    prompt; None where none does."""

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def load(cls, path: Path) -> AlignmentData:
        """Read the output of the phase `embed`."""
        stored = read_tensors(path)
        lengths = stored["lengths"].tolist()
        return cls(
            windows=stored["windows"],
            concept=stored["concept"],
            token_ids=list(stored["token_ids"].long().split(lengths)),
            window_numbers=list(stored["window_numbers"].long().split(lengths)),
            answers=stored.get("answers"),
        )

    def targets(self, texts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Embeddings [batch, seq, dim] and mask [batch, seq] of the windows that there are."""
        numbers = nn.utils.rnn.pad_sequence(
            [self.window_numbers[i] for i in texts], batch_first=True, padding_value=-1
        )
        mask = numbers >= 0
        return self.windows[numbers.clamp(min=0)], mask

    def tokens(self, texts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Right-padded token ids and attention mask, [batch, seq] each."""
        ids = nn.utils.rnn.pad_sequence([self.token_ids[i] for i in texts], batch_first=True)
        lengths = torch.tensor([len(self.token_ids[i]) for i in texts])
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        return ids, mask


def layer_folder(layer: int) -> str:
    """The folder in which `align` saves the predictor of a hook layer."""
    return f"layer-{layer}"


def load_predictors(align: Artifact) -> dict[int, EmbeddingPredictor]:
    """The predictors that `align` saved, by hook layer."""
    folders = {Path(name).parent.name for name in align.manifest["artifacts"]}
    layers = sorted(int(f.split("-")[1]) for f in folders if f.startswith("layer-"))
    return {
        layer: load_predictor(
            *(align.file(f"{layer_folder(layer)}/{name}") for name in (CONFIG_FILE, WEIGHTS_FILE))
        )
        for layer in layers
    }


def cache_hidden_states(
    model: PreTrainedModel, data: AlignmentData, layer: int, batch_size: int = 64
) -> list[Tensor]:
    """`cache_states_at` one hook layer."""
    return cache_states_at(model, data, [layer], batch_size)[layer]


def cache_states_at(
    model: PreTrainedModel, data: AlignmentData, layers: Sequence[int], batch_size: int = 64
) -> dict[int, list[Tensor]]:
    """Hidden states [tokens, hidden] of every text at every hook layer, from one pass; each text is
    computed once, by one rank.

    The model is frozen while predictors train, so they do not change. They are kept on the CPU,
    because those of a real model take gigabytes.

    Raises:
        EvaluationError: a hidden state is not finite; names the text and the layer.
        LengthError: a text does not fit the model's context.
    """
    device = device_of(model)
    rows = [ids.tolist() for ids in data.token_ids]
    require_room(model, rows, [f"text {i} of the embeddings" for i in range(len(rows))])
    order = sorted(range(len(data)), key=lambda i: len(data.token_ids[i]))
    states: dict[int, dict[int, Tensor]] = {layer: {} for layer in layers}
    with frozen(model), torch.no_grad():
        for at in range(0, len(order), batch_size):
            chosen = order[at : at + batch_size]
            ids, mask = (processes.split_rows(t).to(device) for t in data.tokens(chosen))
            named = [f"text {text} of the embeddings" for text in chosen]
            for layer, local_states in hidden_states_at(model, ids, mask, layers).items():
                hidden = processes.join_rows(local_states.cpu(), len(chosen))
                for row, text in zip(hidden, chosen, strict=True):
                    states[layer][text] = row[: len(data.token_ids[text])].clone()
                require_finite_states(model, hidden, [rows[text] for text in chosen], named)
    return {layer: [found[i] for i in range(len(data))] for layer, found in states.items()}


def alignment_step(
    predictor: EmbeddingPredictor,
    data: AlignmentData,
    states: Sequence[Tensor] | Callable[[], Sequence[Tensor]],
    texts: Sequence[int],
    batch_tokens: int,
    rng: np.random.Generator,
) -> tuple[LossFunction, Callable[[int], None]]:
    """Two functions: the loss of the next batch of `texts`, called once per step, and one that
    skips a number of batches.

    Batches hold texts of similar length and at most `batch_tokens` padded tokens.

    Args:
        states: hidden states of every text, or a function that computes them before the first
            batch.
    """
    lengths = [len(data.token_ids[i]) for i in texts]
    batches = length_sorted_batches(lengths, batch_tokens, len(texts), rng)
    computed: list[Sequence[Tensor]] = []

    def loss() -> tuple[Tensor, dict[str, float]]:
        if not computed:
            computed.append(states() if callable(states) else states)
        chosen = [texts[i] for i in next(batches)]
        value = batch_loss(predictor, data, computed[0], chosen)
        return value, {"cosine": 1 - value.item()}

    return loss, partial(pass_over, batches)


def train_predictor(
    predictor: EmbeddingPredictor,
    data: AlignmentData,
    states: Sequence[Tensor],
    texts: Sequence[int],
    params: Mapping[str, Any],
    *,
    seed: int,
    label: str,
    keeper: Keeper,
) -> None:
    """Align a predictor with the frozen model that `states` are from; leaves it in eval mode.

    `params` are those of the phase `align`: steps, batch_tokens, learning_rate, warmup, clip,
    reference_compat (with which the rate is constant).
    """
    torch.manual_seed(child_seed(seed, "align", "dropout", *processes.rank_stream()))
    predictor.train()
    rng = generator(seed, "align", "batches")
    loss, seek = alignment_step(predictor, data, states, texts, params["batch_tokens"], rng)
    run_steps(
        label,
        params["steps"],
        loss,
        make_optimizers("adamw", list(predictor.parameters()), params["learning_rate"]),
        clip=params["clip"],
        trace=keeper.trace,
        keeper=keeper,
        part=label,
        seek=seek,
        schedule=constant if params["reference_compat"] else warmup_linear(params["warmup"]),
    )
    predictor.eval()


def batch_loss(
    predictor: EmbeddingPredictor,
    data: AlignmentData,
    states: Sequence[Tensor],
    texts: Sequence[int],
) -> Tensor:
    """1 - cosine over the windows of these texts, on the predictor's device.

    A rank without a text reads the first one again, with a mask of zeros.
    """
    hidden = nn.utils.rnn.pad_sequence([states[i] for i in texts], batch_first=True)
    target, mask = data.targets(texts)
    rows = list(processes.share(range(len(texts))))
    if not rows:
        rows, mask = [0], torch.zeros_like(mask)
    device = device_of(predictor)
    hidden, target, mask = (t[rows].to(device) for t in (hidden, target, mask))
    return alignment_loss(predictor(hidden), target, mask)


@torch.no_grad()
def evaluate_alignment(
    predictor: EmbeddingPredictor,
    data: AlignmentData,
    states: Sequence[Tensor],
    train: Sequence[int],
    test: Sequence[int],
) -> dict[str, float]:
    """Mean cosine on the windows of `test`, that of the best constant, and the skill.

    The constant that maximises the mean cosine to unit vectors is their normalised mean; it is
    fitted on `train`. Skill = (cosine - constant) / (1 - constant): 0 for the constant, 1 for
    perfect prediction, negative when worse than the constant.
    """
    predictor.eval()
    numbers = torch.cat([data.window_numbers[i] for i in train])
    fitted = data.windows[numbers[numbers >= 0]]
    constant = nn.functional.normalize(fitted.mean(dim=0), dim=0)
    cosines, baseline = [], []
    for text in test:
        target, mask = data.targets([text])
        predicted = predictor(states[text][None].to(device_of(predictor))).cpu()
        cosines.append(nn.functional.cosine_similarity(predicted, target, dim=-1)[mask])
        baseline.append((target @ constant)[mask])
    cosine, floor = torch.cat(cosines).mean().item(), torch.cat(baseline).mean().item()
    return {"cosine": cosine, "constant_cosine": floor, "skill": (cosine - floor) / (1 - floor)}
