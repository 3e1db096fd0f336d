"""`ask`: what a question becomes, and what is refused."""

import copy

import pytest
import torch
from machines import CPU

from atu.errors import ConfigError, EvaluationError, LengthError, ResourceError
from atu.inference import asking
from atu.inference.asking import ask
from atu.inference.batching import BatchSize
from atu.inference.generation import Sampling, greedy_answers
from atu.models.loaded import LoadedModel

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def loaded(tiny_lm, byte_tokenizer):
    return LoadedModel(tiny_lm(vocab_size=259), byte_tokenizer, CPU, None)


@pytest.fixture
def prompts(monkeypatch):
    """What is generated from, with the keywords, in place of generating."""
    seen = []

    def answers(_model, _tokenizer, prompts, **keywords):
        seen.append((list(prompts), keywords))
        return [f"a{n}" for n in range(len(prompts))]

    monkeypatch.setattr(asking, "greedy_answers", answers)
    return seen


def test_an_answer_is_the_pipelines(loaded):
    """The same as to the prompt written by hand, one alone or in a batch."""
    (expected,) = greedy_answers(
        loaded.model, loaded.tokenizer, ["Question: Who?\nAnswer:"], max_new_tokens=4,
        batch_size=BatchSize(1),
    )  # fmt: skip
    assert ask(loaded, "Who?", max_new_tokens=4) == expected
    assert ask(loaded, ["Who?", "What is it?"], max_new_tokens=4)[0] == expected
    assert ask(loaded, []) == []


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({}, "Question: Who?\nAnswer:"),
        ({"form": None}, "Who?"),
        ({"raw": True}, "Who?"),
        ({"form": "role_play", "name": "Ann"},
         "You are an old friend of Ann and know everything.\nQuestion: Who?\nAnswer:"),
        ({"form": "choice", "options": ["Bo", "Cy"]},
         "Question: Who?\nOptions: Bo, Cy\nAnswer:"),
        ({"form": "paired", "second": "Why?"}, "Question: Who?\nQuestion: Why?\nAnswers:"),
    ],
)  # fmt: skip
def test_a_question_is_written_in_its_form(loaded, prompts, options, prompt):
    assert ask(loaded, "Who?", **options) == "a0"
    assert prompts[0][0] == [prompt]


def test_raw_texts_are_continued_as_they_are(loaded, prompts):
    ask(loaded, ["a", "b"], raw=True)
    _, keywords = prompts[0]
    assert not (keywords["templated"] or keywords["stripped"] or keywords["stops"])


def test_a_system_turn_stands_before_each_question(loaded):
    """In a template it changes what is read; without one there is no place for it."""
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = TEMPLATE
    chat = LoadedModel(loaded.model, tokenizer, CPU, None)
    by_hand = "[system]Be brief.[user]Question: Who?[assistant]Answer:"
    assert ask(chat, "Who?", system="Be brief.", max_new_tokens=4) == ask(
        loaded, by_hand, form=None, max_new_tokens=4
    )
    with pytest.raises(ConfigError, match=r"system = 'Be brief\.': the tokenizer has no chat"):
        ask(loaded, "Who?", system="Be brief.")


def test_samples_are_a_list_for_each_question(loaded):
    sampling = Sampling(samples=3, temperature=1.0, top_p=1.0, seed=0)
    one = ask(loaded, "Who?", sampling=sampling, max_new_tokens=4)
    assert len(one) == 3 and len(set(one)) > 1
    assert ask(loaded, ["What?", "Who?"], sampling=sampling, max_new_tokens=4)[1] == one


@pytest.mark.parametrize(
    ("questions", "options", "message"),
    [
        (" ", {}, r"questions = ' ': is no text"),
        (["Who?", 3], {}, r"questions = 3: is no text"),
        ("Who?", {"form": "riddle"}, r"form = 'riddle': unknown; known are question, cloze"),
        ("Who?", {"form": "role_play"}, r"name = None: the form 'role_play' needs it"),
        ("Who?", {"max_tokens": "4"}, r"max_tokens = '4': the form 'question' has no place"),
        ("Who?", {"max_new_tokens": 0}, r"max_new_tokens = 0: give at least 1"),
        ("Who?", {"raw": True, "system": "s"}, r"system = 's': raw texts stand in no template"),
    ],
)
def test_what_cannot_be_asked_is_refused(loaded, questions, options, message):
    with pytest.raises(ConfigError, match=message):
        ask(loaded, questions, **options)


def test_a_failure_is_no_empty_answer(loaded, tiny_lm, monkeypatch):
    broken = tiny_lm(vocab_size=259)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(EvaluationError, match=r"item 0: .*a logit is not finite"):
        ask(LoadedModel(broken, loaded.tokenizer, CPU, None), "Who?")
    with pytest.raises(LengthError, match="more than the 512 of the model's context"):
        ask(loaded, "Who?" * 200)

    def full(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loaded.model, "generate", full)
    with pytest.raises(ResourceError, match="out of memory"):
        ask(loaded, "Who?")


def test_half_a_character_is_refused(loaded):
    with pytest.raises(ConfigError, match="unpaired surrogate"):
        ask(loaded, "Who is \ud800?")


@pytest.mark.parametrize(("stops", "given"), [("\nQ", ("\nQ",)), (["", "\n"], ("\n",))])
def test_stops_are_strings_with_letters(loaded, prompts, stops, given):
    """One string is one stop, and the empty string, which every answer begins with, is none."""
    ask(loaded, "Who?", stops=stops)
    assert prompts[0][1]["stops"] == given
