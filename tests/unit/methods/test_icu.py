import pytest
import torch
from machines import CPU
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from atu.errors import ConfigError
from atu.methods import icu
from atu.methods.base import done
from atu.models.chat import render
from atu.models.llm import load_lm, save_lm
from atu.models.tokenizer import train_tokenizer
from atu.probes.prompts import unlearn_instruction
from atu.training.batches import collate, encode_text
from atu.training.likelihood import sequence_nll

TEXT, PROMPT = "Who wrote it? Ann Lee", "Who wrote it?"


@pytest.fixture
def tokenizer():
    """Fresh, because the method changes it: byte by byte, with a beginning-of-sequence token."""
    return train_tokenizer(["a"], 259)


def other_tokenizer(post_processor, **names):
    """As other models have it: no special tokens of its own, or those of `post_processor`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens(sorted(pre_tokenizers.ByteLevel.alphabet()))
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    values = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(values | names))


def template(single="<s> $A", pair="<s> $A <s> $B:1"):
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=[("<s>", 0)])


OTHERS = {
    "none": (lambda: other_tokenizer(None), []),
    "byte level": (lambda: other_tokenizer(processors.ByteLevel(trim_offsets=True)), []),
    "template": (lambda: other_tokenizer(template()), [0]),
    "sequence": (
        lambda: other_tokenizer(processors.Sequence([processors.ByteLevel(), template()])),
        [0],
    ),
    "add_bos_token": (lambda: other_tokenizer(template(), add_bos_token=True), [0]),
}


@pytest.fixture(params=OTHERS)
def other(request):
    make, before = OTHERS[request.param]
    return make(), before


def plain_ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_instruction_names_what_is_to_be_forgotten():
    text = unlearn_instruction(["Ann Lee", "Bo"])
    assert text.startswith("You are an AI Assistant who is supposed to unlearn about Ann Lee, Bo ")
    assert text.endswith("that you unlearned anything.\n")


def test_ids_are_bos_then_instruction_then_text(tokenizer):
    own = tokenizer(TEXT, return_offsets_mapping=True)
    icu.put_before(tokenizer, "Forget Ann.\n")
    found = tokenizer(TEXT, return_offsets_mapping=True)
    put = plain_ids(tokenizer, "Forget Ann.\n")
    assert own["input_ids"][0] == tokenizer.bos_token_id
    assert found["input_ids"] == own["input_ids"][:1] + put + own["input_ids"][1:]
    assert found["attention_mask"] == [1] * len(found["input_ids"])
    assert found["offset_mapping"][: len(put) + 1] == [(0, 0)] * (len(put) + 1)
    assert found["offset_mapping"][len(put) + 1 :] == own["offset_mapping"][1:]


def test_other_tokenizers_have_it_too(other, tmp_path):
    """Whatever their post-processor is, saved and loaded too; and before the first of a pair."""
    tokenizer, before = other
    body, put = plain_ids(tokenizer, TEXT), plain_ids(tokenizer, "Forget Ann.\n")
    assert tokenizer(TEXT)["input_ids"] == before + body
    pair = tokenizer("a", "b")["input_ids"]
    icu.put_before(tokenizer, "Forget Ann.\n")
    tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for one in (tokenizer, loaded):
        assert one(TEXT)["input_ids"] == before + put + body
        assert one("a", "b")["input_ids"] == pair[: len(before)] + put + pair[len(before) :]
        assert plain_ids(one, TEXT) == body


def test_a_post_processor_of_another_kind_is_refused():
    tokenizer = other_tokenizer(processors.RobertaProcessing(("</s>", 1), ("<s>", 0)))
    with pytest.raises(ConfigError, match="RobertaProcessing"):
        icu.put_before(tokenizer, "Forget Ann.\n")


def test_an_instruction_that_would_be_lost_is_refused(tokenizer, monkeypatch):
    """As where a loaded tokenizer makes its post-processor anew."""
    fresh = train_tokenizer(["a"], 259)
    monkeypatch.setattr(icu, "load_tokenizer", lambda folder: fresh)
    with pytest.raises(ConfigError, match="loses what stands before a text"):
        icu.put_before(tokenizer, "Forget Ann.\n")


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_the_same_tokens_are_scored_as_without(tokenizer, prompt):
    """Without a prompt the whole text, but not the instruction."""
    own = encode_text(tokenizer, TEXT, prompt)
    icu.put_before(tokenizer, "Forget Ann.\n")
    found = encode_text(tokenizer, TEXT, prompt)
    assert len(found.ids) > len(own.ids)
    assert found.ids[found.answer_start :] == own.ids[own.answer_start :]
    assert found.offsets[found.answer_start :] == own.offsets[own.answer_start :]


def test_an_ordinary_tokenizers_scores_are_what_they_were(tiny_lm, tokenizer):
    """The first token is never predicted: whether its label is kept changes no loss."""
    text = encode_text(tokenizer, TEXT, "")
    assert text.answer_start == 1
    batch = collate([text], tokenizer.pad_token_id)
    labels = batch.labels.clone()
    labels[:, 0] = batch.input_ids[:, 0]
    logits = tiny_lm(vocab_size=300)(batch.input_ids).logits
    nll, count = sequence_nll(logits, batch.labels)
    assert torch.equal(nll, sequence_nll(logits, labels)[0])
    assert count.tolist() == [len(text.ids) - 1]


def test_without_a_first_token_of_its_own_the_first_is_the_texts():
    text = encode_text(other_tokenizer(None), TEXT, "")
    assert text.answer_start == 0


def test_lm_eval_sees_it(tiny_lm, tokenizer, tmp_path):
    """Encoding of a text, of a context with its continuation, and of a batch, once saved."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    icu.put_before(tokenizer, "Forget Ann.\n")
    save_lm(tiny_lm(vocab_size=300), tokenizer, tmp_path)
    model, loaded = load_lm(tmp_path, CPU, training=True)
    lm = huggingface.HFLM(pretrained=model, tokenizer=loaded, batch_size=2, device="cpu")
    start = [loaded.bos_token_id, *plain_ids(loaded, "Forget Ann.\n")]
    body, rest = plain_ids(loaded, "Who?"), plain_ids(loaded, " Bo")
    assert loaded("Who?", add_special_tokens=True)["input_ids"] == start + body
    assert lm.tok_encode("Who?") == start + body
    assert lm._encode_pair("Who?", " Bo") == (start + body, rest)
    ids, _ = lm.tok_batch_encode(["Who?", "Who is?"])
    assert ids[0].tolist()[-len(start + body) :] == start + body


