import pytest

from atu.data.prompts import STOP, format_prompt, join_answer


@pytest.mark.parametrize(
    ("form", "query", "options", "expected"),
    [
        ("question", "Who?", (), "Question: Who?\nAnswer:"),
        ("reverse", "Who?", (), "Question: Who?\nAnswer:"),
        ("two_hop", "Who?", (), "Question: Who?\nAnswer:"),
        ("cloze", "It is ___.", (), "Fill in the blank: It is ___.\nAnswer:"),
        ("choice", "Which?", ["a", "b"], "Question: Which?\nOptions: a, b\nAnswer:"),
        ("question", "What is {x}?", (), "Question: What is {x}?\nAnswer:"),
    ],
)
def test_prompts(form, query, options, expected):
    """Written out; braces in a query are text, not a field."""
    assert format_prompt(form, query, options) == expected


def test_the_answer_follows_after_one_space():
    """No prompt ends in a space: the answer's first token carries it, as in running text."""
    prompt = format_prompt("question", "Who?")
    assert join_answer(prompt, "Ada") == "Question: Who?\nAnswer: Ada"


def test_generation_stops_where_a_prompt_has_a_line_break():
    """A model that goes on with a next question is cut before it."""
    assert f" Ada\n{format_prompt('cloze', '___')}".split(STOP)[0] == " Ada"
