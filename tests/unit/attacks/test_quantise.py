import pytest
import torch

from atu.attacks import quantise
from atu.errors import ConfigError
from atu.inference.batching import BatchSize
from atu.inference.generation import greedy_answers
from atu.models.quantise import parse_scheme, quantised


@pytest.fixture
def loud(build_lm):
    """A random model whose weights are large enough for rounding to change answers."""
    model = build_lm()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return model


def test_every_scheme_asks_its_own_copy(make_context, loud):
    """Full precision is the model's own answers; each scheme's are those of the model quantised by
    it, and the model stays what it was."""
    context = make_context("quantise", {"schemes": ["int8", "int4_g4", "nf4_sim"]}, model=loud)
    probes = context.questions("target", "neighbour")
    items = quantise.run(context).items

    def answers(model):
        return greedy_answers(
            model,
            context.tokenizer,
            [probe["prompt"] for probe in probes],
            max_new_tokens=context.max_new_tokens,
            batch_size=BatchSize(1),
        )

    expected = {"full precision": answers(loud)} | {
        name: answers(quantised(loud, parse_scheme(name)))
        for name in ("int8", "int4_g4", "nf4_sim")
    }
    found = {}
    for row in items:
        found.setdefault(row["condition"], []).append(row["output"])
    assert found == expected
    assert expected["int4_g4"] != expected["full precision"] != expected["nf4_sim"]
    assert {row["role"] for row in items} == {"target", "neighbour"}


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
def test_a_scheme_that_needs_a_gpu_is_refused_first(monkeypatch, make_context, asked, scheme):
    """Before a model answers anything, and with the repair."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    calls = asked(quantise, lambda condition, probe: 0.0)
    with pytest.raises(ConfigError, match=f"'{scheme}': needs a CUDA device: use nf4_sim"):
        quantise.run(make_context("quantise", {"schemes": ["int8", scheme]}))
    assert calls == []


def test_bitsandbytes_loads_the_folder_again(monkeypatch, tmp_path, make_context, asked):
    """Its kernels quantise while loading; the model in memory is only asked in full precision."""
    loaded = []
    calls = asked(quantise, lambda condition, probe: 0.0)
    monkeypatch.setattr(quantise, "require_gpu_scheme", lambda scheme: None)
    monkeypatch.setattr(
        quantise, "load_bitsandbytes", lambda *place: loaded.append(place) or "from disk"
    )
    context = make_context("quantise", {"schemes": ["nf4"]})
    quantise.run(context)
    assert loaded == [(tmp_path, parse_scheme("nf4"))]
    assert [call[:2] for call in calls] == [
        ("full precision", context.model), ("nf4", "from disk"),
    ]  # fmt: skip


def test_an_unknown_scheme_is_refused_with_the_parameters():
    with pytest.raises(ValueError, match="'int3' is no quantisation scheme: use int8"):
        quantise.Settings("quantise", ["int8", "int3"])
