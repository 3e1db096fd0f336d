"""Before a job starts: what memory it is expected to need, and the refusal of what cannot fit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atu.distributed import processes
from atu.errors import ResourceError
from atu.models.pinned import is_pinned, pinned_folder
from atu.models.trainable import Lora
from atu.resources.machine import free_bytes
from atu.resources.memory import Corpus, Plan
from atu.resources.planning import Lengths
from atu.resources.saved import FAMILIES, Compute, Texts
from atu.resources.shape import ModelShape, shape_of
from atu.results.artifacts import Artifact
from atu.results.files import read_json

if TYPE_CHECKING:
    from atu.config.params import Params

LORA = Lora("lora", rank=8, alpha=16)
"""What a refusal proposes: a rank that Hu et al. 2021 try (arXiv 2106.09685, table 6)."""
GPUS = (2, 4, 8)
"""Of one machine, as a refusal proposes them."""
SAMPLE = 64
"""Texts, the longest by their characters, that are tokenised to find the longest."""


@dataclass(frozen=True)
class Request:
    """A job's plan, and how it changes with what a refusal can propose."""

    name: str
    """Where its settings are in the parameter file."""
    compute: Compute
    batch: int
    batch_key: str
    make: Callable[[Compute, int, Lora | None], Plan]
    train_key: str | None = None
    """Where LoRA can be chosen."""
    checkpointing_key: str | None = None
    """Where checkpointing can be."""
    spread: Callable[[int], Plan] | None = None
    """What each of so many processes needs, where several GPUs can share the job."""

    @property
    def plan(self) -> Plan:
        """As the parameters have it."""
        return self.make(self.compute, self.batch, None)

    def alternatives(self) -> Iterator[tuple[str, Plan]]:
        """What would need less, by the line of the parameter file that says so: checkpointing,
        then smaller batches, more GPUs (a line of the profile), and LoRA.
        """
        if self.checkpointing_key is not None and not self.compute.checkpointing:
            cheaper = replace(self.compute, checkpointing=True)
            yield f"{self.checkpointing_key}: true", self.make(cheaper, self.batch, None)
        size = self.batch
        while size > 1:
            size //= 2
            yield f"{self.batch_key}: {size}", self.make(self.compute, size, None)
        if self.spread is not None:
            for count in GPUS:
                yield f"gpu: {count}", self.spread(count)
        if self.train_key is not None:
            line = f"{{update: lora, rank: {LORA.rank}, alpha: {LORA.alpha}}}"
            yield f"{self.train_key}: {line}", self.make(self.compute, self.batch, LORA)


@dataclass(frozen=True)
class Job:
    """A model and what it is to read."""

    shape: ModelShape
    lengths: Lengths
    corpus: Corpus | None
    dimension: int
    """Of the sentence embeddings."""


def compute_of(params: Params, training: bool = True) -> Compute:
    """How jobs hold numbers: trained weights in float32, others as they are computed with."""
    given = params.compute
    return Compute(
        weights=4 if training or not given.bfloat16 else 2,
        activations=2 if given.bfloat16 else 4,
        # Like sdpa, flash attention keeps no matrix of attention weights.
        attention="eager" if given.attention == "eager" else "sdpa",
        checkpointing=given.checkpointing,
        device="cuda" if given.place.type == "cuda" else "cpu",
    )


def require_fit(request: Request, free: int | None) -> Plan:
    """The request's plan.

    Raises:
        ResourceError: it needs more than is free; names the first change of parameters that fits.
    """
    found = request.plan
    if free is None or found.peak <= free:
        return found
    needs = f"{request.name}: {size(found.peak)} of memory expected, {size(free)} free"
    for line, other in request.alternatives():
        if other.peak <= free:
            raise ResourceError(f"{needs}; with `{line}` it needs {size(other.peak)}")
    raise ResourceError(
        f"{needs}; no checkpointing, smaller batch or LoRA fits: give the job more (mem_mb or a "
        "larger GPU in the profile), or take a smaller model"
    )


def size(count: float) -> str:
    """Bytes as people write them: 1.5 GB, 412 MB, 0.3 MB."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"


def line(found: Plan, free: int | None) -> str:
    """One line for a job's log; parts in the order of their size."""
    parts = sorted(found.parts, key=lambda part: -part[1])
    named = ", ".join(f"{name} {size(count)}" for name, count in parts)
    there = "" if free is None else f"; {size(free)} free"
    return f"memory: {size(found.peak)} expected at most, in {found.moment} ({named}){there}"


def expect(request: Request) -> None:
    """Print what a job is expected to need.

    Raises:
        ResourceError: as `require_fit`.
    """
    free = free_bytes(request.compute.device)
    if free is not None and request.compute.device == "cpu":
        free //= processes.count()  # they share the machine's memory
    text = line(require_fit(request, free), free)
    if processes.is_first():
        print(text, file=sys.stderr, flush=True)


def read_shape(folder: Path) -> ModelShape | None:
    """The shape of a model folder's model; None where it has no configuration, which whoever loads
    it reports, or is of a family whose layers are not known, of which a line on stderr tells.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    return known_shape(read_json(path))


def known_shape(config: dict[str, Any]) -> ModelShape | None:
    """As `read_shape`, from the configuration."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        print(f"memory: not known for {kind!r}; go on", file=sys.stderr)
        return None
    return shape_of(config)


def model_folder(model: Artifact) -> Path:
    """The model's folder, of which all files but the weights were checked: the job checks those,
    and reading them twice would take as long as loading.

    Raises:
        ArtifactError: a file is missing or altered.
    """
    if is_pinned(model):
        return pinned_folder(model)
    for name in model.manifest["artifacts"]:
        if name.startswith("model/") and not name.endswith(".safetensors"):
            model.file(name)
    return model.folder / "model"


def measure(model: Artifact, prepare: Artifact, embed: Artifact | None) -> Job | None:
    """What a job on this model and these texts reads; None as for `read_shape`.

    Of the probes it takes the lengths of the prompts alone.

    Raises:
        ArtifactError: a file is missing or altered.
    """
    from atu.models.llm import load_tokenizer
    from atu.results.tables import read_table

    folder = model_folder(model)
    shape = read_shape(folder)
    if shape is None:
        return None
    tokenizer = load_tokenizer(folder)

    def longest(texts: Sequence[str]) -> int:
        some = sorted(texts, key=len)[-SAMPLE:]
        return max((len(tokenizer(text)["input_ids"]) + 1 for text in some), default=1)

    texts = {
        name: [row["text"] for row in read_table(prepare.file(f"{name}.parquet"))]
        for name in ("forget", "retain")
    }
    prompts = [row["prompt"] for row in read_table(prepare.file("probes.parquet"))]
    lengths = Lengths(
        longest(texts["forget"]), longest(texts["retain"]), longest(prompts), len(prompts)
    )
    corpus, dimension = _embedded(embed) if embed is not None else (None, 0)
    return Job(shape, lengths, corpus, dimension)


def _embedded(embed: Artifact) -> tuple[Corpus, int]:
    """Sizes of what `embed` saved, from the file's header."""
    from safetensors import safe_open

    with safe_open(embed.file("embeddings.safetensors"), framework="pt") as stored:
        lengths = stored.get_tensor("lengths")
        windows, dimension = stored.get_slice("windows").get_shape()
    texts = Texts(len(lengths), int(lengths.max()))
    return Corpus(texts, int(lengths.sum()), windows), dimension
