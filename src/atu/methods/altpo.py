"""Alternate preference optimisation (AltPO), Mekala et al. 2024, arXiv 2409.13474: DPO in which the
answer that is preferred to the forget answer is no refusal but another answer of the same kind,
which the model itself has written before it unlearns. So the model learns what to say, not only
what not to say. The paper adds the NLL of retain texts (`retain: {nll: 1.0}`).

The official code (locuslab/open-unlearning at d3d7cf9: `DPO` of src/trainer/unlearn/dpo.py and
community/methods/AltPO/generate.py; the authors' molereddy/Alternate-Preference-Optimization has
the same) asks a chat model for another answer: question, answer and an instruction are the prompt,
five answers are sampled at temperature 1, and each pair of answers is a row of its data set. That
is `write: instruction`, in our words. Its loss is ours.

Where this differs:
- `write: other_token`, for models that follow no instruction: the forget prompt is asked as it is,
  and the answer may begin neither with the token that the forget answer begins with nor by ending.
  It suits short answers: a long one may say the same after another first word.
- a text's alternatives take turns, one in each pass over the forget corpus; there all pairs are
  shuffled together;
- an alternative is at most as long as the longest forget answer, in tokens; there 200 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from atu.inference.batching import BatchSize
from atu.inference.generation import Sampling, sampled_answers
from atu.methods.base import Context, Method, PlainSettings
from atu.methods.shared.other_answers import other_answers
from atu.methods.shared.preference import preference_loss
from atu.models.chat import stop_tokens
from atu.probes.prompts import NEXT_QUESTION, alternative_prompt
from atu.seeding import child_seed
from atu.training.batches import Batch
from atu.untrusted.bounds import Count, Positive

BATCH = 128
"""Alternatives that are written at once; halved where memory does not hold them."""


@dataclass(frozen=True)
class Settings(PlainSettings):
    """DPO's inverse temperature, and how the preferred answers are written."""

    loss: Literal["altpo"]
    beta: Positive
    alternatives: Count
    """Other answers to each forget prompt; 5 in the official code."""
    temperature: Positive
    """At which they are sampled; 1 in the official code."""
    write: Literal["instruction", "other_token"]
    """Whether the model is told to write another answer, or cannot begin as the forget answer."""


def write_alternatives(context: Context) -> list[list[str]]:
    """`alternatives` other answers of the original model to the prompt of every forget text;
    measures which share of them is the forget answer again. (Such a pair has no gradient.)
    """
    settings, model = context.settings, context.reference
    assert model is not None
    rows, texts = context.rows["forget"], context.forget.texts
    prompts, barred = [row["prompt"] for row in rows], None
    if settings.write == "instruction":
        prompts = [alternative_prompt(row["prompt"], row["answer"]) for row in rows]
    else:
        ends = stop_tokens(model, context.tokenizer)
        barred = [[text.ids[text.answer_start], *ends] for text in texts]
    seed = child_seed(context.seed, "unlearn", "alternatives")
    written = sampled_answers(
        model,
        context.tokenizer,
        prompts,
        Sampling(settings.alternatives, settings.temperature, 1.0, seed),
        max_new_tokens=max(len(text.ids) - text.answer_start for text in texts),
        batch_size=BatchSize(BATCH),
        label="alternatives",
        stops=NEXT_QUESTION,
        barred=barred,
    )
    same = [text == row["answer"] for row, own in zip(rows, written, strict=True) for text in own]
    context.measured["alternatives_same"] = sum(same) / len(same)
    return written


def alternative_batch(context: Context, batch: Batch) -> Batch:
    """The alternatives whose turn it is in this pass over the forget corpus."""
    answers = other_answers(
        context, lambda: context.recall("alternatives", lambda: write_alternatives(context))
    )
    forget = context.forget
    before = max(forget.drawn - 1, 0) * forget.batch_size
    return answers.beside(batch, turn=before // len(forget.texts))


def altpo_loss(context: Context, batch: Batch) -> Tensor:
    """DPO of the alternatives over the answers of the forget batch."""
    return preference_loss(context, alternative_batch(context, batch), batch, context.settings.beta)


METHOD = Method(
    Settings,
    title="AltPO",
    does="prefers other answers, which the model wrote itself, to the target’s",
    source="2409.13474",
    forget_loss=altpo_loss,
    needs_reference=True,
    prompted=True,
    processes="all",
)
