"""Code in a model's folder runs for the models that the parameters list for it, and no others."""

import json
from dataclasses import replace

import pytest
import torch
from machines import CPU

from atu.errors import ArtifactError
from atu.models.llm import hidden_states, load_lm, open_lm, open_tokenizer, save_lm
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.jobs import write_folder

MODELING = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM
pathlib.Path({mark!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own_llama"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
IDS = torch.tensor([[1, 5, 6]])


@pytest.fixture
def mark(tmp_path):
    """A file that is there once the code has run."""
    return tmp_path / "ran"


@pytest.fixture
def own(tmp_path, mark, tiny_lm, byte_tokenizer):
    """A pretrain folder of the model `m`, whose class is in its folder."""
    cell = {"model": "m", "oracle_of": None}
    with write_folder(
        tmp_path / "full" / MANIFEST, "pretrain", cell=cell, params={}, inputs={}
    ) as job:
        folder = job.path("model")
        save_lm(tiny_lm(vocab_size=259), byte_tokenizer, folder)
        (folder / "modeling_own.py").write_text(MODELING.format(mark=str(mark)), encoding="utf-8")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config |= {
            "model_type": "own_llama",
            "auto_map": {
                "AutoConfig": "modeling_own.OwnConfig",
                "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
            },
        }
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return Artifact.open(tmp_path / "full" / MANIFEST, "pretrain")


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """transformers copies code to a cache of modules: here one of the test's own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.syspath_prepend(str(tmp_path / "hf"))


@pytest.mark.parametrize("listed", [[], ["another"]])
def test_code_of_a_model_that_is_not_listed_is_refused(own, mark, listed):
    with pytest.raises(
        ArtifactError, match=r"modeling_own\.py: code .* compute\.remote_code lists"
    ):
        open_lm(own, replace(CPU, remote_code=listed), training=True)
    with pytest.raises(ArtifactError, match=r"compute\.remote_code lists"):
        open_tokenizer(own, replace(CPU, remote_code=listed))
    with pytest.raises(ArtifactError, match=r"auto_map names code to run .* compute\.remote_code"):
        load_lm(own.folder / "model", CPU, training=True)
    assert not mark.exists()


def test_code_of_a_listed_model_runs_and_is_saved_with_it(own, mark, tmp_path, tiny_lm):
    """What is saved loads again by the same switch, and by no other way."""
    compute = replace(CPU, remote_code=["m"])
    model, tokenizer = open_lm(own, compute, training=True)
    assert mark.exists() and type(model).__name__ == "OwnForCausalLM"
    expected = tiny_lm(vocab_size=259)(IDS).logits
    assert torch.equal(model(IDS).logits, expected)
    assert hidden_states(model, IDS, torch.ones_like(IDS), 1).shape == (1, 3, 16)
    with write_folder(
        tmp_path / "unlearned" / MANIFEST, "unlearn", cell={"model": "m"}, params={}, inputs={}
    ) as job:
        save_lm(model, tokenizer, job.path("model"))
    again = Artifact.open(tmp_path / "unlearned" / MANIFEST, "unlearn")
    assert "model/modeling_own.py" in again.manifest["artifacts"]
    assert torch.equal(open_lm(again, compute, training=True)[0](IDS).logits, expected)
    with pytest.raises(ArtifactError, match="code of a model"):
        open_lm(again, CPU, training=True)


def test_code_from_elsewhere_is_refused_for_a_listed_model(own, mark):
    """`repository--module.Class` names code that is not in the folder."""
    path = own.folder / "model/config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["auto_map"]["AutoModelForCausalLM"] = "other/place--modeling_own.OwnForCausalLM"
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ArtifactError, match="auto_map names code to run"):
        load_lm(own.folder / "model", CPU, training=True, code=True)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["tool.py", "model/weights.bin", "model/tool.pyc"])
def test_no_other_code_is_in_a_result(own, name):
    """Python beside the model's folder, and what is unpickled in it."""
    content = json.loads((own.folder / MANIFEST).read_text(encoding="utf-8"))
    content["artifacts"][name] = {"bytes": 1, "sha256": "0" * 64}
    (own.folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ArtifactError, match="a kind of file that runs code"):
        Artifact.open(own.folder / MANIFEST, "pretrain")
