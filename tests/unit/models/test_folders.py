"""Model folders that somebody else made: what is refused, and that nothing of them runs."""

import json
import pickle
import shutil
import struct

import pytest
import torch
from machines import CPU

from atu.errors import ArtifactError, ConfigError
from atu.models.build import build_lm
from atu.models.encoder import BUNDLED, SentenceEncoder, locate_encoder
from atu.models.folders import check_config, check_model_folder, refuse_file
from atu.models.llm import load_lm, save_lm


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_lm, byte_tokenizer):
    """A model folder that is in order."""
    folder = tmp_path_factory.mktemp("saved")
    save_lm(tiny_lm(), byte_tokenizer, folder)
    return folder


@pytest.fixture
def folder(tmp_path, saved):
    """A copy of it to spoil."""
    return shutil.copytree(saved, tmp_path / "model")


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_in_order_is_loaded(folder):
    check_model_folder(folder)
    assert load_lm(folder, CPU, training=True)[0].config.model_type == "llama"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "m.CKPT"])
def test_pickled_weights_alone_are_refused_unread(folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(ArtifactError, match=f"only {name}, which would run code"):
        load_lm(folder, CPU, training=True)
    assert not (tmp_path / "ran").exists()


GPTQ = {"quant_method": "gptq", "bits": 4}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def only(name):
    """Another file in place of the weights."""
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def quantised(values):
    """A configuration that says so."""
    return lambda folder: edit(folder / "config.json", quantization_config=values)


WEIGHTS = {
    "GGUF": (
        only("model-Q4_K_M.gguf"),
        r"only GGUF \(model-Q4_K_M\.gguf\); make .*`atu model FILE\.gguf --out FOLDER`",
    ),
    "pickles": (
        only("pytorch_model.bin"), r"only pytorch_model\.bin, which would run code; load it once"
    ),
    "nothing": (
        lambda folder: (folder / "model.safetensors").unlink(), "so it is no model; name the folder"
    ),
    "GPTQ": (quantised(GPTQ), "quantised by GPTQ .*name the folder of the model that it was made"),
    "AWQ": (quantised({"quant_method": "awq"}), "quantised by AWQ .*in full precision"),
    "bitsandbytes": (quantised(BNB), r"quantised by bitsandbytes .*call `dequantize\(\)`"),
    "an old bitsandbytes": (quantised({"load_in_8bit": True}), "quantised by bitsandbytes"),
    "something else": (quantised({"quant_method": "fp8"}), "quantised by 'fp8' "),
    "an old GPTQ": (
        lambda folder: (folder / "quantize_config.json").write_text("{}"), "quantised by GPTQ"
    ),
}  # fmt: skip
"""What somebody might name as a model's folder, and what is said of it."""


@pytest.mark.parametrize(("spoil", "said"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_of_another_kind_are_named_with_their_repair(folder, spoil, said):
    """Before anything of them is read."""
    spoil(folder)
    with pytest.raises(ArtifactError, match=said):
        load_lm(folder, CPU, training=True)


@pytest.mark.parametrize("values", [{}, None])
def test_an_empty_quantisation_is_none(folder, values):
    edit(folder / "config.json", quantization_config=values)
    check_model_folder(folder)


def test_a_gguf_beside_safetensors_is_never_opened(folder):
    before, _ = load_lm(folder, CPU, training=True)
    (folder / "model.gguf").write_bytes(b"GGUF")
    model, _ = load_lm(folder, CPU, training=True)
    assert all(map(torch.equal, model.parameters(), before.parameters()))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.safetensors", r"is one file of a model; name its folder, .*model$"),
        ("config.json", r"is one file of a model; name its folder"),
        ("m.BIN", r"is a file of pickled weights, which would run code; "),
        ("../notes.txt", r"is a file; name the folder of a Hugging Face model"),
    ],
)
def test_a_file_in_place_of_a_folder(folder, name, said):
    path = folder / name
    path.touch()
    with pytest.raises(ArtifactError, match=said):
        refuse_file(path)
    refuse_file(folder)
    refuse_file(folder / "nowhere")
    refuse_file(folder / ("x" * 1000))


def test_pickles_beside_safetensors_are_never_opened(folder, tmp_path):
    """As in most folders of the hub. That the payload works is shown by reading it."""
    content = pickle.dumps(Payload(tmp_path / "ran"))
    for name in ("pytorch_model.bin", "training_args.bin", "tokenizer.pkl", "optimizer.pt"):
        (folder / name).write_bytes(content)
    load_lm(folder, CPU, training=True)
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)
    assert (tmp_path / "ran").exists()


CODE_MAP = {
    "AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None],
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "change"),
    [("config.json", {"model_type": "unheard_of"}), ("tokenizer_config.json", {})],
)
def test_code_of_the_folder_is_refused_and_does_not_run(folder, tmp_path, file, change):
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    edit(folder / file, auto_map=CODE_MAP, **change)
    with pytest.raises(ArtifactError, match=rf"{file}: auto_map names code to run"):
        load_lm(folder, CPU, training=True)
    assert not (tmp_path / "ran").exists()


