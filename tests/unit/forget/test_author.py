"""The author on a real, if tiny, model: openings stay, templates are used, draws are repeatable."""

import pytest
import torch

from atu.forget.author import Author
from atu.inference import generation
from atu.inference.batching import BatchSize
from atu.inference.generation import greedy_answers

TEMPLATE = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
OPTIONS = {"samples": 2, "tokens": 6, "temperature": 1.0, "top_p": 0.9}


@pytest.fixture
def author_of(tiny_lm, byte_tokenizer):
    def make(template=None, seed=0):
        byte_tokenizer.chat_template = template
        return Author(tiny_lm(vocab_size=259), byte_tokenizer, seed, BatchSize(3))

    yield make
    byte_tokenizer.chat_template = None


def test_a_base_models_text_begins_with_its_opening(author_of):
    """But not with one that announces it; the first sample of every prompt comes first."""
    author = author_of()
    assert not author.chat
    texts = author.write(["Ann is", "About Ann."], number=0, **OPTIONS)
    assert len(texts) == 4
    assert [text.startswith("Ann is") for text in texts] == [True, False, True, False]
    assert texts[0] != texts[2]


def test_a_chat_model_is_asked(author_of):
    author = author_of(TEMPLATE)
    assert author.chat
    texts = author.write(["Ann is"], number=0, **OPTIONS)
    assert not any(text.startswith("Ann is") for text in texts)


def test_a_chat_models_text_has_all_its_lines(author_of, monkeypatch):
    """A base model's ends with its line; a list is asked for with all of them, an answer is one."""
    said = "One.\nTwo."
    monkeypatch.setattr(generation, "_generate", lambda _, tokenizer, rows, *__: torch.tensor(
        [tokenizer(said, add_special_tokens=False)["input_ids"]] * len(rows)))  # fmt: skip
    author = author_of(TEMPLATE)
    assert author.write(["Ann"], number=0, **OPTIONS) == [said] * 2
    assert author.answer(["Ann?"], 9, "t", stops=()) == [said]
    assert author.answer(["Ann?"], 9, "t") == ["One."]
    assert author_of().write(["Ann"], number=0, **OPTIONS) == ["AnnOne."] * 2


def test_rounds_and_seeds_draw_other_texts(author_of):
    first = author_of().write(["Ann"], number=0, **OPTIONS)
    assert author_of().write(["Ann"], number=0, **OPTIONS) == first
    assert author_of().write(["Ann"], number=1, **OPTIONS) != first
    assert author_of(seed=1).write(["Ann"], number=0, **OPTIONS) != first


def test_what_goes_on_keeps_its_space(author_of):
    """Byte tokens: the continuation behind the beginning is what the whole text decodes to."""
    author = author_of()
    (said,) = author.proceed(["Ann is"], 8, "t")
    stripped = greedy_answers(
        author.model, author.tokenizer, ["Ann is"], max_new_tokens=8, batch_size=BatchSize(1),
        templated=False,
    )  # fmt: skip
    assert said.strip() == stripped[0]


def test_answers_are_sampled_as_often_as_asked(author_of):
    author = author_of()
    found = author.answer_again(["Ann?", "Bo?"], 4, 3, 0.7, "t")
    assert [len(answers) for answers in found] == [3, 3]
    assert len(author.answer(["Ann?"], 4, "t")) == 1
