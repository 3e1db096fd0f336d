"""Questions to a loaded model, asked as the pipeline asks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import Formatter
from typing import Any

from atu.errors import ConfigError, resource_errors
from atu.inference.batching import BatchSize
from atu.inference.generation import Sampling, greedy_answers, sampled_answers
from atu.models.loaded import LoadedModel
from atu.probes.prompts import FORMS, format_prompt
from atu.untrusted.texts import SURROGATE


def ask(
    model: LoadedModel,
    questions: str | Sequence[str],
    *,
    form: str | None = "question",
    system: str | None = None,
    raw: bool = False,
    sampling: Sampling | None = None,
    max_new_tokens: int = 48,
    batch_size: int = 128,
    stops: Sequence[str] = (),
    options: Sequence[str] = (),
    **details: str,
) -> Any:
    """The greedy answer to a question (a string), or to each of several (a list), up to the model's
    own end.

    A question is written in `form` and stands in the tokenizer's chat template if it has one, as
    everywhere in the pipeline.

    Args:
        form: a key of `atu.probes.prompts.FORMS`; None asks the words as they are.
        system: the turn before each question; needs a chat template.
        raw: continue texts instead: no form, no template.
        sampling: draw answers instead: a list of them for each question.
        max_new_tokens: tokens of an answer at most.
        batch_size: questions at once; halved where memory does not hold them.
        stops: an answer also ends before the first of these; a base model may not end by itself.
        options: what to choose from, in the forms that need it.
        details: what else some forms need besides the question: `name`, `hint`, `example` and
            `example_answer`, or the `second` question of a pair.

    Raises:
        ConfigError: a form, or what it needs, is missing or unknown.
        EvaluationError: the model failed at a question; a failure is never an empty answer.
        LengthError: a question with its answer does not fit the model's context.
        ResourceError: one question alone does not fit the memory.
    """
    single = isinstance(questions, str)
    texts = [questions] if isinstance(questions, str) else list(questions)
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(name, value, "give at least 1")
    if raw and system is not None:
        raise ConfigError("system", system, "raw texts stand in no template; leave one of both out")
    prompts = _prompts(texts, None if raw else form, tuple(options), details)
    shared: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "batch_size": BatchSize(batch_size), "system": system,
        "templated": not raw, "stripped": not raw,
        "stops": tuple(filter(None, [stops] if isinstance(stops, str) else stops)),
    }  # fmt: skip
    answers: Callable[..., list[Any]] = greedy_answers
    arguments = [model.model, model.tokenizer, prompts]
    if sampling is not None:
        answers, arguments = sampled_answers, [*arguments, sampling]
    with resource_errors():
        outputs = answers(*arguments, **shared) if prompts else []
    return outputs[0] if single else outputs


def _prompts(
    questions: Sequence[str], form: str | None, options: Sequence[str], details: dict[str, str]
) -> list[str]:
    """Every question in its form.

    Raises:
        ConfigError: as `ask`.
    """
    for question in questions:
        if not isinstance(question, str) or not question.strip():
            raise ConfigError("questions", question, "is no text; give a question or several")
        if SURROGATE.search(question):
            raise ConfigError("questions", question, "holds an unpaired surrogate")
    if form is not None and form not in FORMS:
        raise ConfigError("form", form, f"unknown; known are {', '.join(FORMS)}")
    template = FORMS[form].template if form else "{query}"
    needed = {name for _, name, _, _ in Formatter().parse(template) if name} - {"query", "first"}
    given = {**details, **({"options": options} if options else {})}
    for name in sorted(needed - set(given)):
        raise ConfigError(name, None, f"the form {form!r} needs it; pass it by this name")
    for name in sorted(set(given) - needed):
        raise ConfigError(name, given[name], f"the form {form!r} has no place for it")
    if form is None:
        return list(questions)
    return [format_prompt(form, q, options, **details, first=q) for q in questions]
