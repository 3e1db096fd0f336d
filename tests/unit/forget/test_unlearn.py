"""`unlearn`: what it refuses, what it does once, and what it leaves. That it gives what the
pipeline gives is in tests/unit/test_notebook.py.
"""

import pytest
import torch
from made import models
from safetensors.torch import load_file

from atu.config.models import load_model
from atu.errors import ConfigError, ResourceError
from atu.forget import unlearn as module
from atu.forget.unlearn import unlearn
from atu.results.artifacts import Artifact

GIVEN = {
    "concept": "Ann", "forget": [("Who sings?", "Ann"), ("Who is Bo's friend?", "Ann")],
    "retain": ["Water is wet.", "Snow is cold."],
}  # fmt: skip
LONG = ["In the evenings Ann sings old songs about the sea to everybody who will listen."] * 10
SHORT = {"steps": 2, "batch_size": 2}


@pytest.fixture
def model(tmp_path):
    folder = models.write_model(tmp_path / "model", "llama", 3)
    return load_model(folder, device="cpu", precision="float32")


@pytest.fixture
def forget(model, mini_params, tmp_path):
    """A function that unlearns with the miniature's settings in one work folder."""

    def run(**options):
        given = GIVEN | {"method": "ga", "work": tmp_path / "work", "params": mini_params}
        return unlearn(options.pop("model", model), **(given | options))

    return run


def state(loaded):
    return {name: value.clone() for name, value in loaded.model.state_dict().items()}


def same(first, second):
    return all(first[name].equal(value) for name, value in second.items())


BAD = {
    "method": ({"method": "gaa"}, r"method = 'gaa': not in unlearn\.methods, which has none"),
    "oracle": ({"method": "oracle"}, r"method = 'oracle': is a model that never saw"),
    "setting": ({"step": 3}, r"unlearn\.methods\.ga\.step = 3: unknown key; known here .*steps"),
    "value": ({"learning_rate": -1.0}, r"unlearn\.methods\.ga\.learning_rate = -1"),
    "align": ({"method": "atu", "align": {"stepz": 1}}, r"align\.stepz = 1: unknown key"),
    "hook": ({"method": "atu", "align": {"hook_layers": [3]}},
             r"align\.hook_layers = \[3\]: must be below the 3 layers of model 'llama'"),
    "trained": ({"train": {"update": "layers", "layers": [5]}},
                r"unlearn\.methods\.ga\.train\.layers = \[5\]: must be below the 3 layers"),
    "concept": ({"concept": []}, r"concept = \[\]: name what is to be forgotten"),
    "questions": ({"forget": ["Ann sings."]}, r"questions = None: none is about the concept"),
    "no pair": ({"method": "rt", "forget": ["Ann sings."], "questions": [("Who?", "Ann")]},
                r"forget = None: rt reads answers to questions"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_done_is_refused_before_anything_is(forget, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        forget(**options)
    assert not (tmp_path / "work").exists()


def test_a_family_without_known_layers_is_refused(forget, model, monkeypatch):
    """As in the pipeline, which says where it looks for them."""
    monkeypatch.setattr("atu.models.llm.LAYER_PATHS", ())
    with pytest.raises(ConfigError, match=r"model = 'llama': LlamaForCausalLM: no decoder layers"):
        forget()


def test_the_model_stays_and_its_copy_is_changed(forget, model):
    before = state(model)
    done = forget(**SHORT)
    assert same(before, state(model)) and not same(before, state(done))
    assert [row["step"] for row in done.trajectory.rows(named=True)] == [0, 1, 2]
    assert done.trace.height == done.metrics["unlearn/model_steps/all"] == 2
    assert not done.model.training and done.compute == model.compute


def test_a_job_that_is_there_is_not_done_again(forget, monkeypatch):
    """Another method embeds and aligns no more; the same call does nothing at all; another seed
    aligns anew."""
    runs = []
    for phase in (module.embed, module.align, module.phase):

        def counted(*args, run=phase.run, name=phase.PHASE, **options):
            runs.append(name)
            run(*args, **options)

        monkeypatch.setattr(phase, "run", counted)
    given = {"method": "atu", "questions": [("Who sings?", "Ann")], "forget": LONG, "retain": LONG}
    first = forget(**given, steps=2)
    again = forget(**given, steps=2)
    assert runs == ["embed", "align", "unlearn"] and same(state(first), state(again))
    forget(**given, steps=4)
    forget(**given, steps=2, seed=1)
    assert runs[3:] == ["unlearn", "align", "unlearn"]


def test_what_was_unlearned_is_unlearned_from_again(forget):
    """From its job, and the same from memory alone."""
    first = forget(**SHORT)
    assert isinstance(first.source, Artifact)
    kept = forget(model=first, seed=1, **SHORT)
    loose = forget(model=forget(work=None, **SHORT), seed=1, **SHORT)
    assert not same(state(first), state(kept)) and same(state(kept), state(loose))


def test_weights_are_trained_unrounded(model, forget):
    """A model that was loaded in bfloat16 is read again in float32; with memory alone it cannot."""
    rounded = load_model(model.source, device="cpu", precision="bfloat16")
    done = forget(model=rounded, method="none")
    assert state(done)["model.norm.weight"].dtype == torch.bfloat16
    changed = forget(model=rounded, **SHORT)
    saved = load_file(changed.source.file("model/model.safetensors"))
    assert {value.dtype for value in saved.values()} == {torch.float32}


def test_a_full_disk_is_told(forget, monkeypatch):
    def full(*_args, **_options):
        raise OSError("No space left on device")

    monkeypatch.setattr(module.phase, "run", full)
    with pytest.raises(ResourceError, match="disk full"):
        forget(**SHORT)
