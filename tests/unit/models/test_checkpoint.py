"""Somebody else's checkpoint: one of this model, or refused with what differs."""

import json
import shutil

import pytest
import torch
from made.models import write_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from atu.errors import ArtifactError
from atu.models.adapters import merge_adapter, read_adapter
from atu.models.checkpoint import place_checkpoint, require_checkpoint_of
from atu.models.folders import ADAPTER_WEIGHTS, ADAPTERS, is_adapter
from atu.models.llm import load_tokenizer, load_weights
from atu.models.pinned import PIN, file_digests
from atu.results.locks import Lock, Source

OTHER = ["Quite another text, of which other merges are learned: zigzag, puzzle, jazz."] * 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The original, and an adapter that changes what it says."""
    place = tmp_path_factory.mktemp("checkpoint")
    write_model(place / "original", "llama", layers=2)
    model = load_weights(place / "original", torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.1)
    adapted.save_pretrained(place / "adapter")
    return place


@pytest.fixture
def original(folders):
    return folders / "original"


@pytest.fixture
def copied(folders, tmp_path):
    """A function that copies one of the folders, to be changed."""

    def copy(name="original"):
        shutil.copytree(folders / name, tmp_path / "copy")
        return tmp_path / "copy"

    return copy


def change(path, edit):
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def test_the_same_tokenizer_saved_otherwise_is_the_same(copied, original):
    folder = copied()
    change(folder / "tokenizer.json", lambda v: v.update(padding=None, truncation=None))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=4))
    require_checkpoint_of(folder, original)


def test_a_padding_token_of_its_own_does_not_matter(copied, original):
    """Many fine-tuning scripts add one; no text has it."""
    folder = copied()
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    change(folder / "config.json", lambda v: v.update(vocab_size=len(tokenizer)))
    require_checkpoint_of(folder, original)
    change(folder / "config.json", lambda v: v.update(vocab_size=len(tokenizer) - 1))
    with pytest.raises(ArtifactError, match=r"has \d+ embeddings for \d+ tokens"):
        require_checkpoint_of(folder, original)


def swap(values):
    vocabulary = values["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def drop_merge(values):
    values["model"]["merges"].pop()


def lower(values):
    values["normalizer"] = {"type": "Lowercase"}


TOKENIZERS = {
    "vocabulary": ("tokenizer.json", swap, r"token \d+ of its tokenizer is not '[ab]'"),
    "merges": ("tokenizer.json", drop_merge, "merges letters otherwise"),
    "normaliser": ("tokenizer.json", lower, "gives other tokens for 'Question: Who"),
    "end": ("tokenizer_config.json", lambda v: v.update(eos_token=v["bos_token"]),
            "its eos_token is"),
    "template": (
        "tokenizer_config.json",
        lambda v: v.update(chat_template="{% for m in messages %}U: {{ m.content }}\n{% endfor %}"),
        "its chat template asks otherwise",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_differs_is_named(copied, original, name):
    file, edit, words = TOKENIZERS[name]
    folder = copied()
    change(folder / file, edit)
    with pytest.raises(ArtifactError, match=rf"copy: .*{words}.*copy the original's tokenizer fil"):
        require_checkpoint_of(folder, original)


def test_another_vocabulary(original, tmp_path):
    folder = write_model(tmp_path / "other", "llama", layers=2, texts=OTHER)
    with pytest.raises(ArtifactError, match="the vocabularies differ"):
        require_checkpoint_of(folder, original)


@pytest.mark.parametrize(
    ("key", "words"),
    [("hidden_size", "its hidden size is 64, the original's 32"),
     ("num_hidden_layers", "its number of layers is 64, the original's 2")],
)  # fmt: skip
def test_another_size(copied, original, key, words):
    folder = copied()
    change(folder / "config.json", lambda v: v.update({key: 64}))
    with pytest.raises(ArtifactError, match=words):
        require_checkpoint_of(folder, original)


def locked(folder, tmp_path):
    lock = tmp_path / "lock.json"
    Lock(content=file_digests(folder)).write(lock)
    return Source(str(folder), None, str(lock))


def job(tmp_path):
    (tmp_path / "job").mkdir()
    return lambda name: tmp_path / "job" / name


def test_a_folder_is_pinned(original, tmp_path):
    assert place_checkpoint(locked(original, tmp_path), job(tmp_path), None) == original
    assert [p.name for p in (tmp_path / "job").iterdir()] == [PIN]


def test_an_adapter_is_merged(folders, original, tmp_path):
    """q_proj gains scale x B A = 4/2 x (0.1 x 0.1 x 2) = 0.04 in every entry."""
    adapter = folders / "adapter"
    require_checkpoint_of(adapter, original)
    folder = place_checkpoint(locked(adapter, tmp_path), job(tmp_path), original)
    before, after = (load_file(f / "model.safetensors") for f in (original, folder))
    for name, weight in after.items():
        expected = before[name] + (0.04 if "q_proj" in name else 0.0)
        torch.testing.assert_close(weight, expected)
    require_checkpoint_of(folder, original)


def test_an_adapter_alone_is_no_model(folders, tmp_path):
    with pytest.raises(ArtifactError, match="an adapter alone is no model"):
        place_checkpoint(locked(folders / "adapter", tmp_path), job(tmp_path), None)


def test_an_adapter_of_another_model(folders, original, tmp_path):
    other = write_model(tmp_path / "wide", "phi3", layers=1)
    with pytest.raises(ArtifactError, match=r"q_proj is of size 32, and the original has no such"):
        require_checkpoint_of(folders / "adapter", other)
    tensors = load_file(folders / "adapter" / ADAPTER_WEIGHTS)
    grown = {k: v.repeat(1, 2) if "lora_A" in k else v for k, v in tensors.items()}
    shutil.copytree(folders / "adapter", tmp_path / "grown")
    save_file(grown, tmp_path / "grown" / ADAPTER_WEIGHTS)
    with pytest.raises(ArtifactError, match=r"q_proj is of size 64, and the original has \[32, 32"):
        require_checkpoint_of(tmp_path / "grown", original)


def test_an_adapter_with_a_tensor_that_has_no_place(folders, original, copied, tmp_path):
    folder = copied("adapter")
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    tensors["base_model.model.model.strange.weight"] = torch.zeros(2)
    save_file(tensors, folder / ADAPTER_WEIGHTS)
    with pytest.raises(ArtifactError, match="does not fit"):
        merge_adapter(folder, original, tmp_path / "merged")


ADAPTERS_REFUSED = {
    "kind": ({"peft_type": "IA3"}, "its peft_type is 'IA3'"),
    "bias": ({"bias": "all"}, "bias is 'all'"),
    "base": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    "module": ({"megatron_config": {"a": 1}}, "megatron_config is"),
    "layers": ({"layer_replication": [[0, 2]]}, "layer_replication is"),
}


@pytest.mark.parametrize("name", ADAPTERS_REFUSED)
def test_an_adapter_that_changes_more_is_refused(copied, name):
    values, words = ADAPTERS_REFUSED[name]
    folder = copied("adapter")
    change(folder / ADAPTERS, lambda v: v.update(values))
    with pytest.raises(ArtifactError, match=rf"{words}.*merge_and_unload"):
        read_adapter(folder)


def test_pickled_adapters_are_not_read(copied):
    folder = copied("adapter")
    (folder / ADAPTER_WEIGHTS).rename(folder / "adapter_model.bin")
    assert is_adapter(folder)
    with pytest.raises(ArtifactError, match=f"holds no {ADAPTER_WEIGHTS}"):
        file_digests(folder)
