"""The parameter file of a wish: settings by the model's size, and a file that is in order."""

import json

import pytest
import yaml
from made import concept as made
from made import models
from made.retain import NO_RETAIN

from atu.config.load import check_values
from atu.errors import ConfigError
from atu.forget.experiment import KEPT_BY_OUTPUT, METHODS, Shape, render, steps_for
from atu.models.pinned import file_digests
from atu.results.locks import Lock, Source
from atu.untrusted.yaml import parse_yaml


@pytest.mark.parametrize(
    ("layers", "hook"), [(32, 29), (4, 3), (2, 1), (12, 11), (16, 14), (80, 72)]
)
def test_the_hook_is_at_the_papers_share_of_the_depth(layers, hook):
    """29 of 32; 72.5 of 80 is rounded to the even 72; never the last."""
    assert Shape(layers, 64).hook == hook


@pytest.mark.parametrize(("hidden", "rate"), [(128, 2e-3), (3072, 1.7e-5), (512, 2.5e-4)])
def test_the_rate_falls_with_the_hidden_size(hidden, rate):
    """2e-3 (128 / 512) ^ 1.5 = 2e-3 / 8 = 2.5e-4."""
    assert Shape(4, hidden).rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("layers", "hidden", "batch", "checkpointing"),
    [(4, 128, 16, False), (30, 576, 4, False), (12, 768, 4, False), (32, 3072, 4, True)],
)
def test_the_scale_follows_what_a_token_costs(layers, hidden, batch, checkpointing):
    """12 * 30 * 576^2 = 1.2e8 parameters in SmolLM2's layers, 8.5e7 in GPT-2's."""
    scale = Shape(layers, hidden).scale
    assert (scale.batch_size, scale.checkpointing) == (batch, checkpointing)


def test_steps_grow_with_the_predictor_and_shrink_with_the_cost():
    """The middle scale unlearns in fewer steps than the world, whose steps cost a hundredth."""
    small, middle, large = (Shape(*size) for size in ((4, 128), (30, 576), (32, 3072)))
    assert steps_for(middle).unlearn < steps_for(small).unlearn < steps_for(large).unlearn
    assert steps_for(middle, quick=True).unlearn == steps_for(middle).unlearn // 3


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": 1, "hidden_size": 8},
                                    {"num_hidden_layers": "4", "hidden_size": 8}])  # fmt: skip
