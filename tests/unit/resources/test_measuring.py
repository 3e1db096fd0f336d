"""`atu speed`: the experiment's own shapes and settings, and a table of what was measured."""

import copy
import json

import pytest
from made.models import write_model

from atu.config.params import Params
from atu.errors import ConfigError
from atu.models.pinned import file_digests
from atu.resources.bound import model_config
from atu.resources.measuring import make_setup, measured, speed_table
from atu.resources.speed import Speed
from atu.results.locks import Lock


@pytest.fixture
def changed(mini_values):
    """A function that gives the miniature's parameters with some sections' values replaced."""

    def make(**sections):
        values = copy.deepcopy(mini_values)
        for name, own in sections.items():
            values[name] |= own
        return Params.model_validate(values)

    return make


def test_the_shapes_are_the_experiments(mini_params):
    """The model's, the highest hook layer, and a predictor of MiniLM's 384 dimensions."""
    setup = make_setup(mini_params, "llama_tiny", 7)
    assert (setup.config["vocab_size"], setup.hook_layer, setup.length) == (400, 2, 7)
    assert (setup.predictor.input_dim, setup.predictor.output_dim) == (32, 384)


def test_a_model_that_exists_is_read_by_its_configuration(changed, tmp_path):
    """Its weights are not opened, and the code that it names is not run."""
    folder = write_model(tmp_path / "model", "llama", layers=3)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}})
    (folder / "config.json").write_text(text, encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"not weights")
    Lock(content=file_digests(folder)).write(tmp_path / "lock.json")
    source = {"place": str(folder), "revision": None, "lock": str(tmp_path / "lock.json")}
    params = changed(pretrain={"models": {"llama_tiny": {"source": source, "finetune": False}}})
    found = model_config(params, "llama_tiny")
    assert "auto_map" not in found
    assert found["hidden_size"] == config["hidden_size"]


def test_every_atu_of_the_grid_is_measured(changed):
    """At its own batch size; the other methods are not."""
    params = changed(grid={"methods": ["none", "oracle", "ga", "atu"]})
    speeds = list(measured(params, "llama_tiny", length=8, steps=1))
    assert [speed.name for speed in speeds] == ["hidden states of alignment", "alignment", "atu"]
    assert speeds[-1].tokens == 2 * 8 * params.unlearn.methods["atu"].batch_size


def test_without_atu_there_is_nothing_to_measure(changed):
    with pytest.raises(ConfigError, match="none has the loss atu"):
        next(measured(changed(grid={"methods": ["none", "oracle", "ga"]}), "llama_tiny", 8, 1))


def test_the_table():
    """100 tokens in half a second are 200 per second; 2 TFLOP in half a second are 4 per second,
    a fifth of 20."""
    speed = Speed("atu", tokens=100, seconds=0.5, flops=2e12, peak=3 * 10**9)
    line = speed_table([speed], 20e12).splitlines()[1]
    assert [part.strip() for part in line.split("  ") if part.strip()] == [
        "atu", "100", "0.500", "200", "4", "20.0 %", "3.0 GB",
    ]  # fmt: skip
    assert speed_table([speed], None).splitlines()[1].split()[-2:] == ["3.0", "GB"]
    assert "%" not in speed_table([speed], None)
