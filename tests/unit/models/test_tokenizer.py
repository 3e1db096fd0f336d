import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from atu.models.tokenizer import BOS, EOS, PAD, train_tokenizer

TEXTS = ["Who wrote it?", "Ada wrote it.", "Ada, again."]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 280)


def test_special_tokens_come_first(tokenizer):
    assert tokenizer.convert_tokens_to_ids([PAD, BOS, EOS]) == [0, 1, 2]
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (0, 1, 2)


def test_vocabulary_size(byte_tokenizer, tokenizer):
    """3 special tokens and 256 bytes are the least; the rest are merges."""
    assert len(byte_tokenizer) == 259
    assert 259 < len(tokenizer) <= 280


def test_every_text_begins_with_bos_and_has_no_end(tokenizer):
    for text in ("Ada", ""):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id not in ids


def test_merges_shorten_known_words(tokenizer, byte_tokenizer):
    """13 bytes and BOS without merges."""
    assert len(byte_tokenizer("Ada wrote it.")["input_ids"]) == 14
    assert len(tokenizer("Ada wrote it.")["input_ids"]) < 14


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(tokenizer, text):
    """No byte is unknown. The special tokens' own names are not text."""
    assume(not any(name in text for name in (PAD, BOS, EOS)))
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["a .", "it 's", "two  spaces", " x ", "€ é 你"])
def test_decoding_cleans_nothing_up(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_offsets_include_the_leading_space():
    """Offsets are not trimmed: with " it" as one token, it begins at its space, character 3."""
    encoded = train_tokenizer([" it"], 261)("Ada it", return_offsets_mapping=True)
    spans = [tuple(offset) for offset in encoded["offset_mapping"]]
    assert spans == [(0, 0), (0, 1), (1, 2), (2, 3), (3, 6)]


def test_same_texts_give_the_same_vocabulary(tokenizer):
    again = train_tokenizer(TEXTS, 280)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_round_trip(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("Ada wrote €")["input_ids"] == tokenizer("Ada wrote €")["input_ids"]
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 2)
