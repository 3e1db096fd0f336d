"""What plays the model: one that writes a given text, and one that gives given logits."""

import copy

import pytest
from official import Scripted, Writer
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from atu.inference.batching import BatchSize
from atu.inference.scoring import score_encoded
from atu.training.batches import IGNORE, EncodedText


@pytest.fixture(scope="session")
def tokenizer_of(byte_tokenizer):
    """A function that gives the tokenizer that a case's settings describe; bytes if they are
    silent. The cases' own tokenizers have no token that begins a text."""
    plain = copy.deepcopy(byte_tokenizer)
    plain.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    cleaning = copy.deepcopy(plain)
    cleaning.clean_up_tokenization_spaces = True

    def characters():
        letters = ["<pad>", "<eos>", *map(chr, range(9, 0x2000))]
        bare = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
        bare.decoder = decoders.Fuse()
        return PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", eos_token="<eos>")

    def find(settings):
        name = settings.get("tokenizer", "one token a byte")
        if name.startswith("one token a character"):
            return characters()
        return cleaning if "clean_up" in name else plain

    return find


@pytest.fixture
def written(tokenizer_of):
    """A function that gives what our generation step makes of a case's `generated`."""
    from atu.inference.probing import answer_probes

    def write(case, stops, max_new_tokens=100_000):
        tokenizer = tokenizer_of(case["settings"])
        model = Writer(tokenizer, case["inputs"]["generated"])
        probe = {"prompt": case["inputs"].get("prompt", "Q"), "stops": list(stops)}
        (answer,) = answer_probes(
            model, tokenizer, [probe], max_new_tokens=max_new_tokens,
            batch_size=BatchSize(1), label="case",
        )  # fmt: skip
        return answer

    return write


@pytest.fixture
def scored():
    """A function that gives our token scores of texts with given logits: `input_ids` and `labels`,
    or `token_ids`, of which all are scored; in one batch if their vocabularies are of one size."""

    def score(*items):
        encoded, logits = [], {}
        for item in items:
            ids = item.get("input_ids", item.get("token_ids"))
            labels = item.get("labels", [IGNORE, *ids[1:]])
            places = [i for i, label in enumerate(labels) if label != IGNORE]
            end = places[-1] + 1 if places else len(ids)  # behind it stands padding
            spans = [(i, i + 1) for i in range(end)]
            encoded.append(EncodedText(ids[:end], places[0] if places else end, spans))
            logits[tuple(ids[:end])] = item["logits"][:end]
        one = len({len(item["logits"][0]) for item in items}) == 1
        size = BatchSize(len(items) if one else 1)
        return score_encoded(Scripted(logits), 0, encoded, size, "case")

    return score
