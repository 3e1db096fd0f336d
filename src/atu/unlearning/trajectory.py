"""A run's trajectory: which probes are asked on the way, what a point is, and which is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atu.alignment.cosine import concept_cosine
from atu.distributed import processes
from atu.inference.batching import BatchSize, map_in_batches
from atu.inference.finite import require_finite_states
from atu.inference.probing import answer_probes
from atu.inference.scoring import mean_loss, score_encoded
from atu.methods.base import Context
from atu.metrics.selection import KEPT, PARTNER, RETAIN_LOSS, RETAINED, selection
from atu.models.chat import prompt_ids
from atu.models.llm import frozen, hidden_states_at
from atu.models.shards import whole_state
from atu.probes.chance import chances, leaks_and_chances
from atu.probes.measures import score_output
from atu.probes.prompts import ASIDE
from atu.results.artifacts import Artifact
from atu.results.checkpoints import State
from atu.results.tables import read_table
from atu.seeding import hash_fraction
from atu.training.batches import right_padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROLES = ("target", *RETAINED)
ANSWER_TOKENS = 16
"""Tokens of an answer on the way; more where the gold answer is longer."""
RETAIN_TEXTS = 64
"""Retain texts whose loss is measured on the way where no question says what is kept."""
BATCH = 128
"""Texts at once; halved where memory does not hold them."""
Point = dict[str, float]
Row = dict[str, Any]


def reached(settings: Any, point: Point) -> bool:
    """Whether the settings' stopping rule holds at this point."""
    limit = getattr(settings, "stop_below", None)
    return limit is not None and point["score_target"] <= limit


def select_probes(prepare: Artifact, per_role: int) -> list[Row]:
    """Held-out probes of the `select` split: of the target every form of which the worst is taken,
    of retain questions beside the target's all, of the other roles plain questions alone. Of each
    role at most `per_role` plain questions, chosen by hash. Each has what guessing scores at it in
    the column `chance`.
    """
    every = [row for row in read_table(prepare.file("probes.parquet")) if row["split"] == "select"]
    rows = [row for row in every if not row["seen"] and row["worst_of"] != ASIDE]
    rows.sort(key=lambda row: hash_fraction("trajectory", row["id"]))
    chosen: list[Row] = []
    for role in ROLES:
        of_role = [row for row in rows if row["role"] == role]
        chosen += [row for row in of_role if row["form"] == "question"][:per_role]
        if role == "target":
            chosen += [row for row in of_role if row["form"] != "question"]
    chosen += [row for row in rows if row["role"] == PARTNER]
    guessed = chances(chosen, every)
    return [row | {"chance": value} for row, value in zip(chosen, guessed, strict=True)]


