"""Our models in lm-eval: what they are asked, what is cut, and what is refused."""

import copy
import math

import pytest
import torch
from lm_eval.api.instance import Instance

from atu.errors import EvaluationError, LengthError
from atu.inference.batching import BatchSize
from atu.inference.generation import greedy_answers
from atu.inference.lm_eval_model import LanguageModel
from atu.inference.scoring import score_answers
from atu.models.llm import decoder_layers

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}<answer>"
SHOTS = "Letters.\n\n" + "".join(f"What {i}?\nAnswer: A\n\n" for i in range(9))
QUESTION = "What now?\nAnswer:"


@pytest.fixture(scope="module")
def model(tiny_lm, byte_tokenizer):
    """A context of 64 tokens, one a byte; the head is 30 times as large, so answers differ."""
    model = tiny_lm(vocab_size=len(byte_tokenizer), seed=5)
    model.config.max_position_embeddings = 64
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    return model


@pytest.fixture(params=[False, True], ids=["plain", "chat"])
def tokenizer(request, byte_tokenizer):
    """Without and with a chat template."""
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.chat_template = TEMPLATE if request.param else None
    return tokenizer


@pytest.fixture
def harness(model, tokenizer):
    return LanguageModel(model, tokenizer, 4)


def choice(context, option, document=0, task="mmlu"):
    return Instance("loglikelihood", {}, (context, option), 0, (task, document, 1))


def question(prompt, document=0, task="bbh", **how):
    return Instance("generate_until", {}, (prompt, {"until": []} | how), 0, (task, document, 1))


@pytest.fixture
def read(model, monkeypatch):
    """The rows that the model has read."""
    rows = []
    handle = model.register_forward_pre_hook(
        lambda _module, args, kwargs: rows.extend((args or [kwargs["input_ids"]])[0].tolist()),
        with_kwargs=True,
    )
    yield rows
    handle.remove()


def test_options_are_scored_as_answers_are(model, tokenizer, harness):
    """By the same tokens as `score_answers`, whatever else is in the batch."""
    options = ["A", "B", "two words", "Ü"]
    found = harness.loglikelihood([choice(QUESTION, f" {option}") for option in options])
    expected = score_answers(
        model, tokenizer, [QUESTION] * 4, options, batch_size=BatchSize(1), end=False
    )
    for (log_prob, greedy), scores in zip(found, expected, strict=True):
        assert log_prob == pytest.approx(scores.log_probs.sum(), rel=1e-4)
        assert greedy is bool(scores.matches.all())


def test_space_at_a_prompts_end_belongs_to_the_option(harness):
    """As in lm-eval: "Answer: " with "A" is "Answer:" with " A"."""
    found = harness.loglikelihood([choice(f"{QUESTION} ", "A"), choice(QUESTION, " A")])
    assert found[0] == found[1]


def test_an_option_without_a_prompt(model, harness, read):
    """Follows the token that begins a text; a prompt of space alone is none."""
    found = harness.loglikelihood([choice("", "\nAB"), choice("\n", "AB")])
    assert read == [[1, *harness.tok_encode("\nA", add_special_tokens=False)]] * 2
    assert found[0][0] < 0


def test_answers_are_those_of_every_phase(model, tokenizer, harness):
    """In the order of the requests, up to their stops, each as long as its task asks."""
    prompts = [QUESTION, "Who?", "Where is it?"]
    own = {"stripped": False, "batch_size": BatchSize(1)}
    long = greedy_answers(model, tokenizer, prompts, max_new_tokens=9, **own)
    stop = long[0][2:4]
    cut = greedy_answers(model, tokenizer, prompts, max_new_tokens=9, stops=[stop], **own)
    assert cut[0] != long[0] and len(set(long)) > 1
    requests = [question(p, i, max_gen_toks=9) for i, p in enumerate(prompts)]
    requests += [question(p, i, "other", max_gen_toks=9, until=stop) for i, p in enumerate(prompts)]
    mixed = [requests[i] for i in (3, 0, 4, 1, 5, 2)]
    assert harness.generate_until(mixed) == [cut[0], long[0], cut[1], long[1], cut[2], long[2]]
    assert harness.truncated == set()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"do_sample": True, "temperature": 0.7}, "bbh: samples its answers"),
        ({"temperature": 0.7}, "bbh: samples its answers"),
        ({"num_beams": 4}, r"bbh: generates with \{'num_beams': 4\}"),
        ({"max_gen_toks": 64}, "bbh: asks for 64 new tokens, but the model's context holds 64"),
        ({}, "bbh: asks for 256 new tokens, but the model's context holds 64"),
    ],
)
def test_what_cannot_be_generated_is_refused_by_task(harness, how, said):
    """lm-eval's own default is 256 tokens."""
    with pytest.raises(EvaluationError, match=said):
        harness.generate_until([question(QUESTION, **how)])


