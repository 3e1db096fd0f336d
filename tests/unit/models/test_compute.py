"""Device, precision, attention and checkpointing: what is asked for is what a model gets."""

import copy
from dataclasses import replace

import pytest
import torch
from families import SPECIAL
from machines import BFLOAT16, CPU
from measuring import measured_peak
from safetensors import safe_open

from atu.errors import ConfigError
from atu.models import compute
from atu.models.build import build_lm
from atu.models.compute import Compute, device_of, settle
from atu.models.llm import decoder_layers, hidden_states, load_lm, save_lm

IDS = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
AUTO = Compute(
    device="auto", precision="auto", attention="sdpa", checkpointing=False, remote_code=[]
)


@pytest.fixture
def saved(tmp_path, tiny_lm, byte_tokenizer):
    save_lm(tiny_lm(vocab_size=len(byte_tokenizer)), byte_tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("gpu", "device", "bfloat16"), [(True, "cuda", True), (False, "cpu", False)]
)
def test_auto_is_bfloat16_on_a_gpu_and_float32_on_a_cpu(monkeypatch, gpu, device, bfloat16):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert AUTO.place.type == device
    assert AUTO.bfloat16 is bfloat16
    assert replace(AUTO, precision="float32").bfloat16 is False
    assert replace(AUTO, device="cpu").bfloat16 is False
    assert replace(AUTO, device="cpu", precision="bfloat16").bfloat16 is True


@pytest.mark.parametrize(
    ("chosen", "training", "dtype"),
    [
        (CPU, True, torch.float32),
        (CPU, False, torch.float32),
        (BFLOAT16, True, torch.float32),
        (BFLOAT16, False, torch.bfloat16),
    ],
)
def test_trained_weights_are_float32(saved, chosen, training, dtype):
    model, _ = load_lm(saved, chosen, training=training)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert not model.training


def test_a_checkpoint_in_bfloat16_is_trained_in_float32(tmp_path, tiny_lm, byte_tokenizer):
    """transformers would load it as it was saved."""
    save_lm(tiny_lm(vocab_size=259).bfloat16(), byte_tokenizer, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert stored.get_tensor(next(iter(stored.keys()))).dtype == torch.bfloat16
    model, _ = load_lm(tmp_path, BFLOAT16, training=True)
    assert model.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "moved"), [(torch.float32, True), (torch.bfloat16, False)])
def test_a_small_step_moves_float32_weights_alone(tiny_lm, dtype, moved):
    """Every gradient is 1, so SGD at 1e-5 takes 1e-5 from every weight. The bfloat16 below 1 is
    1 - 2^-8 = 0.996, so 1 - 1e-5 is 1 again; in float32, with steps of 2^-24 = 6e-8, it is not.
    """
    model = tiny_lm().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    torch.stack([p.sum() for p in model.parameters()]).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1e-5).step()
    for parameter in model.parameters():
        assert bool((parameter == 1.0).all()) is not moved
        assert parameter.double().mean().item() == pytest.approx(1 - 1e-5 * moved, abs=1e-7)


def test_autocast_trains_float32_masters(tiny_lm):
    """The forward pass is bfloat16's (not float32's), the gradients and the steps are float32's."""
    exact = tiny_lm()
    model = settle(copy.deepcopy(exact), BFLOAT16)
    rounded = copy.deepcopy(exact).bfloat16()
    logits = model(input_ids=IDS, attention_mask=MASK).logits
    plain = exact(input_ids=IDS, attention_mask=MASK).logits
    error = (logits - plain).abs().max().item()
    assert logits.dtype == torch.float32
    assert 0 < error < 0.02 * plain.abs().max()
    low = rounded(input_ids=IDS, attention_mask=MASK).logits.float()
    torch.testing.assert_close(logits, low, atol=0.02 * plain.abs().max().item(), rtol=0.0)
    before = model.get_input_embeddings().weight.detach().clone()
    logits.square().sum().backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    torch.optim.SGD(model.parameters(), lr=1e-5).step()
    assert not torch.equal(model.get_input_embeddings().weight, before)


