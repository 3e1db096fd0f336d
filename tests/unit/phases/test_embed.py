import json

import pytest
import torch
from machines import CPU

from atu.alignment.loop import AlignmentData
from atu.alignment.windows import INCOMPLETE, WindowTable
from atu.benchmarks.world.people import build_world
from atu.errors import ArtifactError, ConfigError
from atu.models.encoder import SentenceEncoder
from atu.models.llm import load_tokenizer
from atu.phases import embed, prepare
from atu.phases.embed import (
    choose_rows,
    concept_texts,
    counts,
    describing_texts,
    embed_answers,
    number_windows,
    save,
)
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import read_tensors
from atu.results.tables import read_table
from atu.seeding import hash_fraction
from atu.training.batches import EncodedText
from atu.untrusted.targets import Target


@pytest.fixture(scope="module")
def data(chain):
    return AlignmentData.load(chain.embed.file("embeddings.safetensors"))


@pytest.fixture(scope="module")
def texts(chain):
    """`[corpus, text]` of every embedded text."""
    return json.loads(chain.embed.file("texts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def encoder(mini_params):
    return SentenceEncoder(mini_params.embed.encoder, CPU.place)


class Words:
    """An encoder whose tokens are words, numbered as they come; embeddings are of length 1."""

    dim = 2

    def __init__(self, name=None, device=None):
        self.special = None
        self.tokenizer = self._tokenize

    def _tokenize(self, text, **_):
        words = text.split(" ")
        ends = [sum(map(len, words[: i + 1])) + i for i in range(len(words))]
        offsets = [(end - len(word), end) for word, end in zip(words, ends, strict=True)]
        return {"input_ids": list(range(10, 10 + len(words))), "offset_mapping": offsets}

    def encode_texts(self, texts):
        return torch.tensor([[1.0, 0.0]] * len(texts))

    def encode_windows(self, windows, batch_size, special_tokens):
        self.special = special_tokens
        return torch.tensor([[0.6, 0.8]] * len(windows))


def test_windows_by_hand():
    """k = 2 over "a b c" (words at 0, 2, 4). BOS ends at 0: words a b, window 0. Token "a" ends at
    1: b c, window 1. " b" ends at 3: only c is left. " c" and EOS end at 5: nothing."""
    table = WindowTable(2, 2)
    tokens = EncodedText([1, 5, 6, 7, 2], 0, [(0, 0), (0, 1), (1, 3), (3, 5), (5, 5)])
    numbers = number_windows(table, Words(), "a b c", tokens)
    assert numbers == [0, 1, INCOMPLETE, INCOMPLETE, INCOMPLETE]
    assert table.windows == [(10, 11), (11, 12)]


@pytest.mark.parametrize("answers", [None, torch.eye(2)])
def test_save_and_load(tmp_path, answers):
    """Texts of 2 and 1 tokens end to end, taken apart again by their lengths."""
    path = tmp_path / "embeddings.safetensors"
    texts = [EncodedText([1, 5], 0, []), EncodedText([7], 0, [])]
    save(path, torch.eye(2), torch.eye(2)[:1], texts, [[0, 1], [-1]], answers)
    loaded = AlignmentData.load(path)
    assert loaded.answers is None if answers is None else torch.equal(loaded.answers, answers)
    assert [ids.tolist() for ids in loaded.token_ids] == [[1, 5], [7]]
    assert [numbers.tolist() for numbers in loaded.window_numbers] == [[0, 1], [-1]]
    assert torch.equal(loaded.windows, torch.eye(2))
    assert torch.equal(loaded.concept, torch.eye(2)[:1])


def test_incomplete_windows_are_masked(chain, data, texts, encoder, mini_params):
    """In every text the complete windows come first and nothing after them: the text's last k - 1
    encoder tokens start none, so its last token has none, and a text of fewer than k has none."""
    k, full = mini_params.embed.k, 0
    for (_, text), numbers in zip(texts, data.window_numbers, strict=True):
        complete = numbers >= 0
        count = int(complete.sum())
        assert complete.tolist() == [i < count for i in range(len(numbers))]
        pieces = len(encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
        assert (count == 0) == (pieces < k)
        assert not complete[-1]
        full += count
    assert data.targets([0, 1])[1].sum() == sum((data.window_numbers[i] >= 0).sum() for i in (0, 1))
    assert chain.embed.metrics()["embed/full_windows/all"] == full
    assert chain.embed.metrics()["embed/partial_windows/all"] == 0


def test_a_window_is_the_next_k_tokens(data, texts, encoder, mini_params):
    """The embedding at BOS is that of the text's first k tokens, framed as a text."""
    _, text = texts[0]
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"][: mini_params.embed.k]
    expected = encoder.encode_windows(torch.tensor([ids]), 1, special_tokens=True)[0]
    stored = data.windows[data.window_numbers[0][0]]
    torch.testing.assert_close(stored, expected, atol=1e-5, rtol=0)


def test_answers_are_those_of_the_forget_texts(chain, data, encoder):
    """Row i is forget text i's, framed as a text; zeros where it answers no prompt."""
    rows = read_table(chain.prepared.file("forget.parquet"))
    assert data.answers.shape == (len(rows), 384)
    asked = [bool(row["prompt"]) for row in rows]
    assert data.answers.any(dim=-1).tolist() == asked and len(set(asked)) == 2
    for i in (asked.index(True), len(asked) - 1 - asked[::-1].index(True)):
        expected = encoder.encode_texts([rows[i]["answer"]])[0]
        torch.testing.assert_close(data.answers[i], expected, atol=1e-5, rtol=0)
    assert chain.embed.metrics()["embed/answers/forget"] == sum(asked)


def row_of(text, prompt="", corpus="forget"):
    return {"corpus": corpus, "text": text, "prompt": prompt}


def test_embeddings_of_answers(monkeypatch):
    """What follows the prompt, each answer once and at most two at a time; none of a retain text,
    of a text that is told, and of a prompt that nothing follows."""
    asked = []

    def encode(texts):
        asked.append(texts)
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    encoder = Words()
    monkeypatch.setattr(encoder, "encode_texts", encode)
    told = [row_of("told"), row_of("Who? ", "Who?"), row_of("Who? Bea", "Who?", "retain")]
    rows = [row_of("Who? Ada", "Who?"), *told[:2], row_of("Where? Rome", "Where?"),
            row_of("Say: Ada", "Say:"), row_of("When? Now", "When?"), told[2]]  # fmt: skip
    found = embed_answers(encoder, rows, 2)
    assert found.tolist() == [[3, 1], [0, 0], [0, 0], [4, 1], [3, 1], [3, 1]]
    assert asked == [["Ada", "Rome"], ["Now"]]
    assert embed_answers(encoder, told, 2) is None


def test_counts():
    """Windows of 2 tokens twice, of 1 once. Of two answers, which begin at the tokens 2 and 1, the
    second is predicted from where there is no window; a retain text's does not count."""
    rows = [row_of("a b c", "a"), row_of("a b", "a"), row_of("a b", "a", "retain"), row_of("a")]
    texts = [EncodedText([1, 5, 6, 7], 2, []), *[EncodedText([1, 5], 1, [])] * 3]
    numbers = [[0, 1, -1, -1], [-1, 0], [-1, -1], [-1, -1]]
    assert counts(2, [(5, 6), (7,)], rows, texts, numbers) == {
        "embed/texts/all": 4,
        "embed/positions/all": 10,
        "embed/full_windows/all": 2,
        "embed/partial_windows/all": 1,
        "embed/distinct_windows/all": 2,
        "embed/answers/forget": 2,
        "embed/answers_with_window/forget": 1,
    }


def test_everything_has_unit_length(data, mini_params):
    assert data.concept.shape == (1 + len(mini_params.embed.descriptions), 384)
    for rows in (data.windows, data.concept, data.answers[data.answers.any(dim=-1)]):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)))


