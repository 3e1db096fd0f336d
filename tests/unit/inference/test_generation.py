import math
from collections import Counter

import pytest
import torch
from families import FAMILIES
from torch import nn

from atu.distributed import processes
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.generation import (
    Sampling,
    greedy_answers,
    no_gradients,
    sampled_answers,
)

PAD = 0


class Letters:
    """A tokenizer with one token per character: its code point."""

    pad_token_id, eos_token_id = PAD, 1

    def __call__(self, texts, return_offsets_mapping):
        return {
            "input_ids": [[ord(letter) for letter in text] for text in texts],
            "offset_mapping": [[(i, i + 1) for i in range(len(text))] for text in texts],
        }

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        return ["".join(chr(i) for i in row if i > 1) for row in rows.tolist()]


class Parrot(nn.Module):
    """Answers each prompt with `before`, the prompt's last letter in upper case, and `after`."""

    def __init__(self, before="", after="", fits=100, error=torch.OutOfMemoryError):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.before, self.after, self.fits, self.error = before, after, fits, error
        self.calls = []

    def generate(self, input_ids, attention_mask, **options):
        self.calls.append((input_ids, attention_mask, options, self.training))
        if len(input_ids) > self.fits:
            raise self.error("too large")
        rows = []
        for row in input_ids.tolist():
            answer = self.before + chr(row[-1]).upper() + self.after
            rows.append(row + [ord(letter) for letter in answer])
        return torch.tensor(rows)


def ask(model, prompts, batch_size=8, *, tokenizer=None, max_new_tokens=4, **options):
    """Greedy answers of a tiny model or of a toy."""
    size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
    options |= {"max_new_tokens": max_new_tokens, "batch_size": size}
    return greedy_answers(model, tokenizer or Letters(), prompts, **options)


class Cleaning(Letters):
    """One that asks for a clean-up, of which this is the part about quotation marks."""

    clean_up_tokenization_spaces = True

    def clean_up_tokenization(self, text):
        return text.replace(" ' ", "'")


def test_white_space_is_removed_after_the_clean_up():
    """The space behind a last mark is part of what is joined: "A'", not "A '"."""
    assert ask(Parrot(after=" ' "), ["a"], tokenizer=Cleaning()) == ["A'"]
    assert ask(Parrot(after=" ' "), ["a"]) == ["A '"]


def sample(model, prompts, *, samples=2, temperature=1.0, top_p=1.0, seed=0, **options):
    """Samples of a tiny model or of a toy."""
    sampling = Sampling(samples, temperature, top_p, seed)
    options = {"tokenizer": Letters(), "max_new_tokens": 4, "batch_size": 8} | options
    options["batch_size"] = BatchSize(options["batch_size"])
    return sampled_answers(model, options.pop("tokenizer"), prompts, sampling, **options)


@pytest.mark.parametrize(
    ("before", "after", "stops", "answer"),
    [
        ("", "", (), "A"),
        ("  ", "  ", (), "A"),
        (" ", "b \nQuestion: c", (), "Ab \nQuestion: c"),
        (" ", "b \nQuestion: c", ("\n",), "Ab"),
        (" ", "b \nc\nQuestion: d", ("\nQuestion:",), "Ab \nc"),
        ("\n", "\nB", (), "A\nB"),
        ("\n \n", "\nB", ("\n",), "A"),
        ("", "\x01\x00\x00", (), "A"),
    ],
)
def test_an_answer_ends_at_its_stop_or_with_the_model(before, after, stops, answer):
    """The first of the stops, not counting white space before the answer; without stops, all
    lines. White space around, end and padding tokens are dropped."""
    assert ask(Parrot(before, after), ["a"], stops=stops) == [answer]


def test_answers_come_back_in_the_order_of_the_prompts():
    prompts = ["xxxa", "b", "xxc", "d", "xxxxxe"]
    assert ask(Parrot(), prompts, batch_size=2) == ["A", "B", "C", "D", "E"]


