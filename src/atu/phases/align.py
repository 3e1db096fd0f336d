"""align: train the embedding predictor on the frozen LM's hidden states."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atu.alignment.loop import (
    AlignmentData,
    cache_hidden_states,
    evaluate_alignment,
    layer_folder,
    train_predictor,
)
from atu.alignment.tracing import questions_about, trace_layers
from atu.config.dependencies import dependencies
from atu.config.sections import Align
from atu.distributed import processes
from atu.errors import ConfigError
from atu.models.compute import Compute, device_of
from atu.models.llm import open_lm
from atu.models.predictor import (
    CONFIG_FILE,
    EmbeddingPredictor,
    build_predictor,
    save_predictor,
)
from atu.results.artifacts import Artifact
from atu.results.files import write_jsonl
from atu.results.jobs import Job, write_folder
from atu.results.tables import read_table
from atu.seeding import child_seed, generator
from atu.training.keeper import Keeper, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PHASE = "align"


def run(
    out: Path,
    section: Align,
    compute: Compute,
    seed: int,
    pretrain: Artifact,
    embed: Artifact,
    prepare: Artifact,
) -> None:
    """Write the predictors of the kept hook layers, the trace, and cosine and skill on held-out
    texts.
    """
    with write_folder(
        out,
        PHASE,
        cell=embed.cell | {"seed": seed},
        params=dependencies(PHASE, section, compute),
        inputs={"pretrain": pretrain, "embed": embed, "prepare": prepare},
    ) as job:
        model, tokenizer = open_lm(pretrain, compute, training=False)
        data = AlignmentData.load(embed.file("embeddings.safetensors"))
        layers = list(section.hook_layers)
        if section.choose == "tracing":
            recovery = trace_target(model, tokenizer, prepare, layers, seed)
            job.metrics |= {
                f"align/layer_{layer}.recovery/select": value for layer, value in recovery.items()
            }
            layers = [processes.agreed(max(layers, key=lambda layer: recovery[layer]))]
        keeper = Keeper(job.checkpoints, Trace())
        skills = {}
        for layer in layers:
            scores = align_layer(job, section, model, data, layer, seed, keeper)
            skills[layer] = scores["skill/held_out"]
            job.metrics |= {f"align/layer_{layer}.{name}": v for name, v in scores.items()}
        if section.choose == "skill":
            best = processes.agreed(max(layers, key=lambda layer: skills[layer]))
            for layer in set(layers) - {best}:
                shutil.rmtree(job.folder / layer_folder(layer))
        write_jsonl(job.path("trace.jsonl"), keeper.trace.rows)
        job.notes["resumed"] = keeper.resumed


def trace_target(
    model: PreTrainedModel, tokenizer: Any, prepare: Artifact, layers: Sequence[int], seed: int
) -> dict[int, float]:
    """Causal tracing on the target's plain questions of the `select` split."""
    probes = [
        probe
        for probe in read_table(prepare.file("probes.parquet"))
        if probe["role"] == "target" and probe["form"] == "question" and probe["split"] == "select"
    ]
    questions = questions_about(tokenizer, probes, prepare.cell["new"] + prepare.cell["aliases"])
    return trace_layers(model, questions, layers, child_seed(seed, "align", "tracing") % 2**31)


def align_layer(
    job: Job,
    section: Align,
    model: PreTrainedModel,
    data: AlignmentData,
    layer: int,
    seed: int,
    keeper: Keeper,
) -> dict[str, float]:
    """Train and save the predictor of one hook layer; its scores as `name/split`."""
    states = cache_hidden_states(model, data, layer)
    order = [int(i) for i in generator(seed, "align", "split").permutation(len(data))]
    cut = max(1, int(len(order) * section.held_out))
    test, train = order[:cut], order[cut:]
    require_windows(data, {"training": train, "held-out": test})
    predictor = make_predictor(section, states[0].shape[-1], data.windows.shape[-1], seed)
    predictor.to(device_of(model))
    params, label = section.model_dump(), f"{PHASE}, layer {layer}"
    train_predictor(predictor, data, states, train, params, seed=seed, label=label, keeper=keeper)
    folder = job.path(f"{layer_folder(layer)}/{CONFIG_FILE}").parent
    save_predictor(predictor, folder)
    return {
        f"{name}/{split}": value
        for split, texts in (("train", train), ("held_out", test))
        for name, value in evaluate_alignment(predictor, data, states, train, texts).items()
    }


def require_windows(data: AlignmentData, parts: Mapping[str, Sequence[int]]) -> None:
    """Refuse texts that are all too short, of which nothing could be learned or measured.

    Raises:
        ConfigError: none of a part's texts holds a whole window.
    """
    for part, texts in parts.items():
        if not any(bool((data.window_numbers[i] >= 0).any()) for i in texts):
            raise ConfigError(
                "embed.k", None, f"none of the {len(texts)} {part} texts is as long as a window; "
                "give longer texts, more of them, a smaller k, or embed.partial"
            )  # fmt: skip


def make_predictor(
    section: Align, input_dim: int, output_dim: int, seed: int
) -> EmbeddingPredictor:
    """A fresh predictor of the section's size."""
    config = section.predictor(input_dim, output_dim)
    return build_predictor(config, child_seed(seed, "align", "init"))
