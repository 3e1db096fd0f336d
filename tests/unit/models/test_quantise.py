"""Fake quantisation: the values it gives, and which weights of a model it reaches."""

import importlib.util
from statistics import NormalDist

import pytest
import torch
from families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st

from atu.errors import ConfigError
from atu.models.guards.base import guard_of
from atu.models.guards.embedding_noise import EmbeddingNoise
from atu.models.llm import save_lm
from atu.models.quantise import (
    NF4,
    Scheme,
    fake_quantise,
    load_bitsandbytes,
    parse_scheme,
    quantised,
    require_gpu_scheme,
)

LAYERS = ("model.layers.", "transformer.h.", "gpt_neox.layers.")
IDS = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 11, 12]])
SIMULATED = ["int8", "int4", "int8_g3", "int4_g3", "int4_g64", "nf4_sim"]


@pytest.fixture(scope="module", params=FAMILIES)
def kind(request):
    return request.param


def matrix(seed, rows=5, columns=8):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def quantise(weight, name):
    return fake_quantise(weight, parse_scheme(name))


def error(weight, name):
    return (weight - quantise(weight, name)).abs()


@pytest.mark.parametrize(
    "name,bits,group,codes,needs_gpu",
    [
        ("int8", 8, None, "integer", False),
        ("int4", 4, None, "integer", False),
        ("int8_g64", 8, 64, "integer", False),
        ("int4_g64", 4, 64, "integer", False),
        ("int4_g128", 4, 128, "integer", False),
        ("nf4_sim", 4, 64, "nf4", False),
        ("nf4", 4, 64, "nf4", True),
        ("fp4", 4, 64, "fp4", True),
    ],
)
def test_names(name, bits, group, codes, needs_gpu):
    assert parse_scheme(name) == Scheme(name, bits, group, codes, needs_gpu)


@pytest.mark.parametrize("name", ["int3", "int4_g0", "int4_g", "int4g64", " int4", "fp8", ""])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r"no quantisation scheme: use int8, int4.*nf4_sim"):
        parse_scheme(name)


def test_four_bits_by_hand():
    """Scales 7/7 = 1 and 3.5/7 = 0.5 per row; 2.5 is a half and goes to the even 2."""
    weight = torch.tensor([[7.0, -3.4, 0.6, 0.2], [-3.5, 1.25, 0.8, 0.0]])
    expected = torch.tensor([[7.0, -3.0, 1.0, 0.0], [-3.5, 1.0, 1.0, 0.0]])
    assert torch.equal(quantise(weight, "int4"), expected)


def test_eight_bits_by_hand():
    """Scale 127/127 = 1."""
    weight = torch.tensor([[-127.0, 3.4, 0.6, 0.2]])
    assert torch.equal(quantise(weight, "int8"), torch.tensor([[-127.0, 3.0, 1.0, 0.0]]))


def test_groups_by_hand():
    """Groups of 2: scales 1, then 0.6/7, where 0.2 is 2.33 steps and becomes 2."""
    weight = torch.tensor([[7.0, -3.4, 0.6, 0.2]])
    expected = torch.tensor([[7.0, -3.0, 0.6, 2 * 0.6 / 7]])
    torch.testing.assert_close(quantise(weight, "int4_g2"), expected)


def test_the_last_group_may_be_shorter():
    """Groups of 3 of 4 inputs: 0.2 is alone, so it is its own largest and stays."""
    weight = torch.tensor([[7.0, -3.4, 0.6, 0.2], [0.0, 0.0, 0.0, -0.3]])
    expected = torch.tensor([[7.0, -3.0, 1.0, 0.2], [0.0, 0.0, 0.0, -0.3]])
    torch.testing.assert_close(quantise(weight, "int4_g3"), expected)


def test_a_group_longer_than_the_row_is_the_row():
    weight = matrix(0)
    assert torch.equal(quantise(weight, "int4_g64"), quantise(weight, "int4"))


def test_nf4_codes_are_quantiles_of_the_normal_distribution():
    """QLoRA's construction: 8 quantiles above 0 and 7 below, from the offset
    (1 - 1/32 + 1 - 1/30) / 2 to 1/2, over the largest."""
    offset = (1 - 1 / 32 + 1 - 1 / 30) / 2

    def quantiles(count):
        steps = (offset + (0.5 - offset) * i / count for i in range(count))
        return [NormalDist().inv_cdf(p) for p in steps]

    positive, negative = quantiles(8), [-x for x in quantiles(7)]
    codes = sorted([*negative, 0.0, *positive])
    assert pytest.approx([c / max(codes) for c in codes], abs=1e-6) == list(NF4)