class Observer:
    """Measures one point of the trajectory: score per role in plain questions (of a target
    without any, in all forms), of retain questions beside the target's, the target's worst form,
    what guessing gives of the target's two scores, the loss of retain texts where the first point
    answers nothing about what is to be kept, the `selection` score against the first point, and the
    cosine to the concept.
    """

    def __init__(self, context: Context, probes: Sequence[Row]) -> None:
        self.context, self.probes = context, probes
        self.before: Point | None = None

    def __call__(self, step: int, facts: Mapping[str, float]) -> Point:
        """The point after `step` unlearning steps; `facts` are added as they are."""
        point: Point = {"step": step, **facts}
        hits = self._hits(f"trajectory at step {step}")
        for role in KEPT:
            scores = [
                hit
                for hit, probe in zip(hits, self.probes, strict=True)
                if probe["role"] == role and (role == PARTNER or probe["form"] == "question")
            ]
            if scores:
                point[f"score_{role}"] = sum(scores) / len(scores)
        point |= leaks_and_chances(self.probes, hits, [probe["chance"] for probe in self.probes])
        first = self.before or point
        if RETAIN_LOSS in first or not any(first.get(f"score_{role}") for role in RETAINED):
            point[RETAIN_LOSS] = self._retain_loss()
        self.before = self.before or dict(point)
        point["selection"] = selection(point, self.before)
        if self.context.predictors:
            point["concept_cosine"] = self._mean_cosine()
        return processes.agreed(point)

    def _hits(self, label: str) -> list[float]:
        """The score of the greedy answer to every probe, in the order of the probes."""
        context = self.context
        hits = [0.0] * len(self.probes)
        for limit, chosen in self._by_length():
            answers = answer_probes(
                context.model,
                context.tokenizer,
                [self.probes[i] for i in chosen],
                max_new_tokens=limit,
                batch_size=BatchSize(BATCH),
                label=label,
                eval_mode=not context.reference_compat,
            )
            for i, answer in zip(chosen, answers, strict=True):
                hits[i] = score_output(self.probes[i], answer)
        return hits

    def _retain_loss(self) -> float:
        """Mean NLL per token of the first retain texts, in nats."""
        stream = self.context.retain
        texts = [text for text in stream.texts if len(text.ids) > max(text.answer_start, 1)]
        scores = score_encoded(
            self.context.model,
            stream.pad_id,
            texts[:RETAIN_TEXTS],
            BatchSize(BATCH),
            "loss of retain texts",
        )
        return mean_loss(scores)

    def _by_length(self) -> Iterator[tuple[int, list[int]]]:
        """Numbers of the probes with short and with long answers, and how many tokens they may
        take: one spelled-out word must not cost every short answer its length.
        """
        tokenizer = self.context.tokenizer
        needed = [
            len(tokenizer(p["answer"], add_special_tokens=False)["input_ids"]) + 2
            for p in self.probes
        ]
        short = [i for i, count in enumerate(needed) if count <= ANSWER_TOKENS]
        long = [i for i, count in enumerate(needed) if count > ANSWER_TOKENS]
        if short:
            yield ANSWER_TOKENS, short
        if long:
            yield max(needed), long

    @torch.no_grad()
    def _mean_cosine(self) -> float:
        """Mean predicted cosine to the concept on the plain questions about the target; on all
        questions about it where a benchmark has no plain ones.
        """
        context = self.context
        about = [probe for probe in self.probes if probe["role"] == "target"]
        plain = [probe for probe in about if probe["form"] == "question"]
        rows = prompt_ids(context.tokenizer, [probe["prompt"] for probe in plain or about])
        pad = context.tokenizer.pad_token_id

        def work(chosen: list[int]) -> list[Tensor]:
            """Of each prompt its cosines, [layers, tokens]."""
            assert context.concept is not None
            some = [rows[i] for i in chosen]
            ids, mask = right_padded(some, pad, context.device)
            hidden = hidden_states_at(context.model, ids, mask, list(context.predictors))
            named = [f"trajectory, question {i} about the target" for i in chosen]
            for states in hidden.values():
                require_finite_states(context.model, states, some, named)
            cosines = [
                concept_cosine(predictor(hidden[layer]), context.concept)
                for layer, predictor in context.predictors.items()
            ]
            return [
                torch.stack([c[number, : len(row)] for c in cosines])
                for number, row in enumerate(some)
            ]

        with frozen(context.model):
            lengths = [len(row) for row in rows]
            found = map_in_batches(work, lengths, BatchSize(BATCH), "cosine to the concept")
        return torch.cat(found, dim=1).mean().item()


@dataclass
class Course:
    """What a run has come to, as a checkpoint keeps it: its points, and the best of them with the
    model that it was measured on.
    """

    context: Context
    observe: Observer
    plain: PreTrainedModel
    """The model that the run is to leave changed: the context's own, or of several processes the
    one whose shards that has."""
    trajectory: list[Point] = field(default_factory=list)
    best: tuple[Point, dict[str, torch.Tensor]] | None = None

    def capture(self) -> State:
        """Everything that the next process cannot work out again."""
        context = self.context
        values = {
            "trajectory": self.trajectory,
            "best": self.best[0] if self.best else None,
            "streams": [[stream.drawn, stream.tokens] for stream in context.streams],
            "tokens_before": context.tokens_before,
            "measured": context.measured,
            "remembered": context.remembered,
        }
        model = self.best[1] if self.best else {}
        return State(values, {f"best/{name}": value for name, value in model.items()})

    def restore(self, state: State) -> None:
        """As it was; streams that the method has not made yet leave their tokens."""
        values, context = state.values, self.context
        self.trajectory[:] = values["trajectory"]
        self.observe.before = dict(self.trajectory[0])
        if values["best"] is not None:
            kept = {
                name.removeprefix("best/"): value
                for name, value in state.tensors.items()
                if name.startswith("best/")
            }
            self.best = values["best"], kept
        context.measured.update(values["measured"])
        context.tokens_before = values["tokens_before"]
        for number, (drawn, tokens) in enumerate(values["streams"]):
            if number < len(context.streams):
                context.streams[number].seek(drawn)
                context.streams[number].tokens = tokens
            else:
                context.tokens_before += tokens

    def add(self, point: Point, keep: str) -> None:
        """One more point; with `keep` `best` the model as it is, if it is the best so far.

        Of equals the later is kept: of the earlier more comes back (docs/log.md).
        """
        self.trajectory.append(point)
        if keep == "best" and (
            self.best is None or point["selection"] >= self.best[0]["selection"]
        ):
            self.best = point, whole_state(self.context.model)

    def settle(self) -> Point:
        """Leave the model at the point that is kept, which is returned. Of several processes only
        the first has it then.
        """
        context = self.context
        state = self.best[1] if self.best else {}
        if context.model is not self.plain and not self.best:
            state = whole_state(context.model)
        if state:
            self.plain.load_state_dict(state)
        return self.best[0] if self.best else self.trajectory[-1]
