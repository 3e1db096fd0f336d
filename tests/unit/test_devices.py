"""Everything runs where the model is: nothing mixes tensors of two devices (twodevices.py)."""

import copy
import dataclasses
import math

import pytest
import torch
from machines import BFLOAT16, CPU
from made.retain import NO_RETAIN
from twodevices import GPU, TwoDevices, on_gpu

from atu import methods
from atu.config.entries import parse_plain
from atu.config.roles import ORACLES
from atu.models.compute import Compute, settle
from atu.models.llm import open_lm
from atu.models.trainable import trains_weights
from atu.unlearning.engine import UnlearnInputs, run_method


@pytest.fixture
def gpu(monkeypatch):
    """The machine's device is the second one."""
    monkeypatch.setattr(Compute, "place", property(lambda self: GPU))
    with TwoDevices():
        yield


def test_mixing_is_an_error(gpu):
    """The net itself: each of these fails on a GPU."""
    here, there = torch.ones(2), torch.ones(2, device=GPU)
    assert (here.device, there.device, (there + there).device) == (torch.device("cpu"), GPU, GPU)
    for mix in (
        lambda: here + there,
        lambda: torch.stack([here, there]),
        lambda: torch.where(there > 0, here, there),
        lambda: here[there > 0],
        lambda: there.numpy(),
        lambda: torch.nn.functional.linear(there, torch.ones(3, 2)),
    ):
        with pytest.raises(RuntimeError, match="GPU"):
            mix()
    assert on_gpu(there * torch.tensor(2.0)) and on_gpu(there[here > 0])
    assert not on_gpu(there.cpu()) and not on_gpu(there.to("cpu"))
    assert on_gpu(there) and on_gpu(here.to(GPU)) and not on_gpu(here)
    here.copy_(there)


def test_a_model_and_its_copies_move(gpu, tiny_lm):
    assert torch.ones(1, device="meta").device == torch.device("meta")
    model = settle(tiny_lm(), CPU)
    for one in (model, copy.deepcopy(model)):
        assert {p.device for p in one.parameters()} == {GPU}
        ids = torch.ones(1, 3, dtype=torch.long)
        with pytest.raises(RuntimeError, match="two devices"):
            one(input_ids=ids)
        assert on_gpu(one(input_ids=ids.to(GPU)).logits)


SETTINGS = {
    "steps": 2, "learning_rate": 1e-3, "optimizer": "adamw", "weight_decay": 0.0, "clip": 1.0,
    "batch_size": 2, "evaluations": 2, "wrapper": "none", "stop_below": None,
    "retain": NO_RETAIN | {"nll": 1.0, "kl": 1.0, "states": 1.0, "layer": 1},
    "train": {"update": "all"},
}  # fmt: skip
METHODS = {
    "atu": {
        "hook_layers": [], "quantiles": [0.9, 0.2], "thresholds": [], "adaptive": True,
        "realign_steps": 1, "positions": "all", "width": 0, "concept": 1.0,
        "answers": 1.0, "stranger": 1.0, "visits": True, "restored": 1.0,
        "train": {"update": "below_hook"},
    },
    "ga": {"train": {"update": "lora", "rank": 2, "alpha": 4}},
    "npo": {"beta": 0.1, "wrapper": "disruption_masking"},
    "simnpo": {"beta": 1.0, "gamma": 0.0},
    "wga": {"beta": 1.0},
    "pdu": {"bound": 1.0, "multiplier": 50.0, "multiplier_rate": 5.0, "warmup": 0},
    "mudman": {
        "adversary_learning_rate": 0.1, "fork_every": 1, "momentum": 0.8, "optimizer": "sgd",
    },
    "satimp": {"beta1": 5.0, "beta2": 1.0},
    "ceu": {"skip": 1},
    "name_change": {"unnamed": 1.0, "visits": True},
    "dpo": {"beta": 0.1},
    "altpo": {"beta": 0.1, "alternatives": 2, "temperature": 1.0, "write": "other_token"},
    "rt": {},
    "undial": {"variant": "paper", "beta": 1.0},
    "flat": {"divergence": "kl"},
    "whp": {"alpha": 1.0, "reinforce_steps": 1, "reinforce_learning_rate": 1e-3},
    "task_vector": {"alphas": [1.0], "retain": NO_RETAIN},
    "rmu": {"variant": "paper", "layer": 1, "steering": 2.0, "alpha": 1.0},
    "lunar": {"layer": 0, "coefficient": 1.0, "alpha": 1.0, "names": []},
    "rocr": {
        "layers": [0], "value": "state", "substitute": None, "tokens": 1, "ridge": 1.0,
        "texts": 10,
    },
    "uld": {"layers": 1, "alpha": 1.0, "top": 0.1, "uniform_weight": 1.0},
    "icu": {},
    "eco": {"sigma": 1.0, "threshold": 0.5},
    "none": {},
}  # fmt: skip


def settings_of(name):
    """A method's settings: of `SETTINGS` what it has, and its own."""
    kind = methods.get(name).settings
    known = {field.name for field in dataclasses.fields(kind)}
    base = {key: value for key, value in SETTINGS.items() if key in known}
    return parse_plain(kind, name, base | METHODS[name] | {"loss": name})


def test_every_method_is_here():
    assert set(METHODS) == set(methods.registry()) - {*ORACLES, "checkpoint"}


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("compute", [CPU, BFLOAT16], ids=["float32", "bfloat16"])
def test_every_method_runs_where_the_model_is(request, chain, mini_params, name, compute):
    """From loading to the last trajectory point; in bfloat16 as well, with float32 masters."""
    if compute is CPU:
        request.getfixturevalue("gpu")
    settings = settings_of(name)
    model, tokenizer = open_lm(chain.full, compute, training=trains_weights(settings))
    needed = methods.get(name).needs_predictor
    inputs = UnlearnInputs(
        pretrain=chain.full,
        prepare=chain.prepared,
        embed=chain.embed if needed else None,
        align=chain.align if needed else None,
    )
    section = mini_params.unlearn.model_copy(update={"probes": 2})
    outcome = run_method(model, tokenizer, settings, section, inputs, 0)
    assert all(math.isfinite(row["loss"]) for row in outcome.trace.rows)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    if compute is CPU:
        assert all(p.device == GPU for p in model.parameters())


def test_a_loaded_model_has_what_it_was_made_with(gpu, chain):
    """Buffers that no file holds too, which transformers makes anew behind `meta`."""
    model, _ = open_lm(chain.full, CPU, training=True)
    head = model.config.head_dim
    expected = 1 / 10000 ** (torch.arange(0, head, 2) / head)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq.cpu(), expected)
