"""Contexts for methods: tiny models, models whose logits are given, and short corpora."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made.retain import NO_RETAIN
from torch import nn

from atu.methods.base import Context, Retain
from atu.models.trainable import All
from atu.training.batches import BatchStream, EncodedText
from atu.training.likelihood import mean_nll

BASE = {
    "steps": 10,
    "evaluations": 3,
    "learning_rate": 0.25,
    "optimizer": "sgd",
    "weight_decay": 0.0,
    "clip": 1.0,
    "batch_size": 2,
    "train": All("all"),
    "wrapper": "none",
    "stop_below": None,
}


class GivenLogits(nn.Module):
    """A model that gives these logits, [batch, seq, vocab], whatever it reads."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, input_ids, attention_mask, use_cache=False, output_hidden_states=False):
        return SimpleNamespace(logits=self.logits)


@pytest.fixture
def given_logits():
    """A function that gives a model with these logits, [batch, seq, vocab]."""
    return GivenLogits


@pytest.fixture
def given_probabilities():
    """Rows of probabilities to a model over two tokens: at position t, token 0 has the t-th."""

    def build(rows):
        p = torch.tensor(rows)
        return GivenLogits(torch.stack([p, 1 - p], dim=-1).log())

    return build


@pytest.fixture
def make_settings():
    """Settings of a method's class, of `BASE` what the class has; `retain` holds what is not 0."""

    def make(kind, retain=None, **own):
        known = {field.name for field in dataclasses.fields(kind)}
        base = {name: value for name, value in BASE.items() if name in known}
        return kind(**(base | {"retain": Retain(**(NO_RETAIN | (retain or {})))} | own))

    return make


@pytest.fixture
def nll_raised():
    """A function that takes SGD steps of a loss on the first forget batch, and gives by how many
    nats the batch's NLL has risen."""

    def run(context, loss, steps, rate):
        model, batch = context.model, next(context.forget)

        def nll():
            with torch.no_grad():
                inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
                return mean_nll(model(**inputs).logits, batch.labels).item()

        before = nll()
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(context, batch).backward()
            optimizer.step()
        return nll() - before

    return run


@pytest.fixture
def make_context(tiny_lm, byte_tokenizer):
    """A context on a tiny model, or on `model`; `reference` is its copy unless given.

    The streams hold token ids of their own; `rows` are texts for methods that encode by themselves
    (with `byte_tokenizer`, which a model of `vocab_size` 300 can read).
    """

    def make(settings, model=None, reference=None, **own):
        model = model or tiny_lm()
        texts = {
            "forget": [EncodedText([1, 5, 6, 7, 8], 2, []), EncodedText([1, 9, 10, 11], 1, [])],
            "retain": [EncodedText([1, 12, 13, 14], 0, []), EncodedText([1, 15, 16], 0, [])],
        }
        streams = {
            name: BatchStream(rows, 2, 0, np.random.default_rng(0)) for name, rows in texts.items()
        }
        rows = {
            "forget": [
                {"text": "Who? Ann Lee", "prompt": "Who?", "answer": "Ann Lee"},
                {"text": "Where? Rome", "prompt": "Where?", "answer": "Rome"},
            ],
            "retain": [
                {"text": "When? Now", "prompt": "When?", "answer": "Now"},
                {"text": "A fact.", "prompt": "", "answer": ""},
            ],
        }
        values = {
            "model": model,
            "tokenizer": byte_tokenizer,
            "rows": rows,
            "parameters": list(model.parameters()),
            "streams": list(streams.values()),
            "subjects": ["Ann Lee"],
            "settings": settings,
            "reference": reference or copy.deepcopy(model).requires_grad_(False),
            "reference_compat": False,
            "seed": 0,
        }
        return Context(**(values | streams | own))

    return make