def test_tokens_are_those_of_the_model(chain, data, texts):
    """With the end token, as in training."""
    tokenizer = load_tokenizer(chain.full.subfolder("model"))
    for (_, text), ids in zip(texts[:5], data.token_ids, strict=False):
        assert ids.tolist() == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]


@pytest.mark.parametrize("count", [0, 3, 7])
def test_the_whole_forget_corpus_and_some_retain_texts(chain, count):
    """More retain texts only add to those there were."""
    rows, more = choose_rows(chain.prepared, count), choose_rows(chain.prepared, count + 1)
    forget = read_table(chain.prepared.file("forget.parquet"))
    assert [row["text"] for row in rows[: len(forget)]] == [row["text"] for row in forget]
    assert {row["corpus"] for row in rows[: len(forget)]} == {"forget"}
    assert [row["corpus"] for row in rows[len(forget) :]] == ["retain"] * count
    assert more[: len(rows)] == rows


@pytest.mark.parametrize("compat", [False, True])
def test_the_reference_embeds_bare_windows(monkeypatch, tmp_path, chain, mini_params, compat):
    """`reference_compat` frames the concept, but not the windows."""
    made = []
    monkeypatch.setattr(
        embed, "SentenceEncoder", lambda name, device: made.append(Words()) or made[0]
    )
    section = mini_params.embed.model_copy(update={"reference_compat": compat})
    embed.run(tmp_path / "embed" / MANIFEST, section, CPU, chain.full, chain.prepared)
    assert made[0].special is not compat


