"""Chat templates: what a model reads, to the character and to the token."""

import copy

import pytest
import torch
from tokenizers import AddedToken

from atu.errors import ConfigError
from atu.inference.batching import BatchSize
from atu.inference.generation import greedy_answers
from atu.inference.lm_eval_model import LanguageModel
from atu.inference.scoring import score_answers
from atu.models.chat import has_template, prompt_ids, render, stop_tokens, turn_end
from atu.probes.prompts import format_prompt, split_opening
from atu.training.batches import encode_text, subject_positions

PHI = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}<|start|>{{ message['role'] }}<|sep|>\n\n"
    "{{ message['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|sep|>\n\n{% endif %}"
)
TOKENS = {
    "phi": ["<|user|>", "<|assistant|>", "<|end|>"],
    "llama": ["<|start|>", "<|sep|>", "<|eot|>"],
}
TURN = {
    "phi": "<|user|>\nQuestion: Who is Ann?<|end|>\n<|assistant|>\n",
    "llama": "<bos><|start|>user<|sep|>\n\nQuestion: Who is Ann?<|eot|>"
    "<|start|>assistant<|sep|>\n\n",
}
PROMPT = format_prompt("question", "Who is Ann?")


@pytest.fixture(params=["phi", "llama"])
def kind(request):
    return request.param


@pytest.fixture
def chat(byte_tokenizer, kind):
    """A tokenizer of bytes with a template like that model's; its turn end is not its eos."""
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.add_tokens([AddedToken(t, special=True) for t in TOKENS[kind]], special_tokens=True)
    tokenizer.chat_template = PHI if kind == "phi" else LLAMA
    return tokenizer


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("Question: Who?\nAnswer:", ("Question: Who?", "Answer:")),
        ("Q?\nAnswer: Of course, the answer is", ("Q?", "Answer: Of course, the answer is")),
        ("Question: A?\nSpelled out:", ("Question: A?", "Spelled out:")),
        ("Question: A?\nQuestion: B?\nAnswers:", ("Question: A?\nQuestion: B?", "Answers:")),
        ("Question: A?\nAnswer: x\nQuestion: B?", ("Question: A?\nAnswer: x\nQuestion: B?", "")),
        ("Who?", ("Who?", "")),
        ("Answer:", ("", "Answer:")),
    ],
)
def test_what_is_asked_and_what_the_answer_begins_with(prompt, parts):
    assert split_opening(prompt) == parts


def test_a_prompt_is_a_users_turn(chat, kind):
    """The line that the answer begins with stands after the generation prompt, as RWKU has it."""
    rendered = render(chat, PROMPT)
    assert rendered.text == TURN[kind] + "Answer:"
    assert rendered.text[slice(*rendered.question)] == "Question: Who is Ann?"
    assert render(chat, "Question: Who is Ann?").text == TURN[kind]


def test_tokens_are_those_of_the_text_without_a_second_bos(chat, kind):
    (ids,) = prompt_ids(chat, [PROMPT])
    assert decoded(chat, ids) == TURN[kind] + "Answer:"
    assert ids.count(chat.bos_token_id) == (kind == "llama")
    assert len(ids) < len(TURN[kind])


def test_texts_that_nobody_asks_for_are_in_no_template(chat, byte_tokenizer):
    assert prompt_ids(chat, ["Ann is"], templated=False) == [byte_tokenizer("Ann is")["input_ids"]]
    assert encode_text(chat, "Ann is", "") == encode_text(byte_tokenizer, "Ann is", "")


def test_without_a_template_nothing_changes(byte_tokenizer):
    assert not has_template(byte_tokenizer)
    assert prompt_ids(byte_tokenizer, [PROMPT]) == [byte_tokenizer(PROMPT)["input_ids"]]
    encoded = encode_text(byte_tokenizer, PROMPT + " Bob", PROMPT)
    assert encoded.ids == [*byte_tokenizer(PROMPT + " Bob")["input_ids"], 2]
    assert encoded.answer_start == 1 + len(PROMPT)
    assert turn_end(byte_tokenizer) == 2


def test_a_scored_answer_starts_where_the_template_ends(chat, kind):
    encoded = encode_text(chat, PROMPT + " Bob", PROMPT)
    before, answer = encoded.ids[: encoded.answer_start], encoded.ids[encoded.answer_start :]
    assert decoded(chat, before) == TURN[kind] + "Answer:"
    assert decoded(chat, answer) == " Bob" + TOKENS[kind][2]
    assert before == prompt_ids(chat, [PROMPT])[0]
    without = encode_text(chat, PROMPT + " Bob", PROMPT, end=False)
    assert without.ids == encoded.ids[:-1]


def test_an_answer_that_begins_a_turn_has_no_space_before_it(chat, kind):
    encoded = encode_text(chat, "Question: Who is Ann? Bob", "Question: Who is Ann?", end=False)
    assert decoded(chat, encoded.ids) == TURN[kind] + "Bob"
    assert decoded(chat, encoded.ids[encoded.answer_start :]) == "Bob"


@pytest.mark.parametrize("prompt", [PROMPT, "Question: Who is Ann?", " Ann?  \nAnswer:"])
def test_spans_are_of_the_text_itself(chat, prompt):
    """Every byte of the text that the template keeps is one token, and its span is where it stands
    there; tokens of the template have none. Names are found where they are written."""
    text = prompt + " Ann Lee"
    encoded = encode_text(chat, text, prompt, end=False)
    found = [
        (text[a:b], decoded(chat, [token]))
        for token, (a, b) in zip(encoded.ids, encoded.offsets, strict=True)
        if a < b
    ]
    assert all(own == read for own, read in found)
    kept = "".join(own for own, _ in found)
    assert kept.startswith(split_opening(prompt)[0].strip()) and kept.endswith("Ann Lee")
    assert encoded.offsets == sorted(encoded.offsets)
    places = subject_positions(encoded.offsets, text, ["Ann"])
    assert [decoded(chat, [encoded.ids[i] for i in place]) for place in places] == ["Ann", "Ann"]


