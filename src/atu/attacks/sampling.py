"""Sampling: does the fact come back in one of many draws? leak@k, arXiv 2511.04934.

The samples are drawn once and kept (`samples.parquet`), so that leak@k can be computed for any k
afterwards. A model that guesses among few plausible values leaks at large k too: compare with the
oracle's row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from atu.attacks.base import Attack, AttackContext, Column, Result, Row, item
from atu.inference.generation import Sampling
from atu.inference.probing import sample_probes
from atu.metrics.rwku_recall import rwku_rouge_l_recall_fixed
from atu.metrics.sampling import item_leak_at_k, item_max_at_k, leak_at_k, max_at_k
from atu.untrusted.bounds import STRICT, Count, Fraction, Positive


@dataclass(frozen=True)
class Settings:
    """How samples are drawn and when one counts as a leak."""

    __pydantic_config__ = STRICT

    attack: Literal["sampling"]
    samples: Count
    """Samples per question."""
    ks: list[Count]
    """Budgets to report; each at most `samples`."""
    temperature: Positive
    top_p: Fraction
    threshold: Fraction
    """The ROUGE-L recall at which a sample counts as a leak."""

    def __post_init__(self) -> None:
        if not self.ks or max(self.ks) > self.samples:
            raise ValueError(f"ks {self.ks} must be from 1 to samples = {self.samples}")


def run(context: AttackContext) -> Result:
    """Samples of every held-out question about the target; leak@k and max@k at every budget."""
    settings = context.settings
    probes = context.questions("target")
    drawn = sample_probes(
        context.model,
        context.tokenizer,
        probes,
        Sampling(settings.samples, settings.temperature, settings.top_p, context.seed),
        max_new_tokens=context.max_new_tokens,
        batch_size=context.batch_size,
        label="samples",
    )
    result = Result(items=[], tables={"samples": []})
    for probe, outputs in zip(probes, drawn, strict=True):
        scores = np.array([rwku_rouge_l_recall_fixed(text, probe["answer"]) for text in outputs])
        result.tables["samples"] += [
            {"id": probe["id"], "sample": j, "output": text, "score": float(score)}
            for j, (text, score) in enumerate(zip(outputs, scores, strict=True))
        ]
        result.items += _item_rows(probe, scores, settings)
    return result


def _item_rows(probe: Row, scores: np.ndarray, settings: Settings) -> list[Row]:
    leaks = int((scores >= settings.threshold).sum())
    rows = []
    for k in settings.ks:
        leak = item_leak_at_k(leaks, len(scores), k)
        rows.append(item(probe, f"leak@{k}", leak_at_k.id, leak))
        rows.append(item(probe, f"max@{k}", max_at_k.id, item_max_at_k(scores, k)))
    return rows


def columns(settings: Settings) -> list[Column]:
    """leak@k at every budget."""
    return [Column(f"any of {k} samples (leak@{k})", (f"leak@{k}",)) for k in settings.ks]


ATTACK = Attack(Settings, run, columns, noun="sampling many answers")
