"""Cosine of a text to a concept by the sentence encoder, and the threshold for being about it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from atu.models.encoder import SentenceEncoder

BATCH = 64


class Similarity:
    """Cosines to concepts; every text is encoded once."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.encoder = encoder
        self._known: dict[str, Tensor] = {}

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [n_texts, dim]."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for at in range(0, len(new), BATCH):
            part = new[at : at + BATCH]
            self._known.update(zip(part, self.encoder.encode_texts(part), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def cosines(self, texts: Sequence[str], concept: Sequence[str]) -> list[float]:
        """Cosines in [-1, 1] of every text to the mean of the concept's texts (names,
        descriptions).
        """
        if not texts:
            return []
        centre = F.normalize(self.embed(concept).mean(dim=0), dim=0)
        return (self.embed(texts) @ centre).tolist()


def floor_of(cosines: Sequence[float], share: float) -> float:
    """The quantile `share` of the cosines of unrelated texts: a text above it is nearer to the
    concept than nearly all unrelated ones. (Cosines of unrelated texts differ between encoders and
    concepts, so the threshold is measured, not fixed.)

    The share .5 of 0, .1, .2, .3 and .4 gives .2.
    """
    return float(torch.quantile(torch.tensor(cosines, dtype=torch.float64), share))
