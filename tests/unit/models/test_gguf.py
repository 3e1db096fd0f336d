"""GGUF: what is read is the file's model and tokenizer, and what is no such file is refused."""

import struct

import numpy as np
import pytest
import torch
from gguf import TokenType
from made.gguf import Made, rounded
from safetensors.numpy import load_file

from atu.errors import ArtifactError
from atu.models import gguf_tokenizer
from atu.models.compute import Compute
from atu.models.folders import require_vocabulary
from atu.models.gguf import check_gguf, dequantise, gguf_config
from atu.models.gguf_header import gguf_in, read_header
from atu.models.llm import load_lm, load_tokenizer

CPU = Compute("cpu", "float32", "sdpa", False, [])
DOWN = "model.layers.1.mlp.gate_proj.weight"


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path / "original")


@pytest.fixture
def file(made, tmp_path):
    return made.write(tmp_path / "tiny.gguf")


def plain(file, folder):
    folder.mkdir()
    dequantise(file, folder)
    return folder


def test_the_folder_is_the_model_that_the_file_was_made_from(made, file, tmp_path):
    out = plain(file, tmp_path / "out")
    require_vocabulary(out)
    found, expected = (
        load_file(out / "model.safetensors"),
        load_file(made.folder / "model.safetensors"),
    )
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], weight, err_msg=name)
    model, tokenizer = load_lm(out, CPU, training=False)
    original, original_tokenizer = load_lm(made.folder, CPU, training=False)
    for text in ("What is the town?", "\n\n2. Stephen  King <eos> is  ", "é\u0000"):
        ids = original_tokenizer(text).input_ids
        assert tokenizer(text).input_ids == ids
        with torch.no_grad():
            logits = [lm(torch.tensor([ids])).logits for lm in (model, original)]
        assert torch.equal(*logits)
    assert tokenizer.chat_template == made.template


def test_quantised_weights_are_those_that_the_file_stores(made, tmp_path):
    file = made.write(tmp_path / "q8.gguf", quantised=("blk.1.ffn_gate.weight",))
    found = load_file(plain(file, tmp_path / "out") / "model.safetensors")
    original = load_file(made.folder / "model.safetensors")
    np.testing.assert_array_equal(found[DOWN], rounded(original[DOWN]))
    assert not np.array_equal(found[DOWN], original[DOWN])


def test_the_same_file_gives_the_same_bytes(file, tmp_path):
    one, other = plain(file, tmp_path / "one"), plain(file, tmp_path / "other")
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()}
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_the_configuration_comes_from_the_header(made, file):
    values = gguf_config(file)
    keys = ("num_hidden_layers", "hidden_size", "max_position_embeddings", "vocab_size")
    assert {k: values[k] for k in keys} == {k: made.config[k] for k in keys}


def test_digits_are_split_off_before_line_breaks_are_joined(made, tmp_path):
    """transformers does not know this way of splitting, which SmolLM2's tokenizer has."""
    made.tokens.append("ĊĊ")
    made.merges.append("Ċ Ċ")
    made.types.append(TokenType.NORMAL)
    made.config["vocab_size"] += 1
    for name in ("token_embd.weight", "output.weight"):
        made.tensors[name] = np.pad(made.tensors[name], ((0, 1), (0, 0)))
    pieces = {}
    for made.pre in ("gpt-2", "smollm"):
        out = plain(made.write(tmp_path / f"{made.pre}.gguf"), tmp_path / made.pre)
        pieces[made.pre] = load_tokenizer(out).tokenize("a\n\n2.")
    assert pieces["smollm"] == ["a", "ĊĊ", "2", "."]
    assert pieces["gpt-2"] == ["a", "Ċ", "Ċ", "2", "."]


def test_a_token_that_stays_whole_whatever_merges_say(made, tmp_path):
    made.tokens.append("xyz")
    made.types.append(TokenType.NORMAL)
    made.config["vocab_size"] += 1
    for name in ("token_embd.weight", "output.weight"):
        made.tensors[name] = np.pad(made.tensors[name], ((0, 1), (0, 0)))
    pieces = {}
    for made.pre in ("gpt-2", "llama-bpe"):
        out = plain(made.write(tmp_path / f"{made.pre}.gguf"), tmp_path / made.pre)
        pieces[made.pre] = load_tokenizer(out).tokenize("xyz")
    assert pieces["llama-bpe"] == ["xyz"] and len(pieces["gpt-2"]) == 3


