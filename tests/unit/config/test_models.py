"""`load_model`: what a place can be."""

import shutil

import pytest
import torch
from made import models
from made.gguf import Made

from atu.config.models import load_model
from atu.errors import ArtifactError, ConfigError, SourceError
from atu.models.guards.base import guard_of
from atu.models.guards.logit_difference import LogitDifference
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.jobs import write_folder

CPU = {"device": "cpu", "precision": "float32"}


@pytest.fixture
def folder(tmp_path):
    return models.write_model(tmp_path / "model", "llama", 2)


@pytest.fixture
def job(folder, tmp_path):
    """A function that writes a job which holds the model; opened."""

    def write(phase, place="job", below="model/"):
        manifest = tmp_path / place / MANIFEST
        with write_folder(manifest, phase, cell={"model": "m"}, params={}, inputs={}) as job:
            for path in folder.iterdir():
                shutil.copyfile(path, job.path(f"{below}{path.name}"))
        return Artifact.open(manifest, phase)

    return write


def weights(loaded):
    return loaded.model.get_input_embeddings().weight


def test_a_folder_is_loaded_to_be_read(folder):
    found = load_model(folder, device="cpu", precision="bfloat16")
    assert found.source == folder and not found.model.training
    assert weights(found).dtype == torch.bfloat16 and weights(found).device.type == "cpu"
    assert "Parameter" not in repr(found) and "device='cpu'" in repr(found)


def test_a_gguf_is_dequantised_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATU_CACHE", str(tmp_path / "cache"))
    made = Made(tmp_path / "original")
    file = made.write(tmp_path / "own" / "tiny.gguf")
    found = load_model(file, **CPU)
    assert found.source.is_relative_to(tmp_path / "cache" / "models")
    assert torch.equal(weights(found), weights(load_model(made.folder, **CPU)))
    written = [path.stat().st_mtime_ns for path in sorted(found.source.iterdir())]
    again = load_model(file.parent, **CPU)
    assert again.source == found.source
    assert [path.stat().st_mtime_ns for path in sorted(again.source.iterdir())] == written


def test_a_job_is_named_by_its_folder_or_its_manifest(job):
    found = job("unlearn")
    for place in (found.folder, str(found.folder / MANIFEST)):
        assert load_model(place, **CPU).source == found


def test_a_key_is_the_model_before_unlearning(job, mini_params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"missing; run `snakemake pretrain` first"):
        load_model("llama_tiny", params=mini_params, **CPU)
    full = job("pretrain", f"results/{mini_params.experiment}/pretrain/llama_tiny/full")
    assert load_model("llama_tiny", params=mini_params, **CPU).source.digest == full.digest


@pytest.mark.parametrize(("phase", "below"), [("unlearn", "model/"), ("forget", "")])
def test_an_altered_job_is_refused(job, phase, below):
    """Also the result of `atu forget`, which is a Hugging Face folder itself."""
    place = job(phase, below=below).folder
    assert weights(load_model(place, **CPU)).isfinite().all()
    (place / f"{below}config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"config\.json: truncated or altered"):
        load_model(place, **CPU)


def test_a_guard_stands_around_its_model_and_is_saved(folder, tmp_path):
    model = load_model(folder, **CPU)
    LogitDifference.of(model.model, layers=1, alpha=1.0, top=0.1).attach(model.model)
    model.save(tmp_path / "guarded")
    assert isinstance(guard_of(load_model(tmp_path / "guarded", **CPU).model), LogitDifference)


@pytest.mark.parametrize(
    ("place", "options", "error", "message"),
    [
        ("nowhere", {}, ConfigError, r"place = 'nowhere': neither .* \(no parameters here\)"),
        ("own/er", {}, SourceError, "own/er: neither a folder nor in the local hub cache"),
        ("model", {"device": "tpu"}, ConfigError, r"load_model\.device = 'tpu'"),
        ("model", {"precision": "float16"}, ConfigError, r"load_model\.precision = 'float16'"),
        ("model", {"attention": "flash_attention_2", "device": "cpu"}, ConfigError, "use sdpa"),
        ("align", {}, ArtifactError, "holds phase 'align', but 'unlearn' was expected"),
        ("empty", {}, ArtifactError, r"holds no \*\.safetensors"),
        ("model/model.safetensors", {}, ArtifactError, r"one file of a model; name its folder"),
        ("m.gguf", {}, ArtifactError, r"m\.gguf: does not begin with `GGUF`"),
        ("pip:a-model==1", {}, SourceError, r"pip:a-model==1: is not in .*`atu fetch` brings it"),
        ("pip:a-model", {}, SourceError, r"pip:a-model: names no version.*`pip:package==version`"),
    ],
)
def test_what_is_no_model_is_refused(folder, tmp_path, monkeypatch, place, options, error, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATU_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.gguf").touch()
    with write_folder(tmp_path / "align" / MANIFEST, "align", cell={}, params={}, inputs={}):
        pass
    with pytest.raises(error, match=message):
        load_model(place, **options)


def test_an_unknown_name_is_told_the_known_ones(mini_params):
    with pytest.raises(ConfigError, match=r"nor in pretrain\.models \(llama_tiny\)"):
        load_model("llama_tin", params=mini_params)
