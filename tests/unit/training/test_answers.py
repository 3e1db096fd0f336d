"""The loss of answers, from logits that are made for them alone."""

import torch

from atu.training.answers import answer_nll
from atu.training.batches import collate, encode_text
from atu.training.likelihood import mean_nll

TEXTS = [("Who? Ann", "Who?"), ("Where does she live? By the sea", "Where does she live?")]


def test_it_is_the_mean_nll_with_its_gradient(tiny_lm, byte_tokenizer):
    model, tokenizer = tiny_lm(vocab_size=259), byte_tokenizer
    batch = collate([encode_text(tokenizer, *text) for text in TEXTS], tokenizer.pad_token_id)
    found = []
    for chosen in (True, False):
        if chosen:
            loss = answer_nll(model, batch)
        else:
            loss = mean_nll(model(input_ids=batch.input_ids).logits, batch.labels)
        model.zero_grad()
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    (loss, gradients), (expected, others) = found
    assert torch.allclose(loss, expected)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, others, strict=True))


def test_logits_are_made_where_they_are_scored(tiny_lm, byte_tokenizer):
    """ " Ann" and its end in bytes: 5 tokens of 10."""
    model, tokenizer = tiny_lm(vocab_size=259), byte_tokenizer
    batch = collate([encode_text(tokenizer, *TEXTS[0])], tokenizer.pad_token_id)
    shapes = []
    model.register_forward_hook(lambda _module, _args, output: shapes.append(output.logits.shape))
    answer_nll(model, batch)
    model(input_ids=batch.input_ids)
    assert [tuple(shape[:-1]) for shape in shapes] == [(5,), (1, 10)]
