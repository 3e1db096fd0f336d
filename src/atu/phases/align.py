"""align: train the embedding predictor on the frozen LM's hidden states."""

from __future__ import annotations

from pathlib import Path

import torch

from atu.alignment import (
    AlignmentData,
    alignment_step,
    cache_hidden_states,
    evaluate_alignment,
)
from atu.artifacts import Artifact, write_folder, write_jsonl
from atu.config import Align
from atu.models.llm import load_lm
from atu.models.predictor import (
    EmbeddingPredictor,
    PredictorConfig,
    build_predictor,
    save_predictor,
)
from atu.seeding import child_seed, generator
from atu.training import Trace, make_optimizers, run_steps, warmup_linear

PHASE = "align"


def run(out: Path, section: Align, seed: int, lm: Artifact, embed: Artifact) -> None:
    """Write the predictor, its trace, and its cosine and skill on held-out texts."""
    with write_folder(
        out,
        PHASE,
        cell=embed.cell | {"seed": seed},
        params=section.model_dump(),
        inputs={"pretrain": lm, "embed": embed},
    ) as job:
        model, _ = load_lm(lm.subfolder("model"))
        data = AlignmentData.load(embed.file("embeddings.safetensors"))
        states = cache_hidden_states(model, data, section.hook_layer)
        order = [int(i) for i in generator(seed, "align", "split").permutation(len(data))]
        cut = max(1, int(len(order) * section.held_out))
        test, train = order[:cut], order[cut:]
        predictor = make_predictor(section, states[0].shape[-1], data.windows.shape[-1], seed)
        trace = Trace()
        _train(predictor, data, states, train, section, seed, trace)
        save_predictor(predictor, job.folder)
        write_jsonl(job.path("trace.jsonl"), trace.rows)
        for split, texts in (("train", train), ("held_out", test)):
            scores = evaluate_alignment(predictor, data, states, train, texts)
            job.metrics |= {f"align/{name}/{split}": value for name, value in scores.items()}


def make_predictor(
    section: Align, input_dim: int, output_dim: int, seed: int
) -> EmbeddingPredictor:
    """A fresh predictor of the section's size."""
    config = PredictorConfig(
        input_dim=input_dim,
        output_dim=output_dim,
        width=section.width,
        layers=section.layers,
        heads=section.heads,
        feedforward=section.feedforward,
        dropout=section.dropout,
        sees_future=section.reference_compat,
    )
    return build_predictor(config, child_seed(seed, "align", "init"))


def _train(
    predictor: EmbeddingPredictor,
    data: AlignmentData,
    states: list[torch.Tensor],
    train: list[int],
    section: Align,
    seed: int,
    trace: Trace,
) -> None:
    torch.manual_seed(child_seed(seed, "align", "dropout"))
    predictor.train()
    loss = alignment_step(
        predictor, data, states, train, section.batch_tokens, generator(seed, "align", "batches")
    )
    optimizers = make_optimizers("adamw", list(predictor.parameters()), section.learning_rate)
    run_steps(
        "align",
        section.steps,
        loss,
        optimizers,
        clip=section.clip,
        trace=trace,
        schedule=warmup_linear(section.warmup),
    )
    predictor.eval()
