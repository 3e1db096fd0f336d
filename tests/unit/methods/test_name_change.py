import math

import numpy as np
import pytest
import torch

from atu.errors import ConfigError
from atu.methods.name_change import METHOD, Settings, name_change_loss, taught
from atu.methods.shared.strangers import forget_strangers, visits
from atu.training.batches import BatchStream, encode_text

PROMPTS = ["Who is Ann?", "Who?", "Who owls?", ""]
ANSWERS = [" An owl.", " An owl.", " Ann.", "No owl."]


@pytest.fixture
def context(make_settings, make_context, byte_tokenizer, tiny_lm):
    """Four forget texts on a model that reads bytes: Ann in the prompt, nowhere, in the answer, and
    a text without a prompt."""

    def make(subject="Ann", model=None, **own):
        texts = [p + a for p, a in zip(PROMPTS, ANSWERS, strict=True)]
        encoded = [
            encode_text(byte_tokenizer, text, prompt)
            for text, prompt in zip(texts, PROMPTS, strict=True)
        ]
        settings = make_settings(
            Settings, loss="name_change", **({"unnamed": 0.0, "visits": False} | own)
        )
        return make_context(
            settings, model=model or tiny_lm(vocab_size=300), subjects=[subject],
            forget=BatchStream(encoded, 4, 0, np.random.default_rng(0)),
            rows={
                "forget": [{"text": t, "prompt": p} for t, p in zip(texts, PROMPTS, strict=True)],
                "retain": [{"text": "Is Bo an owl?", "prompt": ""}],
            },
            neighbours=["Bo"],
        )  # fmt: skip

    return make


def batch_of(context, numbers=range(4)):
    return context.forget.collate(numbers)


def test_the_teacher_reads_a_strangers_name(context):
    """The mean over the tokens from the name on, by hand: KL of the model that reads the text from
    the same model that reads the stranger's. Of the positions before a token of the name, those
    inside it, none is learnt."""
    ctx = context()
    batch, strangers = batch_of(ctx, [0, 1]), forget_strangers(ctx)
    introduced = strangers.introduce(batch)
    with torch.no_grad():
        own, teacher = (
            ctx.model(input_ids=ids, attention_mask=batch.attention_mask).logits[0].log_softmax(-1)
            for ids in (batch.input_ids, introduced.input_ids)
        )
        value = name_change_loss(ctx, batch, strangers)
    start = 1 + len("Who is ")
    last = int(batch.attention_mask[0].sum()) - 1
    counted = [start + 2, *range(start + 3, last)]
    parts = [(teacher[i].exp() * (teacher[i] - own[i])).sum() for i in counted]
    assert value.item() == pytest.approx((sum(parts) / len(parts)).item(), rel=1e-4)
    assert value > 0


def test_an_answer_whose_prompt_names_nobody_is_left_out_or_lost(context, given_logits):
    """Uniform over 300 tokens, so no teacher differs: 0. Then cross-entropy from the other 299, ln
    300, at the 8 bytes of the second text's answer and its end, and of the third at the space and
    the name's first letter; no more from there on, nor in a text without a prompt."""
    length = max(len(text.ids) for text in context().forget.texts)
    uniform = given_logits(torch.zeros(4, length, 300))
    plain = context(model=uniform)
    assert name_change_loss(
        plain, batch_of(plain), forget_strangers(plain)
    ).item() == pytest.approx(0.0)
    ctx = context(model=uniform, unnamed=2.0)
    value = name_change_loss(ctx, batch_of(ctx), forget_strangers(ctx))
    assert value.item() == pytest.approx(2 * math.log(300), rel=1e-5)
    value.backward()
    moved = ctx.model.logits.grad.abs().sum(dim=-1) > 1e-6
    assert moved.sum(dim=1).tolist() == [0, len(ANSWERS[1]) + 1, 2, 0]


def test_neighbours_texts_teach_too(context):
    """The loss is that of the forget texts and that of the neighbour's with the target's name."""
    ctx = context(visits=True)
    batch, strangers = batch_of(ctx), forget_strangers(ctx)
    with torch.no_grad():
        plain = name_change_loss(ctx, batch, strangers)
        visit, introduced = visits(ctx).draw()
        own = taught(ctx, visit, introduced)[0]
        both = next(METHOD.plan(ctx)).loss()[0]
    assert ctx.tokenizer.decode(visit.input_ids[0], skip_special_tokens=True) == "Is Ann an owl?"
    assert own > 0
    assert both.item() == pytest.approx((plain + own).item(), rel=1e-4)


def test_a_target_that_no_text_names_is_refused(context):
    with pytest.raises(ConfigError, match="no forget text names 'Cy'; give what the texts call it"):
        next(METHOD.plan(context("Cy")))


def test_it_learns_what_is_said_of_strangers(context):
    """After a few steps the model that reads the name is nearer to the teacher."""
    ctx = context()
    batch, strangers = batch_of(ctx), forget_strangers(ctx)
    optimizer = torch.optim.SGD(ctx.model.parameters(), lr=30.0)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        value = name_change_loss(ctx, batch, strangers)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] / 2