def test_greedy_in_lm_evals_words(harness):
    """A temperature of 0, or one of a task that does not sample, changes nothing."""
    how = [{}, {"temperature": 0.0}, {"do_sample": False, "top_p": 0.9}]
    requests = [question("Who?", max_gen_toks=5, **own) for own in how]
    assert len(set(harness.generate_until(requests))) == 1


def test_a_choice_that_is_cut_keeps_template_and_question(harness, tokenizer, read):
    """Of nine examples as many stay as fit; each document counts once, whatever its options, and
    one that fits does not."""
    long = SHOTS + QUESTION
    requests = [choice(long, f" {letter}", 3) for letter in "AB"] + [choice("Who?", " A", 4)]
    harness.loglikelihood(requests)
    assert harness.truncated == {("mmlu", 3)}
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in read]
    assert all(len(row) <= 64 for row in read)
    (cut,) = {text for text in texts if "now" in text}
    opening = "<user>" if tokenizer.chat_template else ""
    assert cut.startswith(f"{opening}Letters.\n\nWhat 8?") and "What now?" in cut


def test_a_question_that_is_cut_keeps_template_and_opening(harness, tokenizer, read):
    """Generation leaves room for the answer: 64 - 20 tokens are left."""
    prompt = "x" * 100 + "yz?\nAnswer:"
    harness.generate_until([question(prompt, 7, max_gen_toks=20)])
    assert harness.truncated == {("bbh", 7)}
    first = read[0]
    assert len(first) == 44
    text = tokenizer.decode(first, skip_special_tokens=True)
    if tokenizer.chat_template:
        assert text.startswith("<user>x") and text.endswith("xyz?</><answer>Answer:")
    else:
        assert set(text.removesuffix("yz?\nAnswer:")) == {"x"}
    assert harness.truncated == {("bbh", 7)}


def test_a_prompt_of_which_nothing_fits_is_refused(harness):
    with pytest.raises(LengthError, match="bbh, document 0: not even the end of its prompt fits"):
        harness.generate_until([question("a question?\nAnswer:" + "x" * 60, max_gen_toks=20)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_never_an_answer(tiny_lm, tokenizer, bad):
    """The document, its option and the layer are named; of a choice, a text and a question. Only
    the letter Z cannot be read."""
    model = tiny_lm(vocab_size=len(tokenizer))
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("Z")["input_ids"][-1]] = bad
    harness = LanguageModel(model, tokenizer, 8)
    place = "a logit is not finite; first in the hidden states of layer 0 of 3, the embeddings"
    fine = [choice("Who?", " A", 0), choice("Where is it?", " BB", 1)]
    assert len(harness.loglikelihood(fine)) == 2
    with pytest.raises(EvaluationError, match=rf"^mmlu, document 2, ' CC': {place}"):
        harness.loglikelihood([*fine, choice("Z", " CC", 2)])
    with pytest.raises(EvaluationError, match=rf"^bbh, item 1: 'Z': {place}"):
        harness.generate_until(
            [question("Who?", 0, max_gen_toks=1), question("Z", 1, max_gen_toks=1)]
        )
    with pytest.raises(EvaluationError, match=f"^lm-eval, a text: {place}"):
        harness.loglikelihood_rolling(
            [Instance("loglikelihood_rolling", {}, ("a Z text",), 0, ("wiki", 0, 1))]
        )


def test_a_model_of_nan_answers_no_choice(tiny_lm, byte_tokenizer):
    """Its scores would all be NaN, of which lm-eval takes the first option."""
    model = tiny_lm(vocab_size=len(byte_tokenizer))
    with torch.no_grad():
        for parameter in decoder_layers(model)[2].parameters():
            parameter.fill_(math.nan)
    with pytest.raises(EvaluationError, match=r"layer 3 of 3$"):
        LanguageModel(model, byte_tokenizer, 2).loglikelihood([choice("Who?", " A")])


def test_an_option_without_a_token_is_refused(harness):
    with pytest.raises(EvaluationError, match="mmlu, document 5, '': has no token"):
        harness.loglikelihood([choice("Who?", "", 5)])
