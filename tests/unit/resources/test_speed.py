"""How fast steps run: what is counted by hand, and that what runs is what the phases run."""

import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from machines import CPU
from made.retain import NO_RETAIN
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from atu import methods
from atu.methods.base import Method, Retain
from atu.models.predictor import PredictorConfig
from atu.models.trainable import All, BelowHook, Layers, Lora
from atu.resources import speed
from atu.resources.shape import shape_of
from atu.resources.speed import (
    Setup,
    Speed,
    forward_flops,
    measure_alignment,
    measure_unlearning,
    predictor_flops,
    unlearning_flops,
)

CONFIG = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 8, "intermediate_size": 12,
    "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 16, "tie_word_embeddings": False,
}  # fmt: skip
LAYER = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12
"""Weights of a layer's matrices: queries, keys and values, output, and the MLP's three."""
PREDICTOR = PredictorConfig(
    input_dim=8, output_dim=6, width=4, layers=1, heads=2, feedforward=10, dropout=0.0,
    sees_future=False,
)  # fmt: skip


@pytest.fixture
def setup():
    return Setup(CONFIG, hook_layer=2, predictor=PREDICTOR, texts=3, length=5, compute=CPU)


@pytest.fixture
def settings(mini_params):
    """ATU's push below the hook, without retain terms."""
    return replace(
        mini_params.unlearn.methods["atu"],
        concept=1.0,
        answers=0.0,
        stranger=0.0,
        visits=False,
        restored=0.0,
        retain=Retain(**NO_RETAIN),
        train=BelowHook("below_hook"),
    )


def test_forward_flops_by_hand():
    """Two per weight, and four per head width and token attended to; the head by its matrix."""
    shape = shape_of(CONFIG)
    assert shape.matrices == LAYER
    assert forward_flops(shape, 2, 5) == 2 * (2 * LAYER + 4 * 5 * 8)
    assert forward_flops(shape, 3, 5, head=True) == 3 * (2 * LAYER + 4 * 5 * 8) + 2 * 8 * 50


def test_predictor_flops_by_hand():
    """Attention's four matrices of 4 x 4, the MLP's two of 4 x 10, the two outer ones."""
    expected = 2 * (4 * 16 + 2 * 40) + 4 * 5 * 4 + 2 * (8 * 4 + 4 * 6)
    assert predictor_flops(PREDICTOR, 5) == expected


def test_unlearning_flops_by_hand(setup, settings):
    """Two layers below the hook of three, texts of five tokens, heads 8 wide, 50 tokens: forward,
    gradients of inputs, and of the trained weights; attention forward and twice back."""
    attention, head, tokens = 4 * 5 * 8, 2 * 8 * 50, 15
    forward = 2 * 2 * LAYER + 2 * attention
    hinge = forward + 2 * 2 * 2 * LAYER + 2 * 2 * attention
    frozen = 2 * predictor_flops(PREDICTOR, 5) + 4 * 5 * 4
    assert unlearning_flops(setup, settings) == tokens * (hinge + frozen)
    whole = 3 * 2 * LAYER + 3 * attention + head
    nll = replace(settings, retain=Retain(**NO_RETAIN | {"nll": 1.0}))
    # Back from the logits; the third layer's weights and the head's are not trained.
    back = head + 3 * (2 * LAYER + 2 * attention) + 2 * 2 * LAYER
    assert unlearning_flops(setup, nll) == tokens * (hinge + frozen + whole + back)
    both = replace(settings, retain=Retain(**NO_RETAIN | {"nll": 1.0, "states": 0.1, "layer": 1}))
    first = 2 * LAYER + attention
    assert unlearning_flops(setup, both) == tokens * (hinge + frozen + whole + first + back)
    states = replace(settings, retain=Retain(**NO_RETAIN | {"states": 0.1, "layer": 1}))
    back = 2 * 2 * LAYER + 2 * attention  # the first layer alone
    assert unlearning_flops(setup, states) == tokens * (hinge + frozen + whole + first + back)


