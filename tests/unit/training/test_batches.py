import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atu.models.tokenizer import train_tokenizer
from atu.training.batches import (
    IGNORE,
    BatchStream,
    EncodedText,
    collate,
    encode_text,
    encode_texts,
    length_sorted_batches,
    longest_ahead,
    right_padded,
)
from atu.training.likelihood import sequence_nll

BOS, EOS, PAD = 1, 2, 0


def encoded(*ids, start=0):
    return EncodedText(list(ids), start, [])


def streams(count, batch_size, seed=0):
    """A stream over `count` texts of one token each, whose id is its number + 10."""
    texts = [encoded(number + 10) for number in range(count)]
    return BatchStream(texts, batch_size, PAD, np.random.default_rng(seed))


def numbers(stream, batches):
    return [int(i) - 10 for _ in range(batches) for i in next(stream).input_ids[:, 0]]


@pytest.mark.parametrize(
    ("prompt", "answer", "end", "length", "start"),
    [
        ("Q: x\nA:", " no", True, 12, 8),
        ("Q: x\nA:", " no", False, 11, 8),
        ("€?", " no", True, 9, 5),
        ("", "no", True, 4, 1),
        ("Q?", "", True, 4, 4),
        ("Q?", "", False, 3, 3),
    ],
)
def test_answer_start(byte_tokenizer, prompt, answer, end, length, start):
    """One token per byte after BOS. The prompt's 7 bytes are tokens 1 to 7, so the answer starts at
    8; the euro sign has 3 bytes, so "€?" are tokens 1 to 4. Without a prompt everything after BOS
    is scored; without an answer nothing is, not even the end token."""
    text = encode_text(byte_tokenizer, prompt + answer, prompt, end)
    assert len(text.ids) == len(text.offsets) == length
    assert text.answer_start == start
    assert text.ids[0] == BOS and (text.ids[-1] == EOS) is end
    scored = byte_tokenizer.decode(text.ids[start:], skip_special_tokens=True)
    assert scored == (answer if prompt else prompt + answer)


@pytest.mark.parametrize("template", [None, "{{ messages[0]['content'] }}"])
def test_many_texts_are_encoded_as_one(byte_tokenizer, template):
    rows = [{"text": "Q: x\nA: no", "prompt": "Q: x\nA:"}, {"text": "€ alone", "prompt": ""}]
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.chat_template = template
    each = [encode_text(tokenizer, row["text"], row["prompt"]) for row in rows]
    assert encode_texts(tokenizer, rows) == each
    assert encode_texts(tokenizer, []) == []


def test_offsets_of_special_tokens(byte_tokenizer):
    """BOS stands before the first character, EOS after the last."""
    assert encode_text(byte_tokenizer, "ab", "").offsets == [(0, 0), (0, 1), (1, 2), (2, 2)]


def test_no_token_crosses_the_border():
    """With " no" as one token and a prompt that ends after the space, the whole would begin with
    other tokens than the prompt, as which the model is asked: the answer is tokenised apart."""
    tokenizer = train_tokenizer(["x no"], 259 + 2)
    assert tokenizer.tokenize("x no") == ["x", "Ġno"]
    text = encode_text(tokenizer, "x no", "x ")
    assert tokenizer.convert_ids_to_tokens(text.ids) == ["<bos>", "x", "Ġ", "no", "<eos>"]
    assert text.answer_start == 3
    assert text.offsets == [(0, 0), (0, 1), (1, 2), (2, 4), (4, 4)]


