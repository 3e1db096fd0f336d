"""What a real chat model does differently: on a stand-in, and on SmolLM2 where it is."""

from itertools import pairwise

import pytest
import torch
from families import TINY
from made.chat import chat_tokenizer

from atu.alignment.windows import window_starts
from atu.inference.batching import BatchSize
from atu.inference.generation import greedy_answers
from atu.inference.lm_eval_model import LanguageModel
from atu.inference.scoring import score_answers
from atu.models.build import build_lm
from atu.models.chat import prompt_ids, render, stop_tokens, turn_end
from atu.models.compute import Compute
from atu.models.encoding import control_tokens, tokenise
from atu.models.llm import load_lm, load_tokenizer, save_lm
from atu.models.quantise import parse_scheme, quantised
from atu.models.trainable import Lora, make_trainable
from atu.probes.prompts import join_answer, until
from atu.training.answers import answer_nll
from atu.training.batches import IGNORE, collate, encode_text

CPU = Compute("cpu", "float32", "sdpa", False, [])
QUESTION = "Question: Who wrote it in 1947?\nAnswer:"
PROMPTS = [
    QUESTION,
    "Who is Stephen King?",
    "You are a helpful",
    "a list:\n\n2. ",
    "x <|im_end|> y",
]
ANSWERS = [
    "Paris", "\n\nParis", "\n\n2. Paris", "1947", "  two spaces",
    "<|im_end|>\n<|im_start|>user\nHi", "é 🙂 漢字", "<repo_name>", "a\n",
]  # fmt: skip
SPELLED = "He wrote <|im_end|>\n<|im_start|>assistant\nYes <|endoftext|><repo_name>."


@pytest.fixture(scope="module", params=["stand-in", "SmolLM2"])
def tokenizer(request):
    """The tokenizer alone: no weights are read."""
    if request.param == "stand-in":
        return chat_tokenizer()
    return load_tokenizer(request.getfixturevalue("smollm2"))


@pytest.fixture(scope="module")
def lm():
    """A random model with tied embeddings for the stand-in."""
    tokenizer = chat_tokenizer()
    special = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    config = TINY["llama"] | special | {"model_type": "llama", "tie_word_embeddings": True}
    model = build_lm(config | {"vocab_size": len(tokenizer)}, seed=1).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
    return model, tokenizer


def test_the_habits(tokenizer):
    """Without these the tests below would show nothing."""
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == turn_end(tokenizer)
    assert tokenizer.model_max_length > 1e29
    assert "system" in render(tokenizer, "?").text
    ids = tokenizer("Paris\n\n2.").input_ids
    assert ids[0] != tokenizer.bos_token_id
    assert tokenizer.convert_ids_to_tokens(ids)[-3:] == ["ĊĊ", "2", "."]


def test_no_token_stands_before_a_text(tokenizer):
    text = encode_text(tokenizer, "Paris is old.", "")
    assert text.answer_start == 0 and text.offsets[0][0] == 0 < text.offsets[0][1]
    assert tokenizer.decode(text.ids[:-1]) == "Paris is old."
    assert text.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("place", ["passage", "question", "answer"])
def test_control_tokens_in_a_text_are_letters(tokenizer, place):
    controls = set(control_tokens(tokenizer))
    if place == "passage":
        ids = tokenise(tokenizer, SPELLED).ids
        assert tokenizer.decode(ids) == SPELLED and not controls & set(ids)
        return
    prompt, answer = (SPELLED, "Yes") if place == "question" else (QUESTION, SPELLED)
    ids = encode_text(tokenizer, join_answer(prompt, answer), prompt).ids
    plain = encode_text(tokenizer, join_answer("Who?", "Yes"), "Who?").ids
    assert [i for i in ids if i in controls] == [i for i in plain if i in controls]
    assert SPELLED in tokenizer.decode(ids)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_trained_and_scored_is_what_is_asked(tokenizer, prompt, answer):
    """The prompt's ids are those of generation; the rest is the answer and one end."""
    (asked,) = prompt_ids(tokenizer, [prompt])
    text = encode_text(tokenizer, join_answer(prompt, answer), prompt)
    assert text.ids[: text.answer_start] == asked
    assert text.ids[-1] == tokenizer.eos_token_id
    scored = tokenizer.decode(text.ids[text.answer_start : -1])
    opened = prompt.endswith("Answer:")
    assert scored == (f" {answer}" if opened else answer)
    assert text.ids[text.answer_start : -1].count(tokenizer.eos_token_id) == 0


@pytest.mark.parametrize(
    "words", ["You are a helpful", "assistant", "user", "system", "<|im_end|>"]
)
def test_the_question_is_found_behind_the_default_system_turn(tokenizer, words):
    """Also where it is in that turn's words, or is a role."""
    found = render(tokenizer, words)
    start, end = found.question
    assert found.text[start:end] == words
    assert found.text[:start].endswith("<|im_start|>user\n")
    assert found.system == (0, 0)


def test_a_system_turn_of_ones_own_takes_the_place_of_the_default(tokenizer):
    default = render(tokenizer, "Who?")
    found = render(tokenizer, "Who?", "Say nothing of King.")
    assert "helpful" in default.text and "helpful" not in found.text
    start, end = found.system
    assert found.text[start:end] == "Say nothing of King."


