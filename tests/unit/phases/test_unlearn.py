import dataclasses

import pytest
import torch
from machines import CPU
from peft import PeftModel

from atu.errors import ConfigError, MethodError
from atu.models.llm import load_lm
from atu.models.trainable import Lora
from atu.phases import unlearn
from atu.results.artifacts import MANIFEST, Artifact
from atu.unlearning import trajectory
from atu.unlearning.engine import UnlearnInputs


@pytest.fixture
def section(mini_params):
    """A function that changes settings of one method, and with `keep` the whole phase's."""

    def change(name, keep="last", **settings):
        entry = dataclasses.replace(mini_params.unlearn.methods[name], **settings)
        changes = {"methods": {name: entry}, "keep": keep}
        return mini_params.unlearn.model_copy(update=changes)

    return change


@pytest.fixture
def inputs(chain):
    return UnlearnInputs(chain.full, chain.prepared, chain.embed, chain.align)


@pytest.fixture
def unlearned(tmp_path, section, inputs):
    """A function that runs a method and opens its folder."""

    def run(name, seed=0, where="unlearn", keep="last", given=inputs, **settings):
        manifest = tmp_path / where / MANIFEST
        unlearn.run(manifest, section(name, keep, **settings), CPU, name, seed, given)
        return Artifact.open(manifest, "unlearn")

    return run


@pytest.fixture
def leakage(monkeypatch):
    """A function that sets what the trajectory finds at every step: `{step: exact match}`. The
    score of a point is what it does not leak."""

    def given(found):
        def observe(self, step, facts):
            leaked = found.get(step, 1.0)
            return {"step": step, **facts, "score_target": leaked, "selection": 1 - leaked}

        monkeypatch.setattr(trajectory.Observer, "__call__", observe)

    return given


def weights(artifact):
    return artifact.file("model/model.safetensors").read_bytes()


@pytest.mark.parametrize(("keep", "kept"), [("best", 2), ("last", 4)])
def test_a_run_is_written(unlearned, leakage, keep, kept):
    """4 steps with points at 2 and 4, of which the first leaks less: every point, every step, and
    what was measured at the kept one. The model is the kept point's: with `best` that of
    a run which ends at 2."""
    leakage({2: 0.25, 4: 0.5})
    artifact = unlearned("ga", keep=keep, stop_below=None)
    assert [point["step"] for point in artifact.read_jsonl("trajectory.jsonl")] == [0, 2, 4]
    trace = artifact.read_jsonl("trace.jsonl")
    assert [(row["stage"], row["step"]) for row in trace] == [
        ("stretch 1", 1), ("stretch 1", 2), ("stretch 2", 1), ("stretch 2", 2),
    ]  # fmt: skip
    metrics = artifact.metrics()
    assert metrics["unlearn/tokens/all"] > 0
    del metrics["unlearn/tokens/all"]
    leaked = {2: 0.25, 4: 0.5}[kept]
    assert metrics == {
        "unlearn/step/select": kept,
        "unlearn/score_target/select": leaked,
        "unlearn/selection/select": 1 - leaked,
        "unlearn/model_steps/all": 4,
        "unlearn/predictor_steps/all": 0,
    }
    ended = unlearned("ga", where="ended", stop_below=0.25)
    assert ended.metrics()["unlearn/model_steps/all"] == 2
    assert (weights(artifact) == weights(ended)) is (kept == 2)


@pytest.mark.parametrize("name", ["none", "oracle"])
def test_methods_that_train_nothing_keep_the_model(chain, unlearned, name):
    artifact = unlearned(name)
    assert weights(artifact) == weights(chain.full)
    assert artifact.read_jsonl("trace.jsonl") == []
    assert [p["step"] for p in artifact.read_jsonl("trajectory.jsonl")] == [0]


@pytest.mark.parametrize("name", ["atu", "ga"])
def test_the_original_model_is_left_alone(chain, unlearned, name):
    before = weights(chain.full)
    assert weights(unlearned(name)) != before == weights(chain.full)


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_the_seed_decides_the_result(unlearned, leakage, seed, same):
    leakage({})
    first, second = unlearned("ga", where="first"), unlearned("ga", seed, where="second")
    assert (weights(first) == weights(second)) is same
    assert (first.digest == second.digest) is same


def test_adapters_are_kept_beside_the_merged_model(chain, unlearned, leakage):
    """Listed in the manifest, the same bytes each time, and what was added to the original model at
    the point that was kept, which is not the last."""
    leakage({2: 0.25, 4: 0.5})
    lora = Lora("lora", rank=2, alpha=4)
    first, second = (
        unlearned("ga", where=where, train=lora, keep="best", stop_below=None)
        for where in ("first", "second")
    )
    assert first.metrics()["unlearn/step/select"] == 2
    assert first.digest == second.digest
    original = load_lm(chain.full.subfolder("model"), CPU, training=True)[0]
    merged = PeftModel.from_pretrained(original, first.subfolder("adapter")).merge_and_unload()
    found = merged.state_dict()
    expected = load_lm(first.subfolder("model"), CPU, training=True)[0].state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert weights(first) != weights(chain.full)


def test_without_lora_no_adapter_is_written(chain):
    assert not any(name.startswith("adapter") for name in chain.unlearn.manifest["artifacts"])


@pytest.mark.parametrize("missing", ["embed", "align"])
def test_a_method_that_needs_the_predictor_is_refused_without(tmp_path, unlearned, inputs, missing):
    """Before anything is written."""
    with pytest.raises(ConfigError, match="--method = 'atu': needs --embed and --align"):
        unlearned("atu", given=dataclasses.replace(inputs, **{missing: None}))
    assert list(tmp_path.iterdir()) == []


def test_other_methods_need_no_alignment(unlearned, inputs):
    """And name only what they read."""
    given = dataclasses.replace(inputs, embed=None, align=None)
    assert set(unlearned("ga", given=given).manifest["inputs"]) == {"pretrain", "prepare"}


def test_a_diverging_run_leaves_no_result(tmp_path, unlearned):
    """The first step of this size takes the weights out of what a float can hold."""
    with pytest.raises(MethodError, match=r"stretch 1: .* at step 2; lower the learning rate"):
        unlearned("ga", learning_rate=1e38, optimizer="sgd")
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_holds_the_own_method_alone(chain):
    """Editing another method must not change this cell's manifest, or a cold run and a run that
    reran only the heirs of an edit would differ in bytes."""
    assert list(chain.unlearn.manifest["params"]["methods"]) == ["atu"]