def test_a_model_without_a_layer_to_hook_is_refused(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--model .*2 layers are needed"):
        Shape.of(tmp_path)


def test_gpt2s_words_are_understood(tmp_path):
    (tmp_path / "config.json").write_text('{"n_layer": 12, "n_embd": 768}', encoding="utf-8")
    assert Shape.of(tmp_path) == Shape(12, 768)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A locked model and a locked corpus."""
    folder = tmp_path_factory.mktemp("sources")
    model = models.write_model(folder / "model", "llama", 4)
    Lock(content=file_digests(model)).write(folder / "model.json")
    corpus = made.write_folder(folder / "corpus")
    Lock().write(folder / "corpus.json")
    return tuple(Source(str(p), None, f"{p}.json") for p in (model, corpus))


def rendered(sources, method="atu", rank=None, names=(made.ANN,), descriptions=()):
    model, corpus = sources
    return render(
        names=names, descriptions=descriptions, method=method, rank=rank, seed=3, select=0.5,
        encoder="all-MiniLM-L6-v2", model=model, corpus=corpus, shape=Shape(4, 32),
    )  # fmt: skip


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("method", METHODS)
def test_every_methods_file_is_in_order(sources, method, rank):
    params = check_values(yaml.safe_load(rendered(sources, method, rank)))
    assert params.grid.methods == ["none", method] and params.grid.seeds == [3]
    train = params.unlearn.methods[method].train
    assert train.update == ("lora" if rank else "layers" if method == "atu" else "all")
    assert params.compute.checkpointing is False
    assert params.align.hook_layers == [3]


def test_names_are_quoted(sources):
    """A name is a text, whatever YAML would make of it."""
    text = rendered(sources, names=('Yes: #1 "o\'clock" <b>',), descriptions=("- a: 'b'",))
    values = yaml.safe_load(text)
    assert values["grid"]["targets"] == ['Yes: #1 "o\'clock" <b>'] == values["search"]["targets"]
    assert values["embed"]["descriptions"] == ["- a: 'b'"]


@pytest.mark.parametrize(
    "name", ["\U0001f600 Band", "\U00020bb7\u91ce\u5bb6", "Zo\u00eb", "\u6771\u4eac"]
)
def test_names_of_all_scripts_come_back(sources, name):
    values = parse_yaml(rendered(sources, names=(name,), descriptions=(name,)))
    assert check_values(values).grid.targets == [name] == values["embed"]["descriptions"]


def test_full_weights_of_a_middle_model_learn_at_half_the_rate(sources):
    """2e-3 (128 / 576) ^ 1.5 = 2.1e-4; adapters at ten times that, as elsewhere."""
    model, corpus = sources
    rates = [
        yaml.safe_load(
            render(
                names=["A"], descriptions=[], method="atu", rank=rank, seed=0, select=0.5,
                encoder="e", model=model, corpus=corpus, shape=Shape(30, 576),
            )
        )["unlearn"]["methods"]["atu"]["learning_rate"]
        for rank in (None, 8)
    ]  # fmt: skip
    assert rates == [1.1e-4, 2.1e-3]


@pytest.mark.parametrize(("hidden", "rate"), [(3072, 1.7e-4), (32, 4e-3)])
def test_adapters_learn_faster_within_a_limit(sources, hidden, rate):
    """Ten times 1.7e-5 for a large model; a small one's rate is above the limit as it is."""
    model, corpus = sources
    text = render(
        names=["A"], descriptions=[], method="atu", rank=8, seed=0, select=0.5, encoder="e",
        model=model, corpus=corpus, shape=Shape(4, hidden),
    )  # fmt: skip
    found = yaml.safe_load(text)["unlearn"]["methods"]["atu"]
    assert found["learning_rate"] == pytest.approx(rate)
    assert found["train"] == {"update": "lora", "rank": 8, "alpha": 16}


def test_sentences_as_answers_have_room(sources):
    """In every phase that asks; names keep the limits of the world."""
    model, corpus = sources
    short, long = (
        yaml.safe_load(
            render(
                names=["A"],
                descriptions=[],
                method="atu",
                rank=None,
                seed=0,
                select=0.5,
                encoder="e",
                model=model,
                corpus=corpus,
                shape=Shape(4, 64),
                long_answers=is_long,
            )
        )
        for is_long in (False, True)
    )
    asking = ("rephrase", "attack")
    assert [long[phase]["max_new_tokens"] for phase in asking] == [96, 96]
    assert all(short[phase]["max_new_tokens"] < 96 for phase in asking)


@pytest.mark.parametrize(
    ("layers", "hidden", "kept"),
    [(4, 32, {"nll": 1.0, "kl": 0.0, "states": 0.1, "layer": 3}), (30, 576, KEPT_BY_OUTPUT)],
)
def test_pretrained_models_are_kept_by_their_output(sources, layers, hidden, kept):
    """Hidden states of a first token would outweigh everything."""
    model, corpus = sources
    text = render(
        names=["A"], descriptions=[], method="atu", rank=None, seed=0, select=0.5, encoder="e",
        model=model, corpus=corpus, shape=Shape(layers, hidden),
    )  # fmt: skip
    assert yaml.safe_load(text)["unlearn"]["methods"]["atu"]["retain"] == NO_RETAIN | kept


def test_a_method_that_needs_more_is_refused(sources):
    with pytest.raises(
        ConfigError, match=r"--method = 'dpo': needs more than texts; known are atu"
    ):
        rendered(sources, "dpo")