def test_prompts_are_batched_by_length_and_padded_on_the_left():
    """Sorted by length and cut in twos: (b, d), (xxc, xxxa), (xxxxxe). Only the second batch needs
    padding: one position."""
    model = Parrot()
    ask(model, ["xxxa", "b", "xxc", "d", "xxxxxe"], batch_size=2)
    assert [ids.shape for ids, *_ in model.calls] == [(2, 1), (2, 4), (1, 6)]
    ids, mask, options, _ = model.calls[1]
    assert ids[0].tolist() == [PAD, *map(ord, "xxc")]
    assert mask.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert options["max_new_tokens"] == 4 and options["do_sample"] is False
    assert (options["pad_token_id"], options["eos_token_id"]) == (PAD, 1)


def test_out_of_memory_halves_the_batch():
    """Twenty prompts in batches of 16 where 8 fit: 16 fails, then 8, 8, 4. The answers are those of
    8 at once, and the caller sees what was used in the end."""
    prompts = [chr(ord("a") + number) for number in range(20)]
    model, size = Parrot(fits=8), BatchSize(16)
    found = ask(model, prompts, size)
    assert [len(ids) for ids, *_ in model.calls] == [16, 8, 8, 4]
    assert size.value == 8
    assert found == ask(Parrot(), prompts, 8) == [prompt.upper() for prompt in prompts]


def test_out_of_memory_with_one_prompt_is_an_error():
    model = Parrot(fits=0)
    with pytest.raises(torch.OutOfMemoryError):
        ask(model, list("ab"), batch_size=2)
    assert [len(ids) for ids, *_ in model.calls] == [2, 1]


@pytest.mark.parametrize("answer", [ask, sample])
def test_a_crash_is_never_an_answer(answer):
    with pytest.raises(RuntimeError, match="too large"):
        answer(Parrot(fits=0, error=RuntimeError), ["a"])


@pytest.mark.parametrize("answer", [ask, sample])
def test_a_missing_answer_is_an_evaluation_error(monkeypatch, answer):
    monkeypatch.setattr(Letters, "batch_decode", lambda self, rows, skip_special_tokens: ["A"])
    with pytest.raises(EvaluationError, match=r"1 results for [24] items"):
        answer(Parrot(), ["a", "b"])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("eval_mode", [True, False])
def test_mode_during_and_after(training, eval_mode):
    """`eval_mode` switches dropout off for the call; without it the model stays as it is."""
    model = Parrot().train(training)
    ask(model, ["a"], eval_mode=eval_mode)
    assert model.calls[0][3] is (training and not eval_mode)
    assert model.training is training


def test_mode_after_a_crash():
    model = Parrot(fits=0).train()
    with pytest.raises(torch.OutOfMemoryError):
        ask(model, ["a"], batch_size=1)
    assert model.training


def test_samples_are_drawn_without_dropout():
    model = Parrot().train()
    assert sample(model, ["a"]) == [["A", "A"]]
    assert model.calls[0][3] is False and model.training


def test_no_prompts():
    assert ask(Parrot(), []) == sample(Parrot(), []) == []


def test_as_many_samples_as_asked_stand_by_their_prompt():
    """Three of each, batched across prompts of the same length and given back in order."""
    model = Parrot()
    found = sample(model, ["xb", "a", "xc"], samples=3, batch_size=4)
    assert found == [["B"] * 3, ["A"] * 3, ["C"] * 3]
    assert [ids.shape for ids, *_ in model.calls] == [(4, 2), (4, 2), (1, 2)]


