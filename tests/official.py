"""Cases of official code: small inputs, and what its evaluation gives for them.

Every JSON file of `unit/golden` holds cases of one group; those that official code gets wrong by a
bug have the right value as `corrected`. A case that is expected to differ must be named in
`metrics/differences.py`, and its test states our value.
"""

import json
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig

from atu.errors import EvaluationError
from atu.metrics.differences import DIFFERENCES

FOLDER = Path(__file__).parent / "unit/golden"
REFUSED = "refused"
"""Stands for None and for an `EvaluationError` of ours, and for a NaN and an exception of official
code: neither side has a number."""


@cache
def cases(file):
    """All cases of a file by id."""
    return {case["id"]: case for case in json.loads((FOLDER / f"{file}.json").read_text("utf-8"))}


def of(file, *groups):
    """A decorator: one test per case of these groups."""
    chosen = [
        case
        for name, case in cases(file).items()
        if name.startswith(tuple(f"{group}." for group in groups))
    ]
    assert chosen, f"{file}.json has none of {groups}"
    return pytest.mark.parametrize("case", chosen, ids=[case["id"] for case in chosen])


def untested(file, tests):
    """Groups of a file of which a module's `tests` (its names) have no case."""
    chosen = {
        name
        for test in tests.values()
        for mark in getattr(test, "pytestmark", ())
        if mark.name == "parametrize"
        for name in mark.kwargs["ids"]
    }
    return {group_of(name) for name in cases(file).keys() - chosen}


def group_of(name):
    """`ou.mia_min_k` of `ou.mia_min_k.share_0.1`."""
    return ".".join(name.split(".")[:2])


def official(case):
    """The value to be met, with `REFUSED` for what is no number."""
    return _plain(case.get("corrected", case["value"]))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or (isinstance(value, str) and (value == "NaN" or value.startswith("raises"))):
        return REFUSED
    if isinstance(value, str) and value in ("inf", "-inf"):
        return float(value)
    return value


def refusing(function, *arguments):
    """The function's value, or `REFUSED`."""
    try:
        value = function(*arguments)
    except EvaluationError:
        return REFUSED
    return REFUSED if value is None else value


def negated(value):
    """Of a number, or of each in a dictionary."""
    if isinstance(value, dict):
        return {key: negated(each) for key, each in value.items()}
    return value if value == REFUSED else -value


def equal(case, ours, theirs):
    """Within the case's tolerance, part by part."""
    if isinstance(theirs, dict):
        return set(ours) == set(theirs) and all(equal(case, ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(equal, [case] * len(ours), ours, theirs))
    if theirs == REFUSED or ours == REFUSED:
        return theirs == ours
    settings = case["settings"]
    return math.isclose(ours, theirs, rel_tol=settings["rel_tol"], abs_tol=settings["abs_tol"])


def check(case, ours, excepted):
    """Ours is official's. A case of `excepted` is instead the value that is stated there, which a
    line of `DIFFERENCES` covers and which official code does not give.
    """
    theirs = official(case)
    if case["id"] not in excepted:
        assert equal(case, ours, theirs), f"{ours} is not {theirs}"
        return
    assert any(line.covers(case["id"]) for line in DIFFERENCES), "no line of DIFFERENCES"
    assert equal(case, ours, excepted[case["id"]]), f"{ours} is not {excepted[case['id']]}"
    assert not equal(case, ours, theirs), f"{ours} is equal by now: take it out of `excepted`"


class Writer(nn.Module):
    """Writes a text after whatever it is asked, and then the end token."""

    def __init__(self, tokenizer, text):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(max_position_embeddings=1_000_000)
        self.generation_config = SimpleNamespace(eos_token_id=tokenizer.eos_token_id)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        self.ids = [*ids, tokenizer.eos_token_id]

    def generate(self, input_ids, max_new_tokens, **_):
        """The prompts with the text behind them."""
        new = torch.tensor([self.ids[:max_new_tokens]] * len(input_ids))
        return torch.cat([input_ids, new], dim=1)


class Scripted(nn.Module):
    """Gives the logits of the text it is asked about, whatever its tokens are."""

    def __init__(self, texts):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = PreTrainedConfig(vocab_size=259, max_position_embeddings=1_000_000)
        self.texts = texts

    def forward(self, input_ids, attention_mask, use_cache):
        """[batch, seq, vocab], zeros behind a text's end."""
        rows = []
        for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            logits = torch.tensor(self.texts[tuple(ids[: sum(mask)])])
            rows.append(nn.functional.pad(logits, (0, 0, 0, len(ids) - len(logits))))
        return SimpleNamespace(logits=torch.stack(rows))
