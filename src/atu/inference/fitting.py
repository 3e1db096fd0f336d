"""Prompts that are longer than the model's context: what is left out, so that it can be counted."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable

from atu.errors import EvaluationError

BETWEEN = re.compile(r"\n[ \t]*\n\s*")
"""Blank lines: they separate the few-shot examples of MMLU, BBH and lm-eval."""


def shorten(prompt: str, fits: Callable[[str], bool]) -> str | None:
    r"""The prompt, or the longest of its shorter forms that fits; None if none does.

    Parts are separated by blank lines. Few-shot examples are left out first, the oldest before the
    others; then the first part, which is a task's instruction; then the beginning of the question.
    The last line, in which the answer begins, stays. "I\n\nA\n\nB\n\nQ" becomes "I\n\nB\n\nQ",
    "I\n\nQ", "Q".

    Args:
        fits: whether a prompt fits; a shorter one always does where a longer one does.
    """
    if fits(prompt):
        return prompt
    starts = [blank.end() for blank in BETWEEN.finditer(prompt.rstrip())]
    shorter = [prompt[: starts[0]] + prompt[start:] for start in starts[1:]]
    shorter += [prompt[start:] for start in starts[-1:]]
    for text in shorter:
        if fits(text):
            return text
    question = prompt[starts[-1] :] if starts else prompt
    last = question.rstrip().rfind("\n") if "\n" in question.rstrip() else len(question) - 1
    start = bisect_left(range(last), True, key=lambda at: fits(question[at:]))
    return question[start:] if fits(question[start:]) else None


def require_new_tokens(task: str, new: int, context: int | None) -> None:
    """Refuse a task whose answers leave no room for a prompt.

    Raises:
        EvaluationError: names the task, its tokens and the context.
    """
    if context is not None and new >= context:
        raise EvaluationError(
            f"{task}: asks for {new} new tokens, but the model's context holds {context} for the "
            "prompt and the answer; leave the task out, or take a model with a longer context"
        )
