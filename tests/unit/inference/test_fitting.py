"""Prompts that the context cuts: what goes first, and what stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.errors import EvaluationError
from atu.inference.fitting import require_new_tokens, shorten

PROMPT = "Instruction.\n\nFirst?\nAnswer: A\n\nSecond?\nAnswer: B\n \nThe question?\nAnswer:"


def cut(prompt, room):
    """What is left of a prompt where `room` characters fit."""
    return shorten(prompt, lambda text: len(text) <= room)


@pytest.mark.parametrize(
    ("room", "left"),
    [
        (73, PROMPT),
        (72, "Instruction.\n\nSecond?\nAnswer: B\n \nThe question?\nAnswer:"),
        (54, "Instruction.\n\nThe question?\nAnswer:"),
        (34, "The question?\nAnswer:"),
        (20, "he question?\nAnswer:"),
        (8, "\nAnswer:"),
        (7, None),
    ],
    ids=["all", "an example less", "no example", "no instruction", "a letter less", "none", "no"],
)
def test_examples_go_first_and_the_answers_line_stays(room, left):
    assert len(PROMPT) == 73
    assert cut(PROMPT, room) == left


@pytest.mark.parametrize(
    ("prompt", "room", "left"),
    [
        ("Who is it?", 4, " it?"),
        ("Who?", 0, None),
        ("A\n\nB", 1, "B"),
        ("question\n\n", 4, "on\n\n"),
    ],
)
def test_prompts_without_a_line_for_the_answer(prompt, room, left):
    assert cut(prompt, room) == left


@given(st.text("ab \n", min_size=1), st.integers(0, 30))
def test_what_is_left_fits_and_ends_as_the_prompt(prompt, room):
    left = cut(prompt, room)
    if left is not None:
        assert len(left) <= room and prompt.endswith(left[-1:])
        assert (left == prompt) is (len(prompt) <= room)


def test_an_answer_leaves_room_for_a_prompt():
    require_new_tokens("bbh", 255, 256)
    require_new_tokens("bbh", 256, None)
    with pytest.raises(EvaluationError, match=r"bbh: asks for 256 new tokens.* holds 256 for"):
        require_new_tokens("bbh", 256, 256)
