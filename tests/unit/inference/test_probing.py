"""Answers to probes."""

import pytest

from atu.inference import probing
from atu.inference.batching import BatchSize
from atu.inference.generation import Sampling
from atu.inference.probing import answer_probes, sample_probes

OPTIONS = {"max_new_tokens": 8, "batch_size": BatchSize(2), "label": "x"}


@pytest.fixture
def asked(monkeypatch):
    """The prompts that are asked; a model says each in upper case and a second line."""
    prompts = []

    def answers(model, tokenizer, texts, **_):
        prompts.extend(texts)
        return [f"{text.upper()}\nAnd more." for text in texts]

    monkeypatch.setattr(probing, "greedy_answers", answers)
    return prompts


def test_a_shared_prompt_is_asked_once(asked):
    """Both probes of a pair get the one answer; the order is that of the probes."""
    probes = [{"prompt": prompt, "stops": ["\n"]} for prompt in ("b", "pair", "a", "pair", "b")]
    assert answer_probes(None, None, probes, **OPTIONS) == ["B", "PAIR", "A", "PAIR", "B"]
    assert asked == ["b", "pair", "a"]


def test_an_answer_ends_where_its_own_probe_says(asked):
    probes = [{"prompt": "a", "stops": stops} for stops in (["\n"], [], ["more"])]
    answers = answer_probes(None, None, probes, **OPTIONS)
    assert answers == ["A", "A\nAnd more.", "A\nAnd"]


def test_other_prompts_in_place_of_the_probes(asked):
    answers = answer_probes(
        None, None, [{"prompt": "a", "stops": ["\n"]}], prompts=["b"], **OPTIONS
    )
    assert (asked, answers) == (["b"], ["B"])


def test_samples_end_where_the_probe_says(monkeypatch):
    monkeypatch.setattr(probing, "sampled_answers", lambda *_, **__: [["x\ny", "z"]] * 2)
    probes = [{"prompt": "a", "stops": stops} for stops in (["\n"], [])]
    drawn = sample_probes(None, None, probes, Sampling(2, 1.0, 1.0, 0), **OPTIONS)
    assert drawn == [["x", "z"], ["x\ny", "z"]]
