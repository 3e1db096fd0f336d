import pytest
import torch
from torch import nn

from atu.errors import EvaluationError
from atu.generation import greedy_answers

PAD = 0
OutOfMemory = torch.cuda.OutOfMemoryError


class Letters:
    """A tokenizer with one token per character: its code point."""

    pad_token_id, eos_token_id = PAD, 1

    def __call__(self, text):
        return {"input_ids": [ord(letter) for letter in text]}

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        return ["".join(chr(i) for i in row if i > 1) for row in rows.tolist()]


class Parrot(nn.Module):
    """Answers each prompt with `before`, the prompt's last letter in upper case, and `after`."""

    def __init__(self, before="", after="", fits=100, error=OutOfMemory):
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


def ask(model, prompts, batch_size=8, **options):
    return greedy_answers(
        model, Letters(), prompts, max_new_tokens=4, batch_size=batch_size, **options
    )


@pytest.mark.parametrize(
    ("before", "after", "answer"),
    [
        ("", "", "A"),
        ("  ", "  ", "A"),
        (" ", "b \nQuestion: c", "Ab"),
        ("\n", "", ""),
        ("", "\x01\x00\x00", "A"),
    ],
)
def test_an_answer_is_one_stripped_line(before, after, answer):
    """Cut at the first line break, spaces stripped, end and padding tokens dropped. An answer that
    begins with a line break is empty: the model said nothing on the line."""
    assert ask(Parrot(before, after), ["a"]) == [answer]


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
    """Five prompts in batches of 4 where 2 fit: 4 fails, then 2, 2, 1."""
    model = Parrot(fits=2)
    assert ask(model, list("abcde"), batch_size=4) == list("ABCDE")
    assert [len(ids) for ids, *_ in model.calls] == [4, 2, 2, 1]


def test_out_of_memory_with_one_prompt_is_an_error():
    model = Parrot(fits=0)
    with pytest.raises(OutOfMemory):
        ask(model, list("ab"), batch_size=2)
    assert [len(ids) for ids, *_ in model.calls] == [2, 1]


def test_a_crash_is_never_an_answer():
    with pytest.raises(RuntimeError, match="too large"):
        ask(Parrot(fits=0, error=RuntimeError), ["a"])


def test_a_missing_answer_is_an_evaluation_error(monkeypatch):
    monkeypatch.setattr(Letters, "batch_decode", lambda self, rows, skip_special_tokens: ["A"])
    with pytest.raises(EvaluationError, match="1 answers for 2 prompts"):
        ask(Parrot(), ["a", "b"])


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
    with pytest.raises(OutOfMemory):
        ask(model, ["a"], batch_size=1)
    assert model.training


def test_no_prompts():
    assert ask(Parrot(), []) == []


def test_batching_changes_no_answer_of_a_real_model(tiny_lm, byte_tokenizer):
    """A left-padded prompt is answered as it is alone, by a random model with distinct answers."""
    model = tiny_lm(vocab_size=len(byte_tokenizer), seed=3)
    prompts = ["a", "Who?", "Where is it?", "b b", "What then?"]

    def answers(batch_size):
        return greedy_answers(
            model, byte_tokenizer, prompts, max_new_tokens=6, batch_size=batch_size
        )

    together = answers(5)
    assert together == answers(1)
    assert len(set(together)) > 1