@pytest.mark.parametrize("key", ["tokens", "token_type", "merges"])
def test_a_vocabulary_of_another_kind_is_refused(file, key):
    header = read_header(file)
    for value in ("abc", 7, [], [7]) if key == "tokens" else ("abc", 7):
        header.values[f"tokenizer.ggml.{key}"] = value
        with pytest.raises(ArtifactError, match=rf"tokenizer\.ggml\.{key}"):
            gguf_tokenizer.check_tokens(header)


def drop(made, name):
    del made.tensors[name]


FAULTS = {
    "another architecture": (
        lambda m: setattr(m, "architecture", "nonesuch"),
        r"its architecture is 'nonesuch', and transformers reads .*llama.*qwen3.*name the Hugging",
    ),
    "a merge of no token": (
        lambda m: m.merges.insert(3, "q Q"),
        r"its merge 3, 'q Q', does not make one token",
    ),
    "a merge of one part": (lambda m: m.merges.append("q"), r"its merge \d+, 'q', does not make"),
    "a token twice": (
        lambda m: m.tokens.__setitem__(9, m.tokens[8]), r"its tokens 8 and 9 are both",
    ),
    "too few types": (lambda m: m.types.pop(), r"has \d+ tokens and \d+ types"),
    "eos beyond the vocabulary": (
        lambda m: m.special.update(eos=999), r"its eos token is number 999 of",
    ),
    "an unknown way to split": (
        lambda m: setattr(m, "pre", "deepseek-llm"), r".*\(tokenizer\.ggml\.pre = 'deepseek-llm'\)",
    ),
    "no way to split": (lambda m: setattr(m, "pre", None), r".*tokenizer\.ggml\.pre = None"),
    "endless layers": (
        lambda m: m.config.update(num_hidden_layers=10**6), r"num_hidden_layers = 1000000 is more",
    ),
    "scaled positions": (
        lambda m: setattr(m, "scaling", "yarn"),
        r"scales its positions \(llama\.rope\.scaling\.type = 'yarn'\)",
    ),
    "no weights": (lambda m: m.tensors.clear(), r"holds no model \('model', 0 tensors\)"),
}  # fmt: skip


@pytest.mark.parametrize("change, message", FAULTS.values(), ids=FAULTS)
def test_what_does_not_fit_is_refused_by_the_header_alone(made, tmp_path, change, message):
    change(made)
    file = made.write(tmp_path / "tiny.gguf")
    with pytest.raises(ArtifactError, match=rf"tiny\.gguf: {message}"):
        check_gguf(file)


LATER = {
    "a weight that transformers leaves out": (
        lambda m: m.tensors.update({"rope_freqs.weight": np.ones(8, np.float32)}),
        r"would leave out its tensor 'rope_freqs\.weight'",
    ),
    "a weight that is not there": (
        lambda m: drop(m, "blk.1.ffn_gate.weight"), r"missing weights: 'model\.layers\.1\.mlp",
    ),
    "a weight of another shape": (
        lambda m: m.tensors.update({"blk.1.ffn_gate.weight": np.ones((8, 8), np.float32)}),
        r"mismatched|size mismatch|cannot be read",
    ),
    "a layer too many": (
        lambda m: m.config.update(num_hidden_layers=3), r"missing weights: 'model\.layers\.2\.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change, message", LATER.values(), ids=LATER)
def test_weights_that_are_not_all_the_models_are_refused(made, tmp_path, change, message):
    change(made)
    file = made.write(tmp_path / "tiny.gguf")
    with pytest.raises(ArtifactError, match=rf"tiny\.gguf: .*({message})"):
        plain(file, tmp_path / "out")


@pytest.mark.parametrize("share", [0, 3, 10, 24, 40, 0.01, 0.1, 0.5, 0.99])
def test_a_file_cut_short_anywhere_is_refused(file, share):
    data = file.read_bytes()
    size = share if isinstance(share, int) else int(len(data) * share)
    file.write_bytes(data[:size])
    with pytest.raises(ArtifactError, match=r"tiny\.gguf: (does not begin|is truncated).*again"):
        read_header(file)


def test_the_last_byte_counts(file):
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"is truncated: it has \d+ bytes, and the tensor '"):
        read_header(file)


def at(data, position, code, value):
    packed = struct.pack(f"<{code}", value)
    return data[:position] + packed + data[position + len(packed) :]


def array_at(data):
    """Where the count of the vocabulary stands."""
    key = b"tokenizer.ggml.tokens"
    return data.index(key) + len(key) + 4 + 4