def test_nf4_by_hand():
    """Largest 2: 1.4 / 2 = 0.7 is nearest to 0.7230, -0.1 / 2 to -0.0911, 0.02 / 2 to 0."""
    weight = torch.tensor([[-2.0, 1.4, -0.1, 0.02]])
    expected = torch.tensor([[-2.0, 2 * NF4[14], 2 * NF4[6], 0.0]])
    torch.testing.assert_close(quantise(weight, "nf4_sim"), expected)


def test_nf4_takes_the_nearest_code():
    weight = matrix(1, 4, 16)
    largest = weight.abs().max()
    distance = (weight[..., None] / largest - torch.tensor(NF4)).abs().amin(-1) * largest
    torch.testing.assert_close((weight - quantise(weight, "nf4_sim")).abs(), distance)


def test_nf4_blocks_run_over_the_ends_of_rows():
    """Rows of 48: the first block of 64 ends in row 1, and the large weight after it is not in."""
    weight = torch.full((2, 48), 0.5)
    weight[1, 16] = 8.0
    found = quantise(weight, "nf4_sim").flatten()
    assert torch.equal(found[:64], weight.flatten()[:64])
    assert found[64] == 8.0
    assert not torch.isclose(found[65:], torch.tensor(0.5)).any()


@pytest.mark.parametrize("name", SIMULATED)
def test_all_zero_stays_zero(name):
    weight = torch.zeros(3, 4)
    assert torch.equal(quantise(weight, name), weight)
    weight[1, 3] = 2.0
    assert torch.equal(quantise(weight, name), weight)


@given(st.integers(0, 10**6), st.sampled_from([4, 8]), st.sampled_from([None, 1, 3, 5, 8]))
def test_error_is_at_most_half_a_step(seed, bits, group):
    weight = matrix(seed)
    name = f"int{bits}" + (f"_g{group}" if group else "")
    for rows, errors in zip(
        weight.split(group or 8, dim=1), error(weight, name).split(group or 8, dim=1), strict=True
    ):
        scale = rows.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert (errors <= scale / 2 * (1 + 1e-5)).all()


@given(st.integers(0, 10**6), st.sampled_from([4, 8]))
def test_at_most_two_to_the_bits_values(seed, bits):
    """2^bits - 1: as many below zero as above, so that -w becomes -q(w)."""
    weight = matrix(seed, 1, 2000)
    values = quantise(weight, f"int{bits}")
    assert len(values.unique()) <= 2**bits - 1
    assert torch.equal(quantise(-weight, f"int{bits}"), -values)


@given(st.integers(0, 10**6), st.sampled_from(SIMULATED))
def test_idempotent(seed, name):
    once = quantise(matrix(seed), name)
    torch.testing.assert_close(quantise(once, name), once, rtol=1e-6, atol=0)


@given(st.integers(0, 10**6), st.sampled_from(SIMULATED))
def test_sign_and_scale_are_kept(seed, name):
    weight = matrix(seed)
    found = quantise(weight, name)
    assert (found * weight >= 0).all()
    torch.testing.assert_close(quantise(4 * weight, name), 4 * found)


@given(st.integers(0, 10**6))
def test_more_bits_err_less(seed):
    weight = matrix(seed, 8, 32)
    assert error(weight, "int8").mean() < error(weight, "int4").mean()


@given(st.integers(0, 10**6))
def test_groups_err_less_beside_an_outlier(seed):
    """The outlier coarsens only its own group of 4."""
    weight = matrix(seed, 4, 32)
    weight[0, 5] = 100.0
    assert error(weight, "int4_g4").sum() < error(weight, "int4").sum()
    assert error(weight, "int4_g4")[0].sum() < error(weight, "int4")[0].sum() / 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", SIMULATED)
def test_type_is_kept_and_codes_do_not_depend_on_it(name, dtype):
    weight = matrix(2).to(dtype)
    before = weight.clone()
    found = quantise(weight, name)
    assert found.dtype == dtype
    assert torch.equal(weight, before), "the input changed"
    torch.testing.assert_close(
        found.float(),
        quantise(weight.float(), name),
        rtol=2 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-6,
        atol=0,
    )


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)])
def test_only_matrices(shape):
    with pytest.raises(ValueError, match=r"\[out, in\] is needed"):
        quantise(torch.zeros(shape), "int4")


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_bitsandbytes_types_are_not_simulated(name, tiny_lm):
    with pytest.raises(ValueError, match="nf4_sim"):
        quantise(torch.zeros(2, 2), name)
    with pytest.raises(ValueError, match="nf4_sim"):
        quantised(tiny_lm(), parse_scheme(name))