class Ideographs:
    """The byte tokenizer, but every token is decoded to a letter of its own: no two different
    answers look alike, and none is cut at a line break."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.pad_token_id, self.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id

    def __call__(self, texts, **options):
        return self.tokenizer(texts, **options)

    def batch_decode(self, rows, skip_special_tokens):
        return ["".join(chr(0x4E00 + i) for i in row if i > 2) for row in rows.tolist()]


PROMPTS = [
    "a",
    "Who?",
    "Where is it?",
    "b b",
    "What then?",
    "Where?",
    *("x" * n for n in range(2, 12)),
]


@pytest.fixture(scope="module")
def tokenizer(byte_tokenizer):
    return Ideographs(byte_tokenizer)


@pytest.fixture(scope="module")
def vivid(tiny_lm):
    """A function that builds a tiny model whose answers differ from prompt to prompt: its random
    weight matrices are 8 times as large as at a usual start."""

    def build(kind="llama"):
        model = tiny_lm(kind, vocab_size=259, seed=3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(8)
        return model

    return build


@pytest.mark.parametrize("kind", FAMILIES)
def test_batching_changes_no_answer_of_a_real_model(vivid, tokenizer, kind):
    """A left-padded prompt is answered as it is alone, and so is it sampled: 16 prompts one by one
    and at once, in float32."""
    model = vivid(kind)

    def answers(size):
        own = {"tokenizer": tokenizer, "max_new_tokens": 6, "batch_size": size}
        return ask(model, PROMPTS, **own), sample(model, PROMPTS, samples=1, **own)

    together = answers(16)
    assert together == answers(1)
    assert len(set(together[0])) > 3


def test_the_cache_changes_no_answer(vivid, tokenizer):
    """Greedy by hand, without a cache: the likeliest token, appended, six times."""
    model, prompts = vivid(), PROMPTS[:4]
    found = ask(model, prompts, tokenizer=tokenizer, max_new_tokens=6)
    for prompt, answer in zip(prompts, found, strict=True):
        ids = list(tokenizer(prompt)["input_ids"])
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert answer == tokenizer.batch_decode(torch.tensor([ids[-6:]]), True)[0]


def poisoned(vivid, tokenizer, letter="Z"):
    """A model that cannot read one letter."""
    model = vivid()
    (number,) = tokenizer(letter)["input_ids"][1:]
    with torch.no_grad():
        model.get_input_embeddings().weight[number] = math.nan
    return model


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_nan_logit_names_the_item(vivid, tokenizer, batch_size):
    """The third prompt of four, wherever its length puts it in the batch."""
    model = poisoned(vivid, tokenizer)
    prompts = ["long prompt", "b", "Z", "cc"]
    own = {"tokenizer": tokenizer, "batch_size": batch_size, "max_new_tokens": 1}
    with pytest.raises(EvaluationError, match=r"forms, item 2: 'Z': a logit is not finite"):
        ask(model, prompts, label="forms", **own)
    with pytest.raises(EvaluationError, match=r"draws, item 2: 'Z': a logit is not finite"):
        sample(model, prompts, label="draws", samples=3, **own)


def test_samples_do_not_depend_on_the_order_of_prompts_or_on_their_company(vivid, tokenizer):
    """Nor on how many samples are drawn; a prompt that is asked twice gets the same samples."""
    model = vivid()

    def drawn(prompts, **own):
        return sample(model, prompts, tokenizer=tokenizer, **own)

    found = drawn(PROMPTS, samples=3)
    assert drawn(PROMPTS[::-1], samples=3, batch_size=5) == found[::-1]
    assert drawn(["Who?", "a", "Who?"], samples=3) == [found[1], found[0], found[1]]
    assert drawn(["Who?"], samples=2) == [found[1][:2]]


def test_samples_depend_on_the_seed_the_number_and_the_prompt(vivid, tokenizer):
    """From a uniform model, where nothing but the random stream can tell two samples apart: no
    two are alike, but for the few that end at once."""
    model = vivid()
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    own = {"tokenizer": tokenizer, "samples": 4, "max_new_tokens": 8}
    first, other = (sample(model, PROMPTS, seed=seed, **own) for seed in (0, 1))
    flat = [answer for drawn in (*first, *other) for answer in drawn if answer]
    assert len(set(flat)) == len(flat) > 2 * len(PROMPTS) * 4 - 8


class Coin(nn.Module):
    """One token from {a, b, c} after any prompt, whose probabilities are 0.6, 0.3 and 0.1."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.6, 0.3, 0.1]).log())

    def generate(self, input_ids, logits_processor, **_options):
        scores = self.logits.expand(len(input_ids), 3).clone()
        for process in logits_processor:
            scores = process(input_ids, scores)
        return torch.cat([input_ids, ord("a") + scores.argmax(dim=-1)[:, None]], dim=1)


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, [0.6, 0.3, 0.1]),
        (0.5, 1.0, [36 / 46, 9 / 46, 1 / 46]),
        (1.0, 0.7, [2 / 3, 1 / 3, 0.0]),
        (1.0, 0.5, [1.0, 0.0, 0.0]),
        (0.5, 0.9, [36 / 45, 9 / 45, 0.0]),
        (0.01, 1.0, [1.0, 0.0, 0.0]),
    ],
)
def test_sampling_frequencies_are_those_of_the_softmax(temperature, top_p, expected):
    """Temperature 0.5 squares the probabilities: 36, 9 and 1 of 46. top_p keeps the fewest tokens
    that reach it: 0.7 the first two, 0.5 the first; at temperature 0.5, 0.9 the first two (45/46).
    Near temperature 0 the likeliest token is all there is.

    Of 2000 samples, chi-square stays below its 99 % quantile for as many tokens less one: 9.21 for
    three, 6.63 for two. A token that was cut never comes."""
    ((*drawn,),) = sample(
        Coin(), ["x"], samples=2000, temperature=temperature, top_p=top_p, batch_size=2000
    )
    counts = Counter(drawn)
    square = 0.0
    for letter, share in zip("abc", expected, strict=True):
        if share == 0:
            assert counts[letter] == 0
        else:
            square += (counts[letter] - 2000 * share) ** 2 / (2000 * share)
    assert square < {3: 9.21, 2: 6.63, 1: 1e-9}[sum(share > 0 for share in expected)]