def test_an_early_exit_runs_under_autocast_and_leaves_it(tiny_lm):
    """The exit is an exception: autocast must not stay on behind it, also not in a copy."""
    model = settle(tiny_lm(), BFLOAT16)
    for one in (model, copy.deepcopy(model)):
        exact = hidden_states(tiny_lm(), IDS, MASK, 2)
        found = hidden_states(one, IDS, MASK, 2)
        assert not torch.equal(found, exact)
        torch.testing.assert_close(found, exact, atol=0.02, rtol=0.02)
        assert not torch.is_autocast_enabled("cpu")
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("checkpointing", [True, False])
def test_autocast_holds_a_layer_at_a_time(checkpointing):
    """Of eight layers and few tokens, where no backward pass reads casts: with checkpointing, and
    without gradients. Red with autocast's cache, which holds the casts of all until the end."""
    wide = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 8}
    config = {
        "model_type": "llama", "vocab_size": 12, "num_attention_heads": 4,
        "max_position_embeddings": 16, **SPECIAL, **wide,
    }  # fmt: skip
    compute = replace(BFLOAT16, checkpointing=checkpointing)
    model = settle(build_lm(config, 0), compute).train()
    ids = torch.tensor([[1, 3, 4, 5]])
    with torch.set_grad_enabled(checkpointing):
        held = measured_peak(lambda: model(input_ids=ids).logits)
    casts = sum(2 * p.numel() for p in decoder_layers(model).parameters())
    assert held < casts / 4


def test_a_failed_pass_leaves_autocast(tiny_lm):
    model = settle(tiny_lm(), BFLOAT16)
    with pytest.raises(IndexError):
        model(input_ids=IDS + 1000)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("chosen", [CPU, BFLOAT16])
def test_logits_are_float32(saved, chosen):
    model, _ = load_lm(saved, chosen, training=False)
    assert model(input_ids=IDS).logits.dtype == torch.float32


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_attention_by_name(tiny_lm, name):
    model = settle(tiny_lm(), replace(CPU, attention=name))
    assert model.config._attn_implementation == name
    expected = tiny_lm()(input_ids=IDS, attention_mask=MASK).logits
    torch.testing.assert_close(model(input_ids=IDS, attention_mask=MASK).logits, expected)


def test_attention_that_is_not_there(tiny_lm):
    """Said before a model is loaded, and by the model itself."""
    flash = replace(AUTO, attention="flash_attention_2")
    with pytest.raises(
        ConfigError, match=r"compute\.attention = 'flash_attention_2': needs a CUDA"
    ):
        flash.require()
    with pytest.raises(ConfigError, match=r"compute\.attention = 'flash_attention_2': .*use eager"):
        settle(tiny_lm(), flash)


@pytest.mark.parametrize("own", [{"precision": "float32"}, {"device": "cpu"}])
def test_flash_attention_computes_in_bfloat16_on_a_gpu(own):
    with pytest.raises(ValueError, match="computes in bfloat16 on a GPU"):
        replace(AUTO, attention="flash_attention_2", **own)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"compute\.device = 'cuda': torch sees no CUDA device"):
        replace(CPU, device="cuda").require()
    AUTO.require()
    CPU.require()


def test_checkpointing_computes_layers_again(tiny_lm):
    """In training, every layer runs twice per step, with the same gradients; in eval mode once."""
    plain, model = tiny_lm(), settle(tiny_lm(), replace(CPU, checkpointing=True))
    assert not compute.settle(tiny_lm(), CPU).is_activation_checkpointing
    runs = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda *_: runs.append(1))
    for one in (plain, model.train()):
        one(input_ids=IDS, attention_mask=MASK).logits.square().sum().backward()
    assert len(runs) == 6
    for expected, found in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
    model.eval()(input_ids=IDS, attention_mask=MASK).logits.sum().backward()
    assert len(runs) == 9


def test_checkpointing_stops_at_what_is_trained(tiny_lm):
    """With the embeddings frozen, nothing below the trained layer has a gradient to carry."""
    model = settle(tiny_lm(), replace(CPU, checkpointing=True)).train().requires_grad_(False)
    model.model.layers[1].requires_grad_(True)
    states = hidden_states(model, IDS, MASK, 1)
    assert not states.requires_grad
    model(input_ids=IDS, attention_mask=MASK).logits.square().sum().backward()
    assert all(p.grad is not None for p in model.model.layers[1].parameters())


def test_device_of(tiny_lm):
    assert device_of(tiny_lm()) == torch.device("cpu")
    assert device_of(tiny_lm().to("meta")) == torch.device("meta")