@pytest.mark.parametrize("name", ["int4", "nf4_sim"])
def test_only_linear_weights_of_decoder_layers_change(tiny_lm, kind, name):
    model = tiny_lm(kind)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = quantised(model, parse_scheme(name)).state_dict()
    changed = {key for key in before if not torch.equal(before[key], found[key])}
    expected = {key for key, w in before.items() if key.startswith(LAYERS) and w.ndim == 2}
    assert changed == expected
    assert len(expected) == 3 * {"gpt2": 4, "gpt_neox": 4, "phi3": 4}.get(kind, 7)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_every_output_channel_has_its_scale(tiny_lm, kind):
    """Each weight equals its fake-quantised self with outputs as rows; GPT-2's are columns."""
    model = tiny_lm(kind)
    turned = kind == "gpt2"
    found = dict(quantised(model, parse_scheme("int4")).named_parameters())
    for key, weight in model.named_parameters():
        if key.startswith(LAYERS) and weight.ndim == 2:
            rows = weight.T if turned else weight
            expected = quantise(rows, "int4")
            assert torch.equal(found[key].T if turned else found[key], expected), key


def test_the_copy_trains_and_runs_like_the_model(tiny_lm, kind):
    model = tiny_lm(kind)
    copied = quantised(model, parse_scheme("int8"))
    assert type(copied) is type(model)
    assert not copied.training
    assert all(p.requires_grad and p.is_leaf for p in copied.parameters())


def test_logits_stay_near_at_eight_bits(tiny_lm, kind):
    model = tiny_lm(kind)
    with torch.no_grad():
        for parameter in model.parameters():  # random layers are too small to matter otherwise
            if parameter.ndim == 2:
                parameter.mul_(5)
        own = model(input_ids=IDS).logits
        eight, four = (
            (quantised(model, parse_scheme(name))(input_ids=IDS).logits - own).norm() / own.norm()
            for name in ("int8", "int4")
        )
    assert 0 < eight < 0.03
    assert eight < four / 4


def test_simulated_schemes_need_no_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in SIMULATED:
        scheme = parse_scheme(name)
        require_gpu_scheme(scheme)
        assert not scheme.needs_gpu


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_without_cuda(monkeypatch, tmp_path, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"scheme = '{name}': needs a CUDA device: use nf4_sim"):
        require_gpu_scheme(parse_scheme(name))
    with pytest.raises(ConfigError, match="CUDA"):
        load_bitsandbytes(tmp_path, parse_scheme(name))


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_without_bitsandbytes(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"scheme = '{name}': run `pip install bitsandbytes`"):
        require_gpu_scheme(parse_scheme(name))


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_bitsandbytes_is_told_the_type(monkeypatch, tmp_path, tiny_lm, name):
    """Without a device only what `from_pretrained` is asked for can be seen."""
    import transformers

    asked = {}

    def from_pretrained(folder, **options):
        asked.update(options, folder=folder)
        return tiny_lm().train()

    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    assert not load_bitsandbytes(tmp_path, parse_scheme(name)).training
    assert asked["quantization_config"].load_in_4bit
    assert asked["quantization_config"].bnb_4bit_quant_type == name
    assert asked["folder"] == tmp_path
    assert asked["use_safetensors"] and asked["local_files_only"]
    assert asked["trust_remote_code"] is False


def test_simulated_schemes_are_not_loaded(tmp_path):
    with pytest.raises(ValueError, match="use `quantised`"):
        load_bitsandbytes(tmp_path, parse_scheme("nf4_sim"))


def test_bitsandbytes_keeps_the_guard(monkeypatch, tmp_path, tiny_lm, byte_tokenizer):
    """A guarded folder is loaded with its guard: the quantised model says what the guarded one
    does, here where nothing is rounded, and not what the bare one says. A folder without has
    none."""
    import transformers

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    bare = transformers.AutoModelForCausalLM.from_pretrained

    def from_pretrained(folder, quantization_config, device_map, **options):
        return bare(folder, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    model, ids = tiny_lm(), torch.tensor([[1, 20, 21, 22]])
    save_lm(model, byte_tokenizer, tmp_path / "bare")
    before = model(ids).logits
    settings = {"vocab_size": model.config.vocab_size, "hidden_size": 16, "seed": 5}
    guard = EmbeddingNoise(settings | {"scale": 3.0, "threshold": 0.4})  # flags every text
    guard.attach(model)
    save_lm(model, byte_tokenizer, tmp_path / "guarded")
    expected = model(ids).logits
    assert not torch.allclose(expected, before)
    for name, said in (("guarded", expected), ("bare", before)):
        found = load_bitsandbytes(tmp_path / name, parse_scheme("nf4"))
        assert (guard_of(found) is not None) is (name == "guarded")
        torch.testing.assert_close(found(ids).logits, said)
