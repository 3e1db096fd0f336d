"""The reference implementation of ATU: its alignment loss and its windows."""

import pytest
import torch
from machines import CPU
from official import REFUSED, check, of
from torch import nn

from atu.alignment.cosine import alignment_loss
from atu.alignment.windows import INCOMPLETE, WindowTable
from atu.models.encoder import BUNDLED, SentenceEncoder
from atu.phases.embed import number_windows
from atu.training.batches import EncodedText

WINDOWS = {"atu.window.letters": 4 * [[10437]] + 4 * [REFUSED]}


@of("losses", "atu.alignment")
def test_alignment(case):
    """-cos there, 1 - cos here; both are 0 without a full window."""
    inputs = case["inputs"]
    predicted = nn.Parameter(torch.tensor(inputs["predictions"]))
    full = torch.tensor(inputs["has_full_window"])
    loss = alignment_loss(predicted, torch.tensor(inputs["window_embeddings"]), full)
    (gradient,) = torch.autograd.grad(loss, predicted)
    ours = {"loss": loss.item() - full.any().item(), "grad_norm": gradient.norm().item()}
    check(case, ours, {})


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder(BUNDLED, CPU.place)


@pytest.fixture
def windows(encoder):
    """A function that gives the encoder tokens of every LM token's window, `REFUSED` where it
    is incomplete."""

    def find(case, compat):
        table = WindowTable(case["settings"]["k"], case["settings"]["k"])
        offsets = [tuple(offset) for offset in case["inputs"]["lm_offsets"]]
        text = EncodedText(list(range(len(offsets))), 0, offsets)
        numbers = number_windows(table, encoder, case["inputs"]["text"], text, compat)
        return [REFUSED if n == INCOMPLETE else list(table.windows[n]) for n in numbers]

    return find


@of("losses", "atu.window")
def test_windows(case, windows):
    check(case, windows(case, compat=False), WINDOWS)


@of("losses", "atu.window")
def test_windows_as_the_reference_has_them(case, windows):
    check(case, windows(case, compat=True), {})