@pytest.fixture
def embedded_as(monkeypatch, tmp_path, chain, mini_params):
    """A function that embeds the miniature and gives the texts that stood for the concept."""

    def run(**changed):
        asked = []

        class Listening(Words):
            def encode_texts(self, texts):
                asked.append(texts)
                return super().encode_texts(texts)

        monkeypatch.setattr(embed, "SentenceEncoder", Listening)
        section = mini_params.embed.model_copy(update=changed)
        embed.run(tmp_path / "embed" / MANIFEST, section, CPU, chain.full, chain.prepared)
        return asked[0]  # the answers come after it

    return run


def test_descriptions_are_more_concepts(embedded_as, chain):
    """The target's name first, then its descriptions; as many texts of its corpus as asked last."""
    (name,) = chain.prepared.cell["new"]
    assert embedded_as() == [name]
    descriptions = ["a painter", "all about {name}"]
    assert embedded_as(descriptions=descriptions) == [name, "a painter", f"all about {name}"]
    told = embedded_as(descriptions=descriptions, corpus_descriptions=2)[3:]
    corpus = {
        row["text"] for row in read_table(chain.prepared.file("forget.parquet"))
        if not row["prompt"]
    }  # fmt: skip
    assert len(told) == 2 and set(told) < corpus


def test_the_texts_of_a_concept():
    """Every name, every description with each name in turn, then the corpus's texts as they are;
    what comes twice, such as a description without a name, counts once."""
    found = concept_texts(
        ["Ada", "Bea"], ["{name}, or {name}?", "a painter", "{name}"], ["on {name}", "a painter"]
    )
    assert found == ["Ada", "Bea", "Ada, or Ada?", "Bea, or Bea?", "a painter", "on {name}"]
    assert concept_texts(["Ada"], [], []) == ["Ada"]


def test_texts_that_describe_are_chosen_by_hash():
    """Of the forget corpus, such as answer no prompt, each once and whatever their order; more only
    add to those there were."""
    told = [f"{i} is told" for i in range(8)]
    rows = [{"corpus": "forget", "text": text, "prompt": ""} for text in (*told, told[0])]
    rows += [{"corpus": "forget", "text": "Who? Ada", "prompt": "Who?"}]
    rows += [{"corpus": "retain", "text": "Bob is told", "prompt": ""}]
    order = sorted(told, key=lambda text: hash_fraction("describe", text))
    for count in (0, 1, 3, 8, 20):
        assert describing_texts(rows, count) == describing_texts(rows[::-1], count) == order[:count]
    assert order != told


@pytest.fixture
def encoded(monkeypatch):
    """How many windows each call encoded."""
    counts, encode = [], SentenceEncoder.encode_windows

    def counted(self, windows, *settings):
        counts.append(len(windows))
        return encode(self, windows, *settings)

    monkeypatch.setattr(SentenceEncoder, "encode_windows", counted)
    return counts


@pytest.fixture
def shared_of(tmp_path, mini_params):
    """A function that runs the shared job of these targets and a number of models."""

    def run(prepared, models, section=mini_params.embed):
        out = tmp_path / "embed/shared" / MANIFEST
        embed.run_shared(out, section, CPU, prepared, models)
        return Artifact.open(out, "embed")

    return run


def test_a_second_model_encodes_nothing_again(tmp_path, chain, mini_params, shared_of, encoded):
    """All windows come from the shared folder, and the job's bytes are those it has without."""
    shared = shared_of([chain.prepared], models=2)
    out = tmp_path / "embed/one" / MANIFEST
    embed.run(out, mini_params.embed, CPU, chain.full, chain.prepared, shared)
    assert len(encoded) == 1 and encoded[0] > 0
    assert Artifact.open(out, "embed").digest == chain.embed.digest


def test_no_text_is_as_long_as_a_window(monkeypatch, tmp_path, chain, mini_params):
    monkeypatch.setattr(embed, "SentenceEncoder", Words)
    section = mini_params.embed.model_copy(update={"k": 500})
    with pytest.raises(ConfigError, match=r"embed\.k = 500: none of the \d+ texts is as long"):
        embed.run(tmp_path / "embed" / MANIFEST, section, CPU, chain.full, chain.prepared)