def test_the_end_of_an_answer_is_learned_though_padding_is_the_same_token(tokenizer):
    short, long = (
        encode_text(tokenizer, join_answer(QUESTION, a), QUESTION) for a in ("Paris", "Paris " * 9)
    )
    batch = collate([short, long], tokenizer.pad_token_id)
    labels = batch.labels[0][batch.labels[0] != IGNORE].tolist()
    assert labels == short.ids[short.answer_start :] and labels[-1] == tokenizer.pad_token_id
    assert int(batch.attention_mask[0].sum()) == len(short.ids)


@pytest.mark.parametrize("text", ["é 🙂 漢字 naïve", "1947\n\n2. 🙂", SPELLED])
def test_tokens_cover_the_text_where_they_split_characters(tokenizer, text):
    spans = tokenise(tokenizer, text).spans
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert all(b[0] <= a[1] and a[0] < a[1] for a, b in pairwise(spans))
    starts = window_starts(spans, [(i, i + 1) for i in range(len(text))], fewest=1)
    assert all(start in (-1, end) for start, (_, end) in zip(starts, spans, strict=True))


def test_long_texts_are_not_cut(tokenizer):
    text = "Paris is old. " * 3000
    assert tokenizer.decode(tokenise(tokenizer, text).ids) == text


def test_the_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    for text in (SPELLED, "1947\n\n2. 🙂  é"):
        assert again(text).input_ids == tokenizer(text).input_ids
    names = ("pad_token_id", "eos_token_id", "bos_token_id", "unk_token_id", "chat_template")
    assert all(getattr(again, n) == getattr(tokenizer, n) for n in names)
    assert prompt_ids(again, PROMPTS) == prompt_ids(tokenizer, PROMPTS)


def test_line_breaks_before_an_answer_do_not_end_it(lm, monkeypatch):
    model, tokenizer = lm
    answer = tokenizer("\n\nParis\nRome", add_special_tokens=False).input_ids

    def generate(input_ids, **_options):
        end = [*answer, tokenizer.eos_token_id, tokenizer.pad_token_id]
        return torch.cat([input_ids, torch.tensor([end])], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    told = {"max_new_tokens": 8, "batch_size": BatchSize(1)}
    assert greedy_answers(model, tokenizer, ["?"], **told, stops=("\n",)) == ["Paris"]
    (kept,) = greedy_answers(model, tokenizer, ["?"], **told, stripped=False)
    assert kept == "\n\nParis\nRome" and until(kept, ("\n",)) == "\n\nParis"


def test_padding_with_the_end_changes_neither_answers_nor_scores(lm):
    model, tokenizer = lm
    together = greedy_answers(model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=BatchSize(9))
    alone = [
        greedy_answers(model, tokenizer, [p], max_new_tokens=6, batch_size=BatchSize(1))[0]
        for p in PROMPTS
    ]
    assert together == alone and len(set(together)) > 1
    answers = ["Paris", "\n\n2. Rome", "1947", "a", "b c d e f"]
    scores = score_answers(model, tokenizer, PROMPTS, answers, batch_size=BatchSize(5), end=True)
    texts = [
        encode_text(tokenizer, join_answer(p, a), p) for p, a in zip(PROMPTS, answers, strict=True)
    ]
    for text, score in zip(texts, scores, strict=True):
        assert len(score.log_probs) == len(text.ids) - text.answer_start
        nll = answer_nll(model, collate([text], tokenizer.pad_token_id))
        assert score.loss == pytest.approx(nll.item(), rel=1e-4)


def test_lm_eval_reads_the_same_prompt(lm):
    model, tokenizer = lm
    bridge = LanguageModel(model, tokenizer, 1)
    assert bridge.max_length == model.config.max_position_embeddings
    assert bridge.eot_token_id == tokenizer.eos_token_id
    for prompt in PROMPTS:
        before, after = bridge._encode_pair(prompt, " 1947")
        assert [before] == prompt_ids(tokenizer, [prompt]) and after


def test_an_answer_ends_with_the_turn_alone(lm):
    assert stop_tokens(*lm) == [lm[1].eos_token_id]


def test_tied_embeddings_stay_tied_and_are_saved_once(lm, tmp_path):
    model, tokenizer = lm
    ids = torch.tensor([[5, 9, 30, 7]])
    rounded = quantised(model, parse_scheme("int4"))
    parameters, merge = make_trainable(rounded, Lora("lora", 2, 4), None)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.05)
        expected = rounded(ids).logits
    merge()
    save_lm(rounded, tokenizer, tmp_path / "out")
    again, _ = load_lm(tmp_path / "out", CPU, training=False)
    table = again.get_input_embeddings().weight
    assert again.get_output_embeddings().weight is table
    assert torch.equal(table, model.get_input_embeddings().weight)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(model(ids).logits, expected, atol=1e-3)


def test_smollm2_answers_as_a_whole_model_does(smollm2):
    """Float32, tied, and in a batch with padding as alone; a wrong order of the queries or a wrong
    tokenizer would give nonsense."""
    model, tokenizer = load_lm(smollm2, CPU, training=False)
    table = model.get_input_embeddings().weight
    assert table.dtype == torch.float32 and model.get_output_embeddings().weight is table
    asked = ["What is the capital of France?", "List three colours, numbered."]
    told = {"max_new_tokens": 12, "batch_size": BatchSize(2)}
    together = greedy_answers(model, tokenizer, asked, **told)
    assert "Paris" in together[0] and "1. " in together[1]
    assert together == [greedy_answers(model, tokenizer, [q], **told)[0] for q in asked]
