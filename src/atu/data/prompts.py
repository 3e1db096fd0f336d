"""Every prompt of the project, once.

Training text of the embedded world, probes, lm-eval tasks and retain sets all format their
questions here, so that no two phases can ask the same thing in two ways.
"""

from __future__ import annotations

from collections.abc import Sequence

QUESTION = "Question: {query}\nAnswer:"
CLOZE = "Fill in the blank: {query}\nAnswer:"
CHOICE = "Question: {query}\nOptions: {options}\nAnswer:"
BLANK = "___"
ANSWER_SEPARATOR = " "
STOP = "\n"
"""Generation is cut here: an answer is one line."""


def format_prompt(form: str, query: str, options: Sequence[str] = ()) -> str:
    """The prompt for a probe of this form; the answer follows after `ANSWER_SEPARATOR`."""
    if form == "choice":
        return CHOICE.format(query=query, options=", ".join(options))
    if form == "cloze":
        return CLOZE.format(query=query)
    return QUESTION.format(query=query)


def join_answer(prompt: str, answer: str) -> str:
    """Prompt and gold answer as one training text."""
    return prompt + ANSWER_SEPARATOR + answer