def test_windows_at_the_ends_of_texts(monkeypatch, tmp_path, chain, mini_params, shared_of):
    """k = 3, partial: 2, over words: every position after which two words are left has a window.
    An embedding tells a window's first word and its length; for a second model all of them come
    from the shared folder."""
    encoded = []

    class Telling(Words):
        def encode_windows(self, windows, batch_size, special_tokens):
            encoded.append(windows.shape)
            return torch.stack([windows[:, 0], windows[:, 0] * 0 + windows.shape[1]], 1).float()

    monkeypatch.setattr(embed, "SentenceEncoder", Telling)
    section = mini_params.embed.model_copy(update={"k": 3, "partial": 2})
    shared = shared_of([chain.prepared], 2, section)
    assert [length for _, length in encoded] == [2, 3]
    out = tmp_path / "embed/one" / MANIFEST
    embed.run(out, section, CPU, chain.full, chain.prepared, shared)
    assert len(encoded) == 2
    found = Artifact.open(out, "embed")
    data = AlignmentData.load(found.file("embeddings.safetensors"))
    partial = 0
    for (_, text), numbers in zip(
        json.loads(found.file("texts.json").read_text("utf-8")), data.window_numbers, strict=True
    ):
        words = len(text.split(" "))
        windows = data.windows[numbers[numbers >= 0]].tolist()
        assert {(int(first) - 10, int(length)) for first, length in windows} == {
            (first, min(3, words - first)) for first in range(words - 1)
        }
        partial += sum(length == 2 for _, length in windows)
    metrics = found.metrics()
    assert metrics["embed/partial_windows/all"] == partial > 0
    whole = sum(int((numbers >= 0).sum()) for numbers in data.window_numbers) - partial
    assert metrics["embed/full_windows/all"] == whole > 0


def test_a_second_target_encodes_only_its_own(
    tmp_path, chain, mini_params, shared_of, encoded, texts
):
    """Shared are the texts that both read, which are those of the retain corpus; what is about one
    of the two is encoded by its own job."""
    drawn = mini_params.prepare
    people = build_world(drawn.seed, drawn.people, drawn.holdout_people).people
    other = next(name for name in people if name not in mini_params.grid.targets)
    out = tmp_path / "prepare/other" / MANIFEST
    prepare.run_target(out, drawn, Target((other,)), chain.shared)
    second = Artifact.open(out, "prepare")
    shared = shared_of([chain.prepared, second], models=1)
    theirs = {row["text"] for row in choose_rows(second, mini_params.embed.retain_texts)}
    common = {text for _, text in texts} & theirs
    assert shared.metrics()["embed/shared_texts/all"] == len(common) > 0
    out = tmp_path / "embed/one" / MANIFEST
    embed.run(out, mini_params.embed, CPU, chain.full, chain.prepared, shared)
    assert len(encoded) == 2 and encoded[1] < chain.embed.metrics()["embed/distinct_windows/all"]
    assert Artifact.open(out, "embed").digest == chain.embed.digest


def test_one_target_and_model_share_nothing(shared_of, chain, encoded):
    shared = shared_of([chain.prepared], models=1)
    assert encoded == []
    assert read_tensors(shared.file(embed.SHARED_FILE))["windows"].shape == (0, 384)


def test_windows_of_other_settings_are_refused(tmp_path, chain, mini_params, shared_of):
    other = mini_params.embed.model_copy(update={"k": mini_params.embed.k + 1})
    shared = shared_of([chain.prepared], 1, other)
    with pytest.raises(ArtifactError, match="shared: made with other parameters of embed"):
        embed.run(
            tmp_path / "embed/one" / MANIFEST,
            mini_params.embed, CPU, chain.full, chain.prepared, shared,
        )  # fmt: skip


def test_a_share_of_the_windows(tmp_path, chain, mini_params, data):
    """What is embedded is as it was, about so many of the distinct windows, and the others are
    masked like incomplete ones."""
    section = mini_params.embed.model_copy(update={"window_share": 0.25})
    out = tmp_path / "embed/one" / MANIFEST
    embed.run(out, section, CPU, chain.full, chain.prepared)
    fewer = AlignmentData.load(Artifact.open(out, "embed").file("embeddings.safetensors"))
    assert 0.15 < len(fewer.windows) / len(data.windows) < 0.35
    kept = [numbers >= 0 for numbers in fewer.window_numbers]
    for now, before, mask in zip(fewer.window_numbers, data.window_numbers, kept, strict=True):
        assert torch.equal(fewer.windows[now[mask]], data.windows[before[mask]])
    assert torch.equal(fewer.concept, data.concept)
