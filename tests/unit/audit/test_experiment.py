"""The parameter file of `atu audit`, and what it refuses before anything is computed."""

from pathlib import Path

import pytest
import yaml
from made.models import write_model

from atu.audit.command import AuditRequest, run
from atu.audit.experiment import EXPERIMENT_OF, Models, experiment_file, render
from atu.config.load import check_values
from atu.errors import AtuError, ConfigError
from atu.forget.experiment import Shape
from atu.results.locks import Source

SMALL = Shape(4, 32)
THEIRS, ORIGINAL, ORACLE = (Source(name, None, f"{name}.json") for name in ("t", "o", "r"))
ALL = Models(THEIRS, ORIGINAL, ORACLE)


def made(benchmark="tofu", models=ALL, **changes):
    """The parsed file."""
    options = {"targets": ("forget10",), "attacks": None, "data": None} | changes
    return yaml.safe_load(render(experiment_file(benchmark, None), models, SMALL, **options))


@pytest.mark.parametrize("benchmark", EXPERIMENT_OF)
def test_every_benchmark_gives_a_valid_file(benchmark):
    """For a model of four layers, whatever the experiment's own has."""
    target = made(benchmark, targets=("x",))["grid"]["targets"][0]
    values = made(benchmark, targets=(target,))
    assert check_values(values, across=False).grid.methods == ["none", "oracle", "checkpoint"]
    assert max(values["align"]["hook_layers"]) < 4
    assert values["search"]["spaces"] == {}


def test_what_was_not_given_is_left_out():
    values = made(models=Models(THEIRS, None, None))
    assert values["grid"]["methods"] == ["checkpoint"]
    assert values["pretrain"]["models"]["model"]["source"]["place"] == "t"
    assert values["pretrain"]["models"]["model"]["oracles"] == {}
    values = made(models=Models(THEIRS, ORIGINAL, None))
    assert values["grid"]["methods"] == ["none", "checkpoint"]
    assert values["pretrain"]["models"]["model"]["source"]["place"] == "o"


def test_every_target_has_the_oracle():
    model = made(targets=("forget05", "forget10"))["pretrain"]["models"]["model"]
    oracles = {k: v["place"] for k, v in model["oracles"].items()}
    assert oracles == {
        "forget05": "r",
        "forget10": "r",
    }


def test_paths_are_those_of_the_checkout(tmp_path, monkeypatch):
    """The work folder is another one."""
    monkeypatch.chdir(tmp_path)
    lock = Path(made()["prepare"]["source"]["lock"])
    assert lock.is_absolute() and lock.parts[-3:] == ("experiments", "locks", "tofu.json")


def test_paths_of_a_file_elsewhere_are_those_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    values = made()
    values["prepare"]["source"] = {"place": "mine", "revision": None, "lock": "mine.json"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    text = render(
        tmp_path / "mine.yaml", ALL, SMALL, targets=("forget10",), attacks=(), data=None
    )  # fmt: skip
    found = yaml.safe_load(text)["prepare"]["source"]
    assert found["place"] == str(tmp_path / "mine") and found["lock"] == str(tmp_path / "mine.json")


def test_other_data_is_locked_anew(tmp_path):
    source = made(data=tmp_path)["prepare"]["source"]
    assert source == {"place": str(tmp_path), "revision": None, "lock": "locks/source.json"}
    with pytest.raises(ConfigError, match="world has 0 sources"):
        made("world", data=tmp_path)


def test_an_encoder_is_needed_by_one_attack_alone():
    assert made()["embed"]["encoder"] == "all-MiniLM-L6-v2"
    values = made("world", targets=("x",), attacks=("fresh_predictor",))
    assert values["attack"]["attacks"]["fresh_predictor"]["layers"] == [2, 3]
    small = render(
        experiment_file("world", None), ALL, Shape(3, 32), targets=("x",), attacks=None, data=None
    )  # fmt: skip
    assert yaml.safe_load(small)["attack"]["attacks"]["fresh_predictor"]["layers"] == [2]


REFUSED = {
    "nothing to ask": ({"benchmark": None}, r"--benchmark = None: name a benchmark, or"),
    "twice": ({"params": Path("mine.yaml")}, r"not both"),
    "no benchmark": ({"benchmark": "xy"}, r"known are world, .*--params"),
    "no target": (
        {"targets": ()},
        r"--target = None: name what the checkpoint has forgotten",
    ),
    "no attack": ({"attacks": ("xy",)}, r"--attack = 'xy': not in .*which has sampling"),
    "no model": ({"model": "./nowhere"}, r"--model = './nowhere': no such folder"),
    "no oracle": ({"oracle": "bert"}, r"--oracle = 'bert': no such folder, and no `owner/name`"),
    "work in out": ({"work": "out/work"}, r"is the folder of --out or in it"),
}


@pytest.fixture
def request_of(tmp_path):
    """A function that gives a request for a made model, with changes."""

    def make(model=None, work="work", **changes):
        values = {
            "original": None, "oracle": None, "benchmark": "tofu", "params": None, "data": None,
            "targets": ("forget10",), "attacks": None, "offline": True, "cores": 1,
        } | changes  # fmt: skip
        place = model or str(write_model(tmp_path / "model", "llama", layers=2))
        return AuditRequest(model=place, out=tmp_path / "out", work=tmp_path / work, **values)

    return make


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_leaves_nothing(request_of, tmp_path, name):
    changes, words = REFUSED[name]
    with pytest.raises(AtuError, match=words):
        run(request_of(**changes), dry_run=True)
    assert not (tmp_path / "work").exists() and not (tmp_path / "out").exists()


def test_an_adapter_needs_the_original(request_of, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1}', encoding="utf-8")
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"--original.*is an adapter: name the model that it was"):
        run(request_of(model=str(adapter)), dry_run=True)


def test_somebody_elses_folder_is_not_overwritten(request_of, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(AtuError, match="holds files that `atu audit` did not write"):
        run(request_of(), dry_run=True)
