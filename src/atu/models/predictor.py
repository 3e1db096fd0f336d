"""The embedding predictor E of Align-then-Unlearn (arXiv 2506.13181, section 3).

From the LM's hidden states h_1..h_t at the hook layer it anticipates the sentence embedding of the
next k tokens: e_t = E(h_1, .., h_t).
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from atu.errors import ArtifactError
from atu.results.files import read_json, read_tensors

CONFIG_FILE = "predictor.json"
WEIGHTS_FILE = "predictor.safetensors"


@dataclass(frozen=True)
class PredictorConfig:
    """Sizes of the predictor; `sees_future` reproduces the reference's missing memory mask."""

    input_dim: int
    output_dim: int
    width: int
    layers: int
    heads: int
    feedforward: int
    dropout: float
    sees_future: bool


class EmbeddingPredictor(nn.Module):
    """Linear, causal transformer layers, Linear.

    The reference stacks `TransformerDecoderLayer`s with `memory=x` and no memory mask, so that
    every position reads the whole sequence, which contradicts E(h_1..h_t); here each position sees
    only itself and earlier ones. Layers normalise their input (pre-norm), not their output as the
    reference's do: trained equally long, the skill on held-out text was higher (docs/log.md).
    `sees_future=True` restores the reference, where moreover all layers begin with the weights of
    one (`nn.TransformerDecoder` copies it). Neither has positions of its own: the hidden states
    carry them.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Linear(config.input_dim, config.width)
        layers = [self._layer(config)]
        while len(layers) < config.layers:
            layers.append(copy.deepcopy(layers[0]) if config.sees_future else self._layer(config))
        self.layers = nn.ModuleList(layers)
        self.leave = nn.Linear(config.width, config.output_dim)

    @staticmethod
    def _layer(config: PredictorConfig) -> nn.Module:
        kind = nn.TransformerDecoderLayer if config.sees_future else nn.TransformerEncoderLayer
        return kind(
            config.width,
            config.heads,
            config.feedforward,
            config.dropout,
            batch_first=True,
            norm_first=not config.sees_future,
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Predicted embeddings [batch, seq, output_dim] from hidden states [batch, seq, input_dim].

        Sequences are padded on the right; a causal predictor then needs no padding mask. The
        predictor computes in float32, whatever the hidden states are in.
        """
        x = self.enter(hidden.to(self.enter.weight.dtype))
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, x.device, x.dtype)
        memory = x
        for layer in self.layers:
            if self.config.sees_future:
                x = layer(x, memory, tgt_mask=mask)
            else:
                x = layer(x, src_mask=mask, is_causal=True)
        return self.leave(x)


def save_predictor(predictor: EmbeddingPredictor, folder: Path) -> None:
    """Weights as safetensors and the sizes as JSON."""
    save_file({k: v.contiguous() for k, v in predictor.state_dict().items()}, folder / WEIGHTS_FILE)
    text = json.dumps(asdict(predictor.config), indent=1, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def load_predictor(config: Path, weights: Path) -> EmbeddingPredictor:
    """The saved predictor in eval mode.

    Raises:
        ArtifactError: a file is damaged, or the two do not belong together.
    """
    try:
        predictor = build_predictor(PredictorConfig(**read_json(config)), seed=0)
        predictor.load_state_dict(read_tensors(weights))
    except (TypeError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ArtifactError(f"{config}: does not describe {weights.name}: {reason}") from None
    return predictor.eval()


def build_predictor(config: PredictorConfig, seed: int) -> EmbeddingPredictor:
    """A freshly initialised predictor; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return EmbeddingPredictor(config)
