"""Refusals, as all other answers, stand beside the forget batch row for row, are encoded once and
counted."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from atu.methods.shared.other_answers import OtherAnswers, other_answers
from atu.methods.shared.refusals import refusal_batch, refusal_to
from atu.probes.prompts import REFUSALS, join_answer
from atu.training.batches import BatchStream, encode_text

PROMPTS = ["Who?", "Where is it?", "When?"]


@pytest.fixture
def context(byte_tokenizer):
    """Three forget texts in batches of two; `encoded` are the pairs that were encoded."""
    encoded = []

    def encode(prompt, answer):
        encoded.append((prompt, answer))
        return encode_text(byte_tokenizer, join_answer(prompt, answer), prompt)

    rows = [{"prompt": prompt, "answer": "Rome"} for prompt in PROMPTS]
    forget = BatchStream(
        [encode_text(byte_tokenizer, f"{prompt} Rome", prompt) for prompt in PROMPTS],
        2, byte_tokenizer.pad_token_id, np.random.default_rng(0),
    )  # fmt: skip
    return SimpleNamespace(
        device=torch.device("cpu"),
        rows={"forget": rows}, forget=forget, streams=[forget], seed=0, tokenizer=byte_tokenizer,
        encode=encode, encoded=encoded,
    )  # fmt: skip


def test_refusals_differ_and_are_short():
    assert len(set(REFUSALS)) == len(REFUSALS) == 10
    assert all(len(text) < 40 and text.endswith(".") for text in REFUSALS)


def test_a_prompt_has_one_refusal():
    assert refusal_to("Who?") == refusal_to("Who?")
    assert {refusal_to(f"Who is {n}?") for n in range(100)} == set(REFUSALS)


def test_refusals_are_spread_evenly():
    """Of 1000 prompts each refusal answers about 100: four standard deviations are 4 sqrt(90) =
    38."""
    counts = Counter(refusal_to(f"Who is {n}?") for n in range(1000))
    assert all(abs(count - 100) < 38 for count in counts.values())


def test_beside_a_forget_batch(context, byte_tokenizer):
    """Row i holds the prompt of row i and its refusal, of which all but the prompt is scored."""
    batch = next(context.forget)
    found = refusal_batch(context, batch)
    assert found.numbers == batch.numbers
    for row, number in enumerate(batch.numbers):
        prompt = PROMPTS[number]
        text = f"{prompt} {refusal_to(prompt)}"
        scored = found.labels[row][found.labels[row] != -100]
        whole = found.input_ids[row][found.attention_mask[row] == 1]
        assert byte_tokenizer.decode(whole, skip_special_tokens=True) == text
        assert byte_tokenizer.decode(scored, skip_special_tokens=True) == text[len(prompt) :]
        assert scored[-1] == byte_tokenizer.eos_token_id


def test_encoded_once_and_counted(context):
    """A refusal of n characters to a prompt of m is m + 1 + n bytes, an end of sequence, and
    whatever the tokenizer puts in front."""
    extra = len(context.forget.texts[0].ids) - len("Who? Rome")
    batches = [next(context.forget) for _ in range(4)]
    for batch in batches:
        refusal_batch(context, batch)
    assert context.encoded == [(prompt, refusal_to(prompt)) for prompt in PROMPTS]
    assert [type(stream) for stream in context.streams] == [BatchStream, OtherAnswers]
    read = [PROMPTS[number] for batch in batches for number in batch.numbers]
    assert context.streams[1].tokens == sum(len(p) + 1 + len(refusal_to(p)) + extra for p in read)


@pytest.mark.parametrize(("turn", "expected"), [(0, "0"), (1, "1"), (2, "0"), (5, "1")])
def test_of_several_answers_the_next_one_every_turn(context, byte_tokenizer, turn, expected):
    """Two to each prompt, which end in 0 and 1; written once."""
    batch, written = next(context.forget), []

    def write():
        written.append(True)
        return [[f"{prompt} 0", f"{prompt} 1"] for prompt in PROMPTS]

    for _ in range(2):
        found = other_answers(context, write).beside(batch, turn)
    for row, number in enumerate(batch.numbers):
        scored = found.labels[row][found.labels[row] != -100]
        text = byte_tokenizer.decode(scored, skip_special_tokens=True)
        assert text == f" {PROMPTS[number]} {expected}"
    assert found.numbers == batch.numbers and written == [True]