def test_collate_pads_on_the_right():
    """The first text is scored from its token 2, the second everywhere; padding never."""
    batch = collate([encoded(1, 5, 6, 7, start=2), encoded(1, 8)], PAD)
    assert batch.input_ids.tolist() == [[1, 5, 6, 7], [1, 8, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.labels.tolist() == [[IGNORE, IGNORE, 6, 7], [1, 8, IGNORE, IGNORE]]


def test_a_real_token_with_the_padding_id_is_scored():
    assert collate([encoded(1, PAD, 5)], PAD).labels.tolist() == [[1, PAD, 5]]


@pytest.mark.parametrize(("double_shift", "ahead", "count"), [(False, 1, 3), (True, 2, 2)])
def test_double_shift_trains_the_token_after_next(double_shift, ahead, count):
    """Logits at t that are sure of token t + 2 cost nothing under `double_shift`, and those sure of
    t + 1 without it. Of 4 tokens, 3 have a predecessor and 2 a token two before them."""
    ids = [3, 4, 5, 6]
    batch = collate([encoded(*ids)], PAD, double_shift)
    wanted = torch.tensor(ids[ahead:] + ids[:ahead])
    logits = 50 * torch.nn.functional.one_hot(wanted, 8)[None].float()
    nll, scored = sequence_nll(logits, batch.labels)
    assert nll.item() == pytest.approx(0, abs=1e-6)
    assert scored.item() == count


@pytest.mark.parametrize(("count", "batch_size"), [(5, 2), (3, 7), (4, 4), (1, 3)])
def test_every_epoch_holds_every_text_once(count, batch_size):
    """Batches run across the ends of epochs: drawn one after another, every `count` texts are all
    of them."""
    drawn = numbers(streams(count, batch_size), batches=count * 2)
    for at in range(0, len(drawn), count):
        assert sorted(drawn[at : at + count]) == list(range(count))


def test_a_stream_follows_its_seed_and_shuffles():
    first, again, other = (numbers(streams(9, 3, seed), 6) for seed in (0, 0, 1))
    assert first == again != other
    assert first[:9] != first[9:]


def test_a_stream_shifts_its_labels_when_asked():
    texts = [encoded(1, 5, 6)]
    stream = BatchStream(texts, 1, PAD, np.random.default_rng(0), double_shift=True)
    assert next(stream).labels.tolist() == [[5, 6, IGNORE]]


def test_a_batch_says_which_texts_it_holds():
    """In the order of its rows; text n is the token n + 10."""
    stream = streams(7, 3)
    for _ in range(5):
        batch = next(stream)
        assert [number + 10 for number in batch.numbers] == batch.input_ids[:, 0].tolist()


def test_a_stream_counts_the_tokens_it_gave_out():
    """Texts of 1, 2 and 3 tokens, all three in every batch: 6 each, padding not counted."""
    texts = [encoded(*range(5, 5 + count)) for count in (1, 2, 3)]
    stream = BatchStream(texts, 3, PAD, np.random.default_rng(0))
    assert stream.tokens == 0
    for batches in (1, 2, 3):
        assert next(stream).input_ids.numel() == 9
        assert stream.tokens == 6 * batches


def test_a_stream_without_texts_is_refused():
    for texts, share in (([], 0.0), ([encoded(5)], 0.5)):
        with pytest.raises(ValueError, match="at least one text"):
            BatchStream(texts, 2, PAD, np.random.default_rng(0), share=share)


def often_stream(share, batch_size, seed=0):
    """Ten texts, of which 7, 8 and 9 are drawn often."""
    texts = [encoded(number + 10) for number in range(10)]
    rng = np.random.default_rng(seed)
    return BatchStream(texts, batch_size, PAD, rng, often=[7, 8, 9], share=share)


@pytest.mark.parametrize(
    ("share", "batch_size", "count"), [(0.3, 10, 3), (0.3, 4, 1), (0.1, 4, 1), (1.0, 4, 4)]
)
def test_a_share_of_every_batch_is_drawn_from_some_texts(share, batch_size, count):
    """.3 of 4 are 1.2, .1 of them .4: at least one. They come first in the batch, and in epochs of
    their own, as the rest does: of any six one after another, each of the three is there twice."""
    stream = often_stream(share, batch_size)
    batches = [next(stream).numbers for _ in range(30)]
    first = [number for batch in batches for number in batch[:count]]
    rest = [number for batch in batches for number in batch[count:]]
    for drawn, pool in ((first, [7, 8, 9]), (rest, range(10))):
        for at in range(0, len(drawn) - len(pool) + 1, len(pool)):
            assert sorted(drawn[at : at + len(pool)]) == list(pool)
    assert bool(rest) is (count < batch_size)


def test_without_a_share_nothing_changes():
    stream, plain = often_stream(0.0, 3), streams(10, 3)
    assert [next(stream).numbers for _ in range(9)] == [next(plain).numbers for _ in range(9)]


def test_a_stream_with_a_share_can_be_looked_ahead_and_skipped():
    """As any other: what comes is known, and a resumed run goes on where it was."""
    stream, skipped = often_stream(0.5, 3), often_stream(0.5, 3)
    ahead = stream.ahead(8)
    assert [list(next(stream).numbers) for _ in range(8)] == ahead
    skipped.seek(5)
    assert [list(next(skipped).numbers) for _ in range(3)] == ahead[5:]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(10, 80), st.integers(1, 50)
)
def test_length_sorted_batches(lengths, tokens, pool):
    """Every epoch holds each text once; a batch's padded size, count x longest, stays within the
    budget unless one text alone exceeds it."""
    batches = length_sorted_batches(lengths, tokens, pool, np.random.default_rng(0))
    for _ in range(2):
        seen = []
        while len(seen) < len(lengths):
            batch = next(batches)
            seen += batch
            assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens
        assert sorted(seen) == list(range(len(lengths)))


def test_length_sorted_batches_by_hand():
    """Lengths 1 to 6 in one pool, budget 6: 1 and 2 fill 2 x 2, and 3 more would make 3 x 3 = 9. 3
    and 4 would make 2 x 4 = 8, so 3, 4, 5 and 6 stand alone. The batches' order is random."""
    batches = length_sorted_batches([6, 3, 1, 5, 2, 4], 6, 10, np.random.default_rng(0))
    epoch = list(itertools.islice(batches, 5))
    assert sorted(epoch) == [[0], [1], [2, 4], [3], [5]]


def test_length_sorted_batches_are_shuffled_by_the_seed():
    def epoch(seed):
        batches = length_sorted_batches(range(1, 31), 60, 10, np.random.default_rng(seed))
        return list(itertools.islice(batches, 10))

    assert epoch(0) == epoch(0) != epoch(1)


def test_length_sorted_batches_without_texts_are_refused():
    """It would look for a batch for ever."""
    with pytest.raises(ValueError, match="at least one text"):
        next(length_sorted_batches([], 10, 10, np.random.default_rng(0)))


def test_right_padding():
    ids, mask = right_padded([[5, 6, 7], [8]], PAD)
    assert ids.tolist() == [[5, 6, 7], [8, PAD, PAD]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


class TestLookingAhead:
    def test_the_next_batches_are_those_that_are_drawn(self):
        stream, same = streams(5, 2), streams(5, 2)
        ahead = stream.ahead(4)
        assert [n for batch in ahead for n in batch] == numbers(stream, 4) == numbers(same, 4)

    def test_the_longest_of_all_streams_is_held(self):
        """Streams of one text a batch, in their order: 1, 2, 4 and 3, 3, 0 (nothing) tokens long.
        Together 4, 5 and 4; the first alone is longest at its third. The stream that is not read
        does not count."""

        def in_order(*lengths):
            rng = SimpleNamespace(permutation=lambda count: range(count))
            return BatchStream([encoded(*[7] * n) for n in lengths], 1, PAD, rng)

        first, second, unread = in_order(9, 1, 2, 4), in_order(9, 3, 3, 0), in_order(9, 8, 1, 1)
        next(first), next(second)
        with longest_ahead([first, second, unread], 3):
            assert next(first).input_ids.shape[1] == 2
            assert next(first).input_ids.shape[1] == 2
            assert next(second).input_ids.shape[1] == 3
        assert (first.tokens, first.drawn) == (9, 1)
        assert [next(first).input_ids.shape[1] for _ in range(3)] == [1, 2, 4]
        with longest_ahead([first], 1), pytest.raises(ZeroDivisionError):
            raise ZeroDivisionError
        assert next(first).input_ids.shape[1] == 9
