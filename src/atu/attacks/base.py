"""What an attack is: settings, and a function from a checkpoint to scored items.

Every attack gives the same table: one row per item and *condition* (a bit width, a layer, before
and after relearning), so that the report reads all of them in one way. An attack that changes the
model works on a copy. Only probes of one split are asked: `report`, and `select` in a search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from atu.alignment.loop import AlignmentData
from atu.inference.batching import BatchSize
from atu.inference.probing import answer_probes
from atu.models.predictor import PredictorConfig
from atu.probes.measures import score_output

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Row = dict[str, Any]
Further = Callable[["PreTrainedModel", Sequence[Row], Sequence[str], str], None]
"""Takes a model, probes, its answers to them, and the condition."""


@dataclass(frozen=True)
class Alignment:
    """What a predictor is trained on, for attacks that train one."""

    data: AlignmentData
    config: PredictorConfig
    params: dict[str, Any]
    """The parameters of the phase `align` that trained the method's own predictor."""
    names: list[str]
    """All names among which the target's is looked for; the target's is the first."""
    embeddings: Tensor
    """Their embeddings, [n_names, dim], unit length."""


@dataclass
class AttackTexts:
    """What an attack asks and may read, and its settings."""

    settings: Any
    probes: list[Row]
    """The target's probes, of one split only."""
    forget: list[Row]
    retain: list[Row]
    holdout: list[Row]
    """Corpora; `holdout` is about people whom no model ever saw."""

    def questions(self, *roles: str) -> list[Row]:
        """Plain questions of these roles in wordings that no training text of the fact uses; in a
        benchmark without plain questions, all its probes in such wordings.
        """
        probes = [p for p in self.probes if p["role"] in roles and not p["seen"]]
        return [p for p in probes if p["form"] == "question"] or probes


@dataclass(kw_only=True)
class AttackContext(AttackTexts):
    """A checkpoint and everything an attack may use."""

    model: PreTrainedModel
    tokenizer: Any
    max_new_tokens: int
    batch_size: BatchSize
    seed: int
    folder: Path | None = None
    """Where the model was loaded from; None where it is in memory alone."""
    alignment: Alignment | None = None
    original: PreTrainedModel | None = None
    """The model before unlearning, where the attack needs it and somebody has it."""
    oracle: PreTrainedModel | None = None
    """The model that never saw the target, likewise."""
    further: Further | None = None
    """Scores answers by more than their own measure, where an attack changes the weights: how an
    attack moves a metric says how far the metric can be trusted."""


@dataclass
class Result:
    """The result of an attack."""

    items: list[Row]
    """Rows of `item`."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Numbers that are not means of items; keys without phase and split."""
    tables: dict[str, list[Row]] = field(default_factory=dict)
    """Further tables to keep, by name."""


@dataclass(frozen=True)
class Proof:
    """What must be shown before a low number says that an attack brings nothing back."""

    condition: str
    """What the attack must bring about, scored in the column's role."""
    least: float
    """The mean score that it must reach."""
    otherwise: str
    """Said of a line of which some run stayed below."""


@dataclass(frozen=True)
class Column:
    """One column of the robustness table: per item the largest score over `conditions`, minus the
    score under `minus` where that is given. High is more knowledge of the target.
    """

    title: str
    conditions: tuple[str, ...]
    role: str = "target"
    minus: str | None = None
    control: bool = False
    """A number to compare others with, not one that should be low."""
    baseline: bool = False
    """Whether it is what the column before it gives for what nobody knew."""
    inverted: bool = False
    """Whether it is 1 minus a score that is high where knowledge is gone."""
    proof: Proof | None = None
    """Its positive control, if it has one."""
    without: str = ""
    """Said where not one item is scored: what the attack lacks."""


@dataclass(frozen=True)
class Attack:
    """An attack: its settings type, its function, and what the robustness table shows of it."""

    settings: type
    run: Callable[[AttackContext], Result]
    columns: Callable[[Any], list[Column]]
    needs_alignment: bool = False
    needs_original: bool = False
    needs_oracle: bool = False
    """Whether it reads these models too. Where there is none, the attack has None in its place."""
    fine_tunes: bool = False
    """Whether it trains a copy of the whole model, by AdamW."""
    exact_weights: bool = False
    """Whether it trains or rounds the weights, which must then be loaded in float32 whatever the
    precision."""
    noun: str = ""
    """What it is called in a sentence, as in "attacks find it again (...)"; the grid's name for it
    where there is none."""


def item(
    probe: Row, condition: str, metric: str, score: float | None, output: str | None = None
) -> Row:
    """One row: the score of a probe by `metric` (a registered id) under a condition; None where it
    cannot be scored.
    """
    return {
        "condition": condition,
        "metric": metric,
        "id": probe["id"],
        "fact": probe["fact"],
        "role": probe["role"],
        "score": score,
        "output": output,
    }


def answer_items(
    context: AttackContext,
    model: PreTrainedModel,
    probes: Sequence[Row],
    condition: str,
    prompts: Sequence[str] | None = None,
    further: bool = True,
) -> list[Row]:
    """Greedy answers of `model` to the probes, or to `prompts` in their place, each by the probe's
    own measure; `further` says whether the context's further metrics read them too.
    """
    outputs = answer_probes(
        model,
        context.tokenizer,
        probes,
        max_new_tokens=context.max_new_tokens,
        batch_size=context.batch_size,
        label=condition,
        prompts=prompts,
    )
    if further and context.further:
        context.further(model, probes, outputs, condition)
    return [
        item(
            probe,
            condition,
            probe["measure"],
            score_output(probe, output),
            output,
        )
        for probe, output in zip(probes, outputs, strict=True)
    ]


def mean_score(items: Sequence[Row], condition: str, role: str) -> float:
    """Mean score of one condition and role.

    Raises:
        ValueError: nothing is scored.
    """
    scores = [
        row["score"]
        for row in items
        if row["condition"] == condition and row["role"] == role and row["score"] is not None
    ]
    if not scores:
        raise ValueError(f"no scored item of condition {condition!r} and role {role!r}")
    return sum(scores) / len(scores)