NLL, STATES = {"nll": 1.0}, {"states": 1.0, "layer": 3}
CASES = {
    "below the hook, nll": (BelowHook("below_hook"), NLL),
    "below the hook, states": (BelowHook("below_hook"), STATES),
    "all, nll": (All("all"), NLL),
    "the first three layers, nll": (Layers("layers", [0, 1, 2]), NLL),
    "the sixth layer": (Layers("layers", [5]), {}),
    "LoRA, nll": (Lora("lora", rank=2, alpha=4), NLL),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_flops_are_those_that_torch_counts(settings, name, tied):
    """Of a step of a Llama of 8 layers, 128 wide, with the hook at 6; within 3 %. torch counts
    matrix products alone, and of attention only where it is made of such."""
    train, retain = CASES[name]
    wide = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8, "vocab_size": 512,
        "max_position_embeddings": 64, "tie_word_embeddings": tied,
    }  # fmt: skip
    predictor = replace(PREDICTOR, input_dim=128, output_dim=48, width=64, feedforward=128)
    setup = Setup(CONFIG | wide, 6, predictor, texts=2, length=32, compute=CPU)
    own = replace(settings, train=train, retain=Retain(**NO_RETAIN | retain))
    context, _ = speed._context(setup, own)
    stage = next(methods.get("atu").plan(context))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        stage.loss()[0].backward()
    assert unlearning_flops(setup, own) == pytest.approx(counted.get_total_flops(), rel=0.03)


def test_rates_by_hand():
    """Ten tokens and 400 FLOPs in half a second, of 1600 per second possible."""
    found = Speed("x", tokens=10, seconds=0.5, flops=400.0, peak=None)
    assert (found.tokens_per_second, found.utilisation(1600.0)) == (20.0, 0.5)


@pytest.mark.parametrize("train", [BelowHook("below_hook"), Lora("lora", rank=2, alpha=4)])
@pytest.mark.parametrize("nll", [0.0, 1.0])
def test_unlearning_is_atus_own_loss(setup, settings, monkeypatch, train, nll):
    """As many steps as asked after the warm ones, each with the method's loss."""
    taken, plan = [], Method.plan

    def counted(name, loss):
        taken.append(name)
        return loss()

    def watched(self, context):
        for stage in plan(self, context):
            stage.loss = partial(counted, stage.name, stage.loss)
            yield stage

    monkeypatch.setattr(Method, "plan", watched)
    settings = replace(settings, train=train, retain=Retain(**NO_RETAIN | {"nll": nll}))
    found = measure_unlearning("a case", setup, settings, steps=3)
    assert taken == ["round 1"] * (speed.WARM + 3)
    assert found.tokens == 15 * (1 + bool(nll))
    assert found.seconds > 0 and found.peak is None


def test_alignment_reads_every_text_once(setup):
    """Four batches of hidden states, then steps of one batch each."""
    states, steps = measure_alignment(setup, steps=2)
    assert (states.tokens, steps.tokens) == (4 * 15, 15)
    assert states.flops == 60 * forward_flops(shape_of(CONFIG), 2, 5)
    assert steps.flops == 3 * 15 * predictor_flops(PREDICTOR, 5)


def test_hidden_states_are_warm_when_the_clock_starts(setup, monkeypatch):
    """One batch of three texts, then all four between two looks at the clock."""
    seen, cache = [], speed.cache_hidden_states

    def counted(model, data, *given, **named):
        seen.append(len(data))
        return cache(model, data, *given, **named)

    monkeypatch.setattr(speed, "cache_hidden_states", counted)
    monkeypatch.setattr(speed, "_clock", lambda _compute: seen.append("clock") or float(len(seen)))
    next(measure_alignment(setup, steps=1))
    assert seen == [3, "clock", 12, "clock"]


def test_on_a_gpu_the_clock_waits_and_the_peak_is_torchs(setup, settings, monkeypatch):
    """Kernels run behind the program's back: a clock that does not wait measures launches."""
    waits, resets = [], []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(1))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 77)
    gpu = replace(CPU, device="cuda")
    assert speed._timed(lambda count: None, 4, gpu)[1] == 77
    assert (len(waits), len(resets)) == (2, 1)


def test_what_was_measured_before_does_not_count(monkeypatch):
    """Red without a collection: a model that refers to itself lives on, and is in the peak."""

    class Model:
        pass

    dead = Model()
    dead.itself, found = dead, []
    alive = weakref.ref(dead)
    del dead
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: found.append(alive()))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 77)
    speed._timed(lambda count: None, 4, replace(CPU, device="cuda"))
    assert found == [None]