def test_code_beside_an_architecture_that_transformers_has_does_not_run(folder, tmp_path):
    """As in the hub's folders of Phi-3: the library's own class is taken. That the code would run
    if it were trusted is shown by running it."""
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nC = M = None\n")
    edit(folder / "config.json", auto_map=CODE_MAP)
    model, _ = load_lm(folder, CPU, training=True)
    assert type(model).__module__.startswith("transformers.models.")
    assert not (tmp_path / "ran").exists()
    exec((folder / "evil.py").read_text(), {})
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("attn_implementation", "evil/kernel", "names a kernel to fetch"),
        ("transformers_weights", "../other.safetensors", "names a file of weights"),
        ("text_config", {"auto_map": {"AutoModel": "a.B"}}, "auto_map names code"),
        ("num_hidden_layers", 10**9, "more than 1000"),
    ],
)
def test_a_configuration_that_reaches_out_is_refused(folder, key, value, reason):
    edit(folder / "config.json", **{key: value})
    with pytest.raises(ArtifactError, match=reason):
        load_lm(folder, CPU, training=True)


def test_a_configuration_is_refused_before_a_model_is_built_from_it():
    with pytest.raises(ValueError, match="auto_map"):
        build_lm({"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "a.B"}}, 0)
    check_config({"model_type": "llama", "attn_implementation": "sdpa", "num_hidden_layers": 1000})


def test_adapters_that_name_another_model_are_refused(folder, tmp_path):
    content = {"base_model_name_or_path": str(tmp_path / "other"), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"adapter_config\.json: adapters name another model"):
        load_lm(folder, CPU, training=True)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/x.safetensors", "a/../../b"])
def test_an_index_that_names_files_elsewhere_is_refused(folder, name):
    content = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"index\.json: .*not a path inside the folder"):
        load_lm(folder, CPU, training=True)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_of_another_shape_is_refused(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"index\.json: "):
        check_model_folder(folder)


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    outside = tmp_path / "outside"
    shutil.move(folder / "model.safetensors", outside)
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: a link out of the folder"):
        load_lm(folder, CPU, training=True)


def test_a_loop_of_links_is_refused(folder):
    (folder / "a.safetensors").symlink_to("b.safetensors")
    (folder / "b.safetensors").symlink_to("a.safetensors")
    (folder / "c").symlink_to(folder.parent)
    with pytest.raises(ArtifactError, match="c: a link out of the folder"):
        check_model_folder(folder)


def test_the_hub_caches_links_to_its_blobs_are_followed(folder, tmp_path):
    """`models--x/snapshots/<revision>/f` is a link to `models--x/blobs/<sha256>`."""
    blobs, snapshot = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        shutil.copy(path, blobs)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    load_lm(snapshot, CPU, training=True)
    (snapshot / "notes.txt").symlink_to("../../../model/config.json")
    with pytest.raises(ArtifactError, match=r"notes\.txt: a link out"):
        load_lm(snapshot, CPU, training=True)


def header(size, text=b""):
    return struct.pack("<Q", size) + text


EVIL = {
    "a pickle": pickle.dumps({"a": [1]}),
    "a header longer than the file": header(2**63),
    "no JSON": header(4, b"evil"),
    "deep JSON": header(100_000, b"[" * 100_000),
    "offsets outside": header(
        62, b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,99999999]}}  '
    ),
    "a shape without end": header(
        78, b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}      abcd'
    ),
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("kind", EVIL)
def test_safetensors_with_an_evil_header_are_one_message(folder, kind):
    (folder / "model.safetensors").write_bytes(EVIL[kind])
    with pytest.raises(ArtifactError, match="cannot be loaded as a model"):
        load_lm(folder, CPU, training=True)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", '{"version": "1.0"}', ""])
def test_a_damaged_tokenizer_is_one_message(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ArtifactError, match="cannot be loaded as a model"):
        load_lm(folder, CPU, training=True)


def test_a_guard_of_other_weights_is_one_message(folder):
    (folder / "guard.json").write_text(json.dumps({"kind": "embedding_noise", "settings": {}}))
    with pytest.raises(ArtifactError, match="cannot be loaded as a model: KeyError"):
        load_lm(folder, CPU, training=True)


def test_an_encoder_folder_is_checked_before_any_job(tmp_path, mini_values):
    import copy

    from atu.config.load import check_values

    folder = shutil.copytree(locate_encoder(BUNDLED), tmp_path / "encoder")
    values = copy.deepcopy(mini_values)
    values["embed"]["encoder"] = str(folder)
    check_values(values)
    edit(folder / "config.json", auto_map={"AutoModel": "evil.M"}, model_type="unheard_of")
    with pytest.raises(ConfigError, match=r"embed\.encoder.*auto_map names code to run"):
        check_values(values)
    with pytest.raises(ArtifactError, match="auto_map"):
        SentenceEncoder(str(folder), CPU.place)


def test_an_encoder_of_pickled_weights_is_refused(tmp_path):
    folder = shutil.copytree(locate_encoder(BUNDLED), tmp_path / "encoder")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"only pytorch_model\.bin"):
        SentenceEncoder(str(folder), CPU.place)
