"""Models that exist: found, compared with their lock, and pinned instead of copied."""

from dataclasses import replace

import pytest
from made.models import write_model

from atu.errors import ArtifactError, SourceError
from atu.models.pinned import (
    PIN,
    file_digests,
    is_pinned,
    locate,
    model_folder,
    parameter_count,
    pin,
)
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import sha256, write_json
from atu.results.jobs import write_folder
from atu.results.locks import Lock, Source

COMMIT = "c" * 40


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "model", "llama", layers=1)


@pytest.fixture
def source(folder, tmp_path):
    """The model's source, locked."""
    found = Source(str(folder), None, str(tmp_path / "lock.json"))
    Lock(content=file_digests(folder)).write(tmp_path / "lock.json")
    return found


@pytest.fixture
def pinned(source, tmp_path):
    """A job's folder that pins the model."""
    with write_folder(
        tmp_path / "job" / MANIFEST, "pretrain", cell={}, params={}, inputs={}
    ) as job:
        write_json(job.path(PIN), pin(source))
    return Artifact.open(tmp_path / "job" / MANIFEST, "pretrain")


def alter(path):
    """Another content of the same length."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_a_pin_names_every_file(source, folder):
    found = pin(source)
    assert found["place"] == str(folder) and found["revision"] is None
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
             "tokenizer_config.json"}  # fmt: skip
    assert names <= set(found["files"])
    assert found["files"]["config.json"] == sha256(folder / "config.json")


def test_weights_stay_where_they_are(pinned, folder):
    assert is_pinned(pinned) and set(pinned.manifest["artifacts"]) == {PIN, "metrics.json"}
    assert model_folder(pinned) == folder


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_altered_since_is_named(pinned, folder, name):
    alter(folder / name)
    with pytest.raises(SourceError, match=rf"{name}: altered since .*`atu fetch --update`"):
        model_folder(pinned)


def test_a_pinned_file_that_is_gone_is_named(pinned, folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"tokenizer\.json: is pinned by .*job but missing"):
        model_folder(pinned)


def test_a_weight_that_is_not_the_locked_one_is_not_pinned(source, folder):
    alter(folder / "model.safetensors")
    with pytest.raises(SourceError, match=r"'model\.safetensors' is altered"):
        pin(source)


def test_a_locked_file_that_is_gone_is_named(source, folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"tokenizer\.json: is in .*lock\.json but missing"):
        pin(source)


def test_a_file_that_is_not_locked_is_named(source, folder):
    """It could change what transformers loads."""
    (folder / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SourceError, match=r"has no entry for 'special_tokens_map\.json'"):
        pin(source)


def test_code_and_pickles_are_no_part_of_a_pin(source, folder):
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_own.py").write_text("", encoding="utf-8")
    assert not {"pytorch_model.bin", "modeling_own.py"} & set(pin(source)["files"])
    assert "modeling_own.py" in file_digests(folder, code=True)


def test_only_pickled_weights_are_refused(source, folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"only pytorch_model\.bin, which would run code"):
        pin(source)


def test_adapters_are_refused(source, folder):
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match="adapters name another model to load"):
        pin(source)


def test_without_a_lock_nothing_is_pinned(source, tmp_path):
    (tmp_path / "lock.json").unlink()
    with pytest.raises(SourceError, match="`atu fetch` writes it"):
        pin(source)


def test_a_lock_of_another_commit_is_refused(source, tmp_path):
    Lock(COMMIT).write(tmp_path / "lock.json")
    with pytest.raises(SourceError, match="is requested"):
        pin(replace(source, revision="d" * 40))


@pytest.mark.parametrize("place", ["owner/name", "no name at all", "a/b/c"])
def test_what_is_neither_here_nor_in_the_cache_is_named(tmp_path, monkeypatch, place):
    """Without asking the network."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    source = Source(place, None, "lock.json")
    with pytest.raises(SourceError, match=f"{place}: neither a folder nor .*`atu fetch` downloads"):
        locate(source)


@pytest.mark.parametrize(("given", "expected"), [(None, "main"), (COMMIT, COMMIT)])
def test_the_cache_is_asked_for_the_commit(tmp_path, monkeypatch, given, expected):
    calls = []

    def cached(*args, **options):
        calls.append((args, options))
        return str(tmp_path / "snapshots" / "config.json")

    monkeypatch.setattr("transformers.utils.cached_file", cached)
    assert locate(Source("o/n", "main", "lock.json"), given) == tmp_path / "snapshots"
    asked = {"revision": expected, "local_files_only": True}
    assert calls == [(("o/n", "config.json"), asked)]


def test_parameters_are_counted_from_headers(folder):
    """One layer of the made llama: embedding and head 400 x 32 each; q 32 x 32, k and v 16 x 32, o
    32 x 32; three matrices of 32 x 48; norms 3 x 32."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    vocabulary = weights["model.embed_tokens.weight"].shape[0]
    layer = 32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 48 + 3 * 32
    tied = 1 if "lm_head.weight" not in weights else 2
    assert parameter_count(folder) == tied * vocabulary * 32 + layer
