"""A model with its tokenizer as one object, and what it was loaded from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atu.models.compute import Compute
from atu.models.llm import load_lm, open_lm, save_lm
from atu.results.artifacts import Artifact

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in eval mode, on its device, with its guard if it has one."""

    model: PreTrainedModel = field(repr=False)
    tokenizer: Any = field(repr=False)
    compute: Compute
    """Its device and precision."""
    source: Artifact | Path | None
    """The finished job or the Hugging Face folder that holds it; None for one only in memory."""

    def save(self, folder: str | Path) -> None:
        """Write a Hugging Face folder, in the precision that the model was loaded in."""
        save_lm(self.model, self.tokenizer, Path(folder))


def open_model(source: Artifact | Path, compute: Compute) -> LoadedModel:
    """The model of a job, every file checked against its manifest, or of a Hugging Face folder.

    Raises:
        ArtifactError, ConfigError: as `load_lm`.
    """
    load = open_lm if isinstance(source, Artifact) else load_lm
    model, tokenizer = load(source, compute, training=False)  # type: ignore[arg-type]
    return LoadedModel(model, tokenizer, compute, source)