def test_cold_samples_are_the_greedy_answer(vivid, tokenizer):
    model = vivid()
    greedy = ask(model, PROMPTS, tokenizer=tokenizer)
    cold, warm = (sample(model, PROMPTS, tokenizer=tokenizer, temperature=t) for t in (1e-4, 10.0))
    assert cold == [[answer] * 2 for answer in greedy]
    assert all(answer not in drawn for answer, drawn in zip(greedy, warm, strict=True))


def test_an_answer_begins_with_none_of_its_own_barred_tokens(vivid, tokenizer):
    """Of every other prompt the first token of its greedy answer is barred, and the end. Without a
    prompt's own list the answer stays as it was; further tokens are free."""
    model, end = vivid(), tokenizer.eos_token_id
    greedy = ask(model, PROMPTS, tokenizer=tokenizer)
    firsts = [ord(answer[0]) - 0x4E00 for answer in greedy]
    barred = [[first, end] if i % 2 else [] for i, first in enumerate(firsts)]
    own = {"tokenizer": tokenizer, "temperature": 1e-4, "samples": 1, "barred": barred}
    found = [answer for (answer,) in sample(model, PROMPTS, **own)]
    assert found[::2] == greedy[::2]
    assert all(b and b[0] != a[0] for a, b in zip(greedy[1::2], found[1::2], strict=True))
    every = {chr(0x4E00 + first) for first in firsts}
    assert any(every & set(answer[1:]) for answer in found)
    assert [a for (a,) in sample(model, PROMPTS, **own, batch_size=3)] == found


@pytest.mark.parametrize(("count", "inference"), [(1, True), (2, False)])
def test_no_gradients(monkeypatch, count, inference):
    """Red in the other order: `inference_mode(False)` turns gradients on."""
    monkeypatch.setattr(processes, "world_size", lambda: count)
    with no_gradients():
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() is inference
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
