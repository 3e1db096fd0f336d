"""What is refused before it starts, what is not, and what is said when memory did not suffice."""

from dataclasses import replace

import pytest
import torch

from atu.errors import ResourceError, TrainingError
from atu.models.trainable import Lora
from atu.resources import fit
from atu.resources.bound import PlannedJob, held, model_config
from atu.resources.fit import SWITCH, changes, described, fitting, relief, require_fit

LORA = "{update: lora, rank: 8, alpha: 16}"


@pytest.fixture
def job(mini_params):
    """A function that makes a job of the miniature."""

    def make(phase, name="", params=mini_params):
        places = {"attack": params.attack.attacks, "unlearn": params.unlearn.methods}
        config = model_config(params, "llama_tiny")
        return PlannedJob(phase, params, config, name, places.get(phase, {}).get(name))

    return make


@pytest.fixture
def on_gpus(mini_params, monkeypatch):
    """The miniature's parameters on a machine with GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return mini_params


def least(job):
    return sum(held(job).values())


def test_what_fits_is_let_through(job):
    own = job("unlearn", "ga")
    assert require_fit(own, least(own)).endswith(" free")
    assert require_fit(own, None) == described(held(own))


def test_what_cannot_fit_is_refused_with_the_setting_that_would_help(job):
    own = job("unlearn", "ga")
    smaller = replace(own, settings=replace(own.settings, train=Lora("lora", 8, 16)))
    with pytest.raises(ResourceError) as caught:
        require_fit(own, least(smaller))
    said = str(caught.value)
    assert said.startswith("unlearn.methods.ga: needs at least ")
    assert f"; with `unlearn.methods.ga.train: {LORA}` " in said
    assert said.endswith("ATU_IGNORE_MEMORY=1 starts it all the same")
    with pytest.raises(ResourceError, match="; give the job more "):
        require_fit(own, least(smaller) - 1)


@pytest.mark.parametrize(("value", "refused"), [("1", False), ("0", True), ("", True)])
def test_the_switch_starts_it_all_the_same(job, monkeypatch, value, refused):
    monkeypatch.setenv(SWITCH, value)
    own = job("unlearn", "ga")
    if refused:
        with pytest.raises(ResourceError):
            require_fit(own, 0)
    else:
        assert require_fit(own, 0).endswith("started all the same (ATU_IGNORE_MEMORY)")


def test_what_would_need_less(job, on_gpus, mini_params):
    """A method whose job GPUs can share, up to the texts of its batch; where numbers need not be
    exact, their precision."""
    float32 = replace(mini_params.compute, precision="float32")
    on_gpus = on_gpus.model_copy(update={"compute": float32})
    lines = [line for line, _ in changes(job("unlearn", "ga", on_gpus))]
    assert lines == [
        "gpu: 2", "gpu: 4", f"unlearn.methods.ga.train: {LORA}", "compute.precision: bfloat16"
    ]  # fmt: skip
    own = job("rephrase", params=on_gpus)
    [(line, parts)] = changes(own)
    assert line == "compute.precision: bfloat16"
    assert sum(parts.values()) == least(own) / 2


@pytest.mark.parametrize(
    ("phase", "name", "lines"),
    [
        ("pretrain", "", ["pretrain.batch_tokens: 1024", "compute.checkpointing: true"]),
        ("align", "", ["align.batch_tokens: 512"]),
        (
            "unlearn", "ga",
            [
                "unlearn.methods.ga.batch_size: 2", "compute.checkpointing: true",
                f"unlearn.methods.ga.train: {LORA}",
            ],
        ),
        (
            "unlearn", "task_vector",  # of which LoRA has none
            ["unlearn.methods.task_vector.batch_size: 8", "compute.checkpointing: true"],
        ),
        ("unlearn", "uld", ["unlearn.methods.uld.batch_size: 8"]),
        ("utility", "", ["utility.batch_size: 32"]),
        ("attack", "relearn", ["attack.attacks.relearn.batch_size: 2"]),
        ("attack", "lens", ["attack.batch_size: 128"]),
        ("attack", "fresh_predictor", ["align.batch_tokens: 512"]),
    ],
)  # fmt: skip
def test_relief(job, phase, name, lines):
    """Half the batch, checkpointing where the model is trained, LoRA where it can be."""
    assert relief(job(phase, name)) == lines


def test_no_relief_that_is_there_already(job, mini_params):
    own = job("unlearn", "ga")
    params = mini_params.model_copy(
        update={"compute": replace(mini_params.compute, checkpointing=True)}
    )
    settings = replace(own.settings, batch_size=1, train=Lora("lora", 4, 4))
    assert relief(replace(own, params=params, settings=settings)) == []


class TestAroundAJob:
    def test_it_says_what_it_must_hold(self, chain, mini_params, capsys):
        with fitting("align", mini_params, model=chain.full):
            pass
        said = capsys.readouterr().err
        assert said.startswith("memory: at least ") and said.endswith(" free\n")

    @pytest.mark.parametrize("out", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
    def test_running_out_of_memory_names_the_settings(self, chain, mini_params, out):
        settings = mini_params.unlearn.methods["ga"]
        with (
            pytest.raises(
                ResourceError, match=r"out of memory: .*\n.*`unlearn\.methods\.ga\.batch_size: 2`"
            ),
            fitting("unlearn", mini_params, model=chain.full, name="ga", settings=settings),
        ):
            raise out

    @pytest.mark.parametrize("other", [TrainingError("loss nan"), KeyError("x")])
    def test_other_errors_are_left_alone(self, chain, mini_params, other):
        with pytest.raises(type(other)) as caught, fitting("align", mini_params, model=chain.full):
            raise other
        assert caught.value is other

    def test_a_damaged_folder_is_left_to_the_job(self, mini_params, store, capsys):
        with fitting("rephrase", mini_params, model=store("empty", "unlearn")):
            pass
        assert capsys.readouterr().err == ""

    def test_processes_share_a_machines_memory(self, chain, mini_params, monkeypatch):
        own = PlannedJob("align", mini_params, model_config(mini_params, "llama_tiny"))
        monkeypatch.setattr(fit, "free_bytes", lambda _place: 2 * least(own))
        fit.start(own)
        monkeypatch.setattr(fit.processes, "world_size", lambda: 3)
        with pytest.raises(ResourceError, match="align: needs at least"):
            fit.start(own)