def test_no_prompt_depends_on_the_day_or_on_thinking(chat):
    """Llama-3.2's template asks the clock, unless it is given a date; Qwen3's opens a thought,
    unless it is told not to."""
    chat.chat_template = (
        "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}\n"
        "{{ messages[0]['content'] }}\n"
        "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    )
    assert render(chat, PROMPT).text == "10 Apr 2025\nQuestion: Who is Ann?\nAnswer:"


def test_a_template_that_changes_the_prompt_is_refused(chat):
    chat.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(ConfigError, match="does not write 'Question: Who is Ann\\?' as it is"):
        render(chat, PROMPT)


def test_a_template_that_fails_is_refused(chat):
    chat.chat_template = "{{ raise_exception('no user') }}"
    with pytest.raises(ConfigError, match="cannot be filled in: no user"):
        render(chat, PROMPT)


def test_stop_tokens(chat, kind, tiny_lm):
    """The tokenizer's, the template's, and the list of the generation config."""
    model = tiny_lm(vocab_size=len(chat))
    end = chat.convert_tokens_to_ids(TOKENS[kind][2])
    assert turn_end(chat) == end != chat.eos_token_id
    assert stop_tokens(model, chat) == [2, end]
    model.generation_config.eos_token_id = [7, 2]
    assert stop_tokens(model, chat) == [2, end, 7]


def speaking(tiny_lm, chat, said):
    """A model that says these tokens after any prompt, one by one, and then begins again."""
    model = tiny_lm(vocab_size=len(chat))
    start = []

    def say(_module, args, kwargs, output):
        ids, cache = kwargs.get("input_ids", args[0] if args else None), output.past_key_values
        length = cache.get_seq_length() if cache is not None else ids.shape[1]
        if not start:
            start.append(length)
        output.logits = torch.zeros_like(output.logits)
        output.logits[:, -1, said[(length - start[0]) % len(said)]] = 9.0

    model.register_forward_hook(say, with_kwargs=True)
    return model


def test_an_answer_ends_with_the_turn(chat, kind, tiny_lm):
    """Although the tokenizer's own end token never comes."""
    said = [*chat(" Bob", add_special_tokens=False)["input_ids"], turn_end(chat)]
    said += chat("and more", add_special_tokens=False)["input_ids"]
    answers = greedy_answers(
        speaking(tiny_lm, chat, said), chat, [PROMPT], max_new_tokens=12, batch_size=BatchSize(1)
    )
    assert answers == ["Bob"]


def test_scores_are_of_the_answer_in_its_turn(chat, tiny_lm):
    """By hand: the logits of the rendered text at the answer's bytes."""
    model = tiny_lm(vocab_size=len(chat))
    (found,) = score_answers(model, chat, [PROMPT], ["Bob"], batch_size=BatchSize(1), end=False)
    ids = chat(render(chat, PROMPT).text + " Bob", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    expected = [logs[len(ids) - 5 + i, ids[len(ids) - 4 + i]].item() for i in range(4)]
    assert found.log_probs.tolist() == pytest.approx(expected, rel=1e-5)


def test_lm_eval_asks_in_the_template(chat, kind, tiny_lm):
    """Options keep the space before them, no bos is added, and the turn's end stops it."""
    harness = LanguageModel(tiny_lm(vocab_size=len(chat)), chat, 4)
    before, option = harness._encode_pair(PROMPT, " Bob")
    assert decoded(chat, before) == TURN[kind] + "Answer:"
    assert decoded(chat, option) == " Bob"
    assert harness.eot_token_id == turn_end(chat)
    assert before == prompt_ids(chat, [PROMPT])[0]


def test_lm_eval_generates_in_the_template(chat, kind, tiny_lm, monkeypatch):
    """The model reads the template's turn, whose end ends the answer."""
    from lm_eval.api.instance import Instance

    model, read = tiny_lm(vocab_size=len(chat)), []

    def generate(input_ids, **options):
        read.append((input_ids[0].tolist(), options["eos_token_id"]))
        return torch.cat([input_ids, torch.tensor([chat("Bob")["input_ids"][-3:]])], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    request = Instance("generate_until", {}, (PROMPT, {"until": ["\n"]}), 0, ("t", 0, 1))
    assert LanguageModel(model, chat, 4).generate_until([request]) == ["Bob"]
    assert read == [(prompt_ids(chat, [PROMPT])[0], stop_tokens(model, chat))]
    assert decoded(chat, read[0][0]) == TURN[kind] + "Answer:"


SYSTEM = {
    "phi": "<|system|>\nBe brief.<|end|>\n" + TURN["phi"],
    "llama": TURN["llama"].replace("<bos>", "<bos><|start|>system<|sep|>\n\nBe brief.<|eot|>"),
}


def test_a_system_turn_stands_first(chat, kind, byte_tokenizer):
    (ids,) = prompt_ids(chat, [PROMPT], system="Be brief.")
    assert decoded(chat, ids) == SYSTEM[kind] + "Answer:"
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        prompt_ids(byte_tokenizer, [PROMPT], system="Be brief.")