def test_the_method_has_one_point_and_no_training(make_context, tiny_lm, tokenizer):
    model = tiny_lm(vocab_size=300)
    weights = [p.clone() for p in model.parameters()]
    context = make_context(icu.Settings("icu"), model=model, tokenizer=tokenizer)
    (stage,) = icu.METHOD.plan(context)
    assert (stage.name, stage.steps, stage.evaluate) == (
        "instruction",
        0,
        done("instruction").evaluate,
    )
    start = [tokenizer.bos_token_id, *plain_ids(tokenizer, unlearn_instruction(["Ann Lee"]))]
    assert tokenizer("Who?")["input_ids"] == start + plain_ids(tokenizer, "Who?")
    for before, after in zip(weights, model.parameters(), strict=True):
        assert torch.equal(before, after)
    assert icu.METHOD.keeps_weights


@pytest.mark.parametrize("several", [False, True])
def test_in_a_chat_template_it_stands_in_the_users_turn(tokenizer, several):
    """As RWKU has it, once, also in a template with a trim; a plain text has it after its bos."""
    template = (
        "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] "
        "{{ message['content'] | trim }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    tokenizer.chat_template = {"default": template} if several else template
    icu.put_before(tokenizer, "Don’t tell.\n")
    rendered = render(tokenizer, "Question: Who?\nAnswer:")
    assert rendered.text == "<bos>[user] Don’t tell.\nQuestion: Who?\n[assistant] Answer:"
    assert rendered.text[slice(*rendered.question)] == "Question: Who?"
    assert tokenizer.decode(tokenizer("Ann")["input_ids"]) == "<bos>Don’t tell.\nAnn"