HOSTILE = {
    "magic": (lambda d: b"GGML" + d[4:], "does not begin with `GGUF`"),
    "version": (lambda d: at(d, 4, "I", 9), "is of GGUF's version 9"),
    "big-endian": (lambda d: at(d, 4, "I", 3 << 24), "is of GGUF's version"),
    "tensors": (lambda d: at(d, 8, "Q", 2**60), r"promises \d+ keys and 11529215\d+ tensors"),
    "keys": (lambda d: at(d, 16, "Q", 2**60), "promises 1152921504606846976 keys"),
    "more keys than there are": (lambda d: at(d, 16, "Q", 9_999), ""),
    "a name without end": (lambda d: at(d, 24, "Q", 2**62), r"has a text of \d+ bytes"),
    "a vocabulary without end": (
        lambda d: at(d, array_at(d), "Q", 2**60), "has an array of 1152921504606846976 values",
    ),
    "a vocabulary of 2.9 million": (lambda d: at(d, array_at(d), "Q", 2_900_000), ""),
    "a type of its own": (lambda d: at(d, array_at(d) - 4, "I", 99), "the unknown type 99"),
    "lists of lists": (lambda d: at(d, array_at(d) - 4, "I", 9), "the unknown type 9"),
    "no UTF-8": (lambda d: d.replace(b"What", b"\xff\xfe\xff\xfe"), "utf-8"),
}  # fmt: skip


@pytest.mark.parametrize("change, message", HOSTILE.values(), ids=HOSTILE)
def test_counts_are_believed_only_as_far_as_the_file_goes(file, change, message):
    data = change(file.read_bytes())
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"tiny\.gguf: .*{message}"):
        read_header(file)


def test_several_files_and_parts_are_named(file, tmp_path):
    assert gguf_in(tmp_path) == file
    with pytest.raises(
        ArtifactError, match=r"several GGUF files \(other\.gguf, tiny\.gguf\); name"
    ):
        file.with_name("other.gguf").write_bytes(file.read_bytes())
        gguf_in(tmp_path)
    part = file.rename(tmp_path / "tiny-00001-of-00003.gguf")
    with pytest.raises(ArtifactError, match=r"is one of 3 parts; join them with .*--merge"):
        read_header(part)


def test_safetensors_beside_a_gguf_come_first(made, file):
    file.rename(made.folder / "tiny.gguf")
    assert gguf_in(made.folder) is None


DIFFERENT = {
    "a token": (lambda v: v["tokenizer.ggml.tokens"].__setitem__(300, "Zz"), "token 300 is"),
    "one more": (
        lambda v: v["tokenizer.ggml.tokens"].append("Zz"),
        r"the tokenizer has 315 tokens",
    ),
    "eos": (
        lambda v: v.__setitem__("tokenizer.ggml.eos_token_id", 5),
        r"the eos token is '<eos>' \(2\), and .* \(5\) in the file",
    ),
    "no pad": (
        lambda v: v.pop("tokenizer.ggml.padding_token_id"),
        r"the pad token is .*none in the",
    ),
    "control": (
        lambda v: v["tokenizer.ggml.token_type"].__setitem__(300, 3),
        "token 300, .*, is cut",
    ),
    "user-defined": (lambda v: v["tokenizer.ggml.token_type"].__setitem__(301, 4), "token 301, "),
    "a merge": (lambda v: v["tokenizer.ggml.merges"].reverse(), "merge 0 is"),
    "a merge less": (lambda v: v["tokenizer.ggml.merges"].pop(), "merges, and"),
    "bos": (
        lambda v: v.__setitem__("tokenizer.ggml.add_bos_token", False),
        "a text has its bos token, other",
    ),
    "template": (lambda v: v.pop("tokenizer.chat_template"), "the chat template is another"),
}


@pytest.mark.parametrize("change, message", DIFFERENT.values(), ids=DIFFERENT)
def test_a_tokenizer_that_is_not_the_files_is_refused(file, tmp_path, change, message):
    tokenizer = load_tokenizer(plain(file, tmp_path / "out"))
    header = read_header(file)
    gguf_tokenizer.compare_tokenizer(tokenizer, header)
    change(header.values)
    with pytest.raises(ArtifactError, match=rf"tiny\.gguf: as transformers reads it, .*{message}"):
        gguf_tokenizer.compare_tokenizer(tokenizer, header)
