import copy
import json
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES
from machines import CPU, cpu_for
from torch import nn

from atu.errors import ArtifactError
from atu.models.build import build_lm
from atu.models.guards import load_guard
from atu.models.guards.base import guard_of, unguarded
from atu.models.guards.embedding_noise import EmbeddingNoise
from atu.models.guards.logit_difference import LogitDifference, logit_difference
from atu.models.llm import frozen, hidden_states, load_lm, load_tokenizer, save_lm
from atu.models.quantise import parse_scheme, quantised

VOCAB = 300
TARGET = 7
"""The token that makes a text one about the target, for `noise_guard`."""
PLAIN = [1, 40, 41, 42, 43, 44]
ABOUT = [1, 40, TARGET, 42, 43, 44]
BATCH = [ABOUT, PLAIN, [1, 50, 51, TARGET], [1, 60, 61], [1, TARGET, 70, 71, 72, 73, 74]]


def noise_guard(model, scale=3.0, threshold=0.5):
    """Flags a text from `TARGET` on: its weight is 2, the bias -1, all other weights 0."""
    table = model.get_input_embeddings().weight
    guard = EmbeddingNoise(
        {
            "vocab_size": table.shape[0],
            "hidden_size": table.shape[1],
            "seed": 5,
            "scale": scale,
            "threshold": threshold,
        }
    )
    weight = torch.zeros(table.shape[0], dtype=torch.float64)
    weight[TARGET] = 2
    guard.load_state_dict({"weight": weight, "bias": torch.tensor(-1.0, dtype=torch.float64)})
    return guard


def difference_guard(model, alpha=0.7, top=0.3):
    """An assistant of two layers that is not the model's copy any more."""
    guard = LogitDifference.of(model, 2, alpha, top)
    with torch.no_grad():
        for number, parameter in enumerate(guard.assistant.parameters()):
            parameter.mul_(1.5 + 0.1 * number)
    return guard


@pytest.fixture(params=[noise_guard, difference_guard])
def make_guard(request):
    return request.param


@pytest.fixture(params=FAMILIES)
def kind(request):
    return request.param


@pytest.fixture
def guarded(tiny_lm, make_guard, kind):
    """A model whose guard changes what it says, and the same model without."""
    plain = tiny_lm(kind, vocab_size=VOCAB)
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    model = copy.deepcopy(plain)
    make_guard(model).attach(model)
    return model, plain


def logits(model, ids, mask=None):
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids), attention_mask=mask, use_cache=False).logits


def padded(rows, side):
    """Token ids and mask; the padding is full of the token that would flag it."""
    length = max(map(len, rows))
    gaps = [length - len(row) for row in rows]
    if side == "left":
        ids = [[TARGET] * gap + row for gap, row in zip(gaps, rows, strict=True)]
        mask = [[0] * gap + [1] * (length - gap) for gap in gaps]
    else:
        ids = [row + [TARGET] * gap for gap, row in zip(gaps, rows, strict=True)]
        mask = [[1] * (length - gap) + [0] * gap for gap in gaps]
    return torch.tensor(ids), torch.tensor(mask)


def generated(model, rows, use_cache, tokens=6):
    ids, mask = padded(rows, "left")
    found = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens,
        do_sample=False, pad_token_id=0, eos_token_id=None, use_cache=use_cache,
    )  # fmt: skip
    return found[:, ids.shape[1] :].tolist()


def test_the_guard_changes_what_the_model_says(guarded):
    model, plain = guarded
    assert not torch.allclose(logits(model, [ABOUT]), logits(plain, [ABOUT]), atol=1e-3)


def test_generation_with_a_cache_is_generation_without(guarded):
    model, plain = guarded
    with_cache = generated(model, BATCH, True)
    assert with_cache == generated(model, BATCH, False)
    assert with_cache != generated(plain, BATCH, True)


def test_a_batch_gives_what_each_row_gives_alone(guarded):
    """In generation with padding on the left, and in logits with it on either side."""
    model, _ = guarded
    assert generated(model, BATCH, True) == [generated(model, [row], True)[0] for row in BATCH]
    for side in ("left", "right"):
        ids, mask = padded(BATCH, side)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        for row, kept, own in zip(BATCH, mask.bool(), found, strict=True):
            torch.testing.assert_close(own[kept], logits(model, [row])[0], atol=2e-4, rtol=1e-4)


def test_a_text_read_in_pieces_is_the_text_read_at_once(guarded):
    """The cache that the model makes by itself carries the guard too, also when it is copied."""
    model, _ = guarded
    ids = torch.tensor([[*ABOUT, 80, 81]])
    pieces, cache = [], None
    with torch.no_grad():
        for piece in (ids[:, :1], ids[:, 1:4], ids[:, 4:5], ids[:, 5:]):
            output = model(input_ids=piece, past_key_values=cache, use_cache=True)
            cache = copy.deepcopy(output.past_key_values)
            pieces.append(output.logits)
    whole = logits(model, ids.tolist())
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=2e-4, rtol=1e-4)


def test_a_cache_that_the_guard_did_not_see_is_refused(guarded):
    model, plain = guarded
    cache = plain(torch.tensor([ABOUT])).past_key_values
    with pytest.raises(ValueError, match="filled without the guard"):
        model(torch.tensor([[5]]), past_key_values=cache)


def test_arguments_by_position_and_by_name_are_the_same(guarded):
    model, _ = guarded
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([ABOUT])).logits, logits(model, [ABOUT]))


def test_only_the_last_logits_are_asked_for(guarded):
    model, _ = guarded
    with torch.no_grad():
        last = model(input_ids=torch.tensor([ABOUT]), logits_to_keep=1).logits
    torch.testing.assert_close(last, logits(model, [ABOUT])[:, -1:])


def test_embeddings_cannot_be_judged(guarded):
    model, _ = guarded
    with pytest.raises(ValueError, match="reads token ids"):
        model(inputs_embeds=torch.zeros(1, 3, 16))


def test_saved_and_loaded_it_says_the_same(guarded, kind, tmp_path, byte_tokenizer, capfd):
    """The model's own files are those of the plain model, and loading them warns of nothing."""
    model, plain = guarded
    save_lm(plain, byte_tokenizer, tmp_path / "plain")
    save_lm(model, byte_tokenizer, tmp_path / "guarded")
    capfd.readouterr()
    loaded, _ = load_lm(tmp_path / "guarded", cpu_for(kind), training=True)
    said = capfd.readouterr()
    assert "UNEXPECTED" not in said.err + said.out
    assert "MISSING" not in said.err + said.out
    assert torch.equal(logits(loaded, BATCH[:2]), logits(model, BATCH[:2]))
    assert generated(loaded, BATCH, True) == generated(model, BATCH, True)
    names = {p.name for p in (tmp_path / "plain").iterdir()}
    assert {p.name for p in (tmp_path / "guarded").iterdir()} == names | {
        "guard.json",
        "guard.safetensors",
    }
    for name in names:
        own, other = (tmp_path / folder / name for folder in ("guarded", "plain"))
        assert own.read_bytes() == other.read_bytes(), name
    assert guard_of(model) is not None, "saving takes the guard away"


def test_saved_again_it_is_the_same_file(guarded, kind, tmp_path, byte_tokenizer):
    model, _ = guarded
    save_lm(model, byte_tokenizer, tmp_path / "once")
    save_lm(
        load_lm(tmp_path / "once", cpu_for(kind), training=True)[0],
        byte_tokenizer,
        tmp_path / "twice",
    )
    for name in ("guard.json", "guard.safetensors", "model.safetensors"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_without_a_guard_there_are_no_files(tiny_lm, tmp_path, byte_tokenizer):
    save_lm(tiny_lm(), byte_tokenizer, tmp_path)
    assert not list(tmp_path.glob("guard*"))
    assert load_guard(tmp_path) is None
    assert guard_of(load_lm(tmp_path, CPU, training=True)[0]) is None


def test_an_unknown_kind_is_refused(tmp_path):
    content = {"kind": "magic", "settings": {}}
    (tmp_path / "guard.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ArtifactError, match="unknown kind of guard 'magic'"):
        load_guard(tmp_path)


def test_a_copy_has_its_own_guard(guarded):
    """What happens to the copy's guard changes the original in nothing, and the other way round."""
    model, plain = guarded
    before = logits(model, [ABOUT])
    copied = copy.deepcopy(model)
    assert torch.equal(logits(copied, [ABOUT]), before)
    with torch.no_grad():
        for tensor in guard_of(copied).state_dict().values():
            tensor.zero_()
    assert not torch.equal(logits(copied, [ABOUT]), before)
    assert torch.equal(logits(model, [ABOUT]), before)
    guard_of(copied).detach(copied)
    assert guard_of(copied) is None
    assert torch.equal(logits(copied, [ABOUT]), logits(plain, [ABOUT]))
    assert torch.equal(logits(model, [ABOUT]), before)
    again = copy.deepcopy(model)
    guard_of(model).detach(model)
    assert torch.equal(logits(model, [ABOUT]), logits(plain, [ABOUT]))
    assert torch.equal(logits(again, [ABOUT]), before)


def test_taken_away_and_put_back(guarded):
    model, plain = guarded
    before = logits(model, [ABOUT])
    names = list(plain.state_dict())
    with pytest.raises(KeyError), unguarded(model) as guard:
        assert guard_of(model) is None
        assert list(model.state_dict()) == names
        assert torch.equal(logits(model, [ABOUT]), logits(plain, [ABOUT]))
        raise KeyError
    assert guard_of(model) is guard
    assert torch.equal(logits(model, [ABOUT]), before)
    with unguarded(plain) as nothing:
        assert nothing is None


def test_two_guards_are_refused(guarded, make_guard):
    model, plain = guarded
    with pytest.raises(ValueError, match="has a guard already"):
        make_guard(plain).attach(model)


def test_the_guard_is_in_the_state_dict(guarded):
    """`keep: best` clones the state dict and loads it again."""
    model, _ = guarded
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert any(name.startswith("guard.") for name in kept)
    before = logits(model, [ABOUT])
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    model.load_state_dict(kept)
    assert torch.equal(logits(model, [ABOUT]), before)


def test_training_the_model_leaves_the_guard_alone(guarded):
    """An optimizer over all of the model's parameters, as relearning has it, in train mode."""
    model, plain = guarded
    before = {name: t.clone() for name, t in guard_of(model).state_dict().items()}
    model.train()
    assert not any(module.training for module in guard_of(model).modules())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(input_ids=torch.tensor([ABOUT])).logits.logsumexp(dim=-1).sum().backward()
    optimizer.step()
    for name, tensor in guard_of(model).state_dict().items():
        assert torch.equal(tensor, before[name]), name
    changed = dict(plain.named_parameters())
    moved = [not torch.equal(p, changed[n]) for n, p in model.named_parameters() if n in changed]
    assert sum(moved) > len(moved) / 2


def test_frozen_and_quantised_models_keep_it(guarded):
    model, _ = guarded
    before = logits(model, [ABOUT])
    with frozen(model):
        assert torch.equal(logits(model, [ABOUT]), before)
    assert not any(p.requires_grad for p in guard_of(model).parameters())
    rounded = quantised(model, parse_scheme("int4"))
    kept = guard_of(model).state_dict()
    for name, tensor in guard_of(rounded).state_dict().items():
        assert torch.equal(tensor, kept[name]), name
    assert not torch.equal(logits(rounded, [ABOUT]), before)


def test_noise_leaves_other_texts_to_the_bit(tiny_lm, kind):
    """Alone and beside one that is flagged; and the flagged one up to its first flagged token."""
    plain = tiny_lm(kind, vocab_size=VOCAB)
    model = copy.deepcopy(plain)
    noise_guard(model).attach(model)
    expected = logits(plain, [PLAIN, ABOUT])
    found = logits(model, [PLAIN, ABOUT])
    assert torch.equal(logits(model, [PLAIN]), logits(plain, [PLAIN]))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1, :2], expected[1, :2])
    assert (found[1, 2:] - expected[1, 2:]).abs().amax(dim=-1).min() > 1e-4


@pytest.mark.parametrize("kind", FAMILIES)
def test_noise_of_no_strength_changes_nothing(tiny_lm, kind):
    plain = tiny_lm(kind, vocab_size=VOCAB)
    model = copy.deepcopy(plain)
    noise_guard(model, scale=0.0).attach(model)
    assert torch.equal(logits(model, [ABOUT]), logits(plain, [ABOUT]))


def test_noise_reaches_the_inner_layers(tiny_lm, kind):
    """Early exit reads the base model: the guard stands there too."""
    plain = tiny_lm(kind, vocab_size=VOCAB)
    model = copy.deepcopy(plain)
    noise_guard(model).attach(model)
    ids, mask = torch.tensor([ABOUT, PLAIN]), torch.ones(2, 6, dtype=torch.long)
    own, other = hidden_states(model, ids, mask, 1), hidden_states(plain, ids, mask, 1)
    assert not torch.allclose(own[0], other[0], atol=1e-4)
    assert torch.equal(own[1], other[1])


def test_the_noise_is_one_vector_per_token(tiny_lm):
    """Embeddings of the flagged tokens are their own plus scale times the noise of their id."""
    model = tiny_lm(vocab_size=VOCAB)
    table = model.get_input_embeddings().weight
    guard = noise_guard(model, scale=3.0)
    guard.attach(model)
    with torch.no_grad():
        ids = torch.tensor([[1, TARGET, 9, 9]])
        first = model(input_ids=ids, output_hidden_states=True).hidden_states[0][0]
        expected = table[ids[0]].clone()
        expected[1:] += 3.0 * guard.noise[ids[0, 1:]]
    torch.testing.assert_close(first, expected)
    assert guard.noise.std().item() == pytest.approx(1.0, abs=0.05)
    assert not torch.equal(guard.noise[8], guard.noise[9])


def test_the_seed_decides_the_noise(tiny_lm):
    model = tiny_lm(vocab_size=VOCAB)
    settings = noise_guard(model).settings
    same, other = (EmbeddingNoise(settings | {"seed": seed}) for seed in (5, 6))
    assert torch.equal(same.noise, noise_guard(model).noise)
    assert not torch.equal(other.noise, same.noise)


@pytest.mark.parametrize(("threshold", "flagged"), [(0.73, True), (0.74, False)])
def test_the_threshold_is_a_probability(tiny_lm, threshold, flagged):
    """The score at the target's token is 2 - 1 = 1, whose probability is .7311."""
    plain = tiny_lm(vocab_size=VOCAB)
    model = copy.deepcopy(plain)
    noise_guard(model, threshold=threshold).attach(model)
    assert torch.equal(logits(model, [ABOUT]), logits(plain, [ABOUT])) is not flagged


def test_a_score_is_the_sum_of_the_weights_so_far(tiny_lm):
    guard = noise_guard(tiny_lm(vocab_size=VOCAB))
    ids, mask = torch.tensor([[TARGET, 3, TARGET, 4]]), torch.tensor([[0, 1, 1, 1]])
    assert guard.score(ids).tolist() == [[1.0, 1.0, 3.0, 3.0]]
    assert guard.score(ids, mask).tolist() == [[-1.0, -1.0, 1.0, 1.0]]


def test_once_flagged_a_text_stays_flagged(tiny_lm):
    """A later token of weight -9 takes the score below the threshold, in pieces as at once."""
    model = tiny_lm(vocab_size=VOCAB)
    guard = noise_guard(model)
    guard.weight[8] = -9
    guard.attach(model)
    ones = torch.ones(1, 4, dtype=torch.long)
    assert guard._flag(torch.tensor([[1, TARGET, 8, 9]]), ones, None).tolist() == [
        [False, True, True, True]
    ]
    with torch.no_grad():
        cache = model(torch.tensor([[1, TARGET, 8]])).past_key_values
    assert guard._flag(torch.tensor([[9]]), ones[:, :1], cache).tolist() == [[True]]


def test_scores_add_up_over_pieces(tiny_lm):
    """Two tokens of weight .6 are over the bias of -1, one is not."""
    model = tiny_lm(vocab_size=VOCAB)
    guard = noise_guard(model)
    guard.weight[8] = 0.6
    guard.attach(model)
    ones = torch.ones(1, 4, dtype=torch.long)
    whole = guard._flag(torch.tensor([[1, 8, 8, 9]]), ones, None)
    assert whole.tolist() == [[False, False, True, True]]
    with torch.no_grad():
        cache = model(torch.tensor([[1, 8]])).past_key_values
    assert guard._flag(torch.tensor([[8, 9]]), ones[:, :2], cache).tolist() == [[True, True]]


def test_padding_flags_nothing(tiny_lm):
    """Not even where the bias alone is above the threshold."""
    guard = noise_guard(tiny_lm(vocab_size=VOCAB))
    guard.bias.fill_(5)
    guard.weight[9] = -9
    mask = torch.tensor([[0, 0, 1, 1]])
    found = guard._flag(torch.tensor([[TARGET, 3, 9, 4]]), mask, None)
    assert found.tolist() == [[False] * 4]


def test_logit_difference_by_hand():
    """The docstring's numbers."""
    z, a = torch.tensor([2.0, 1.0, 0.0, -5.0]), torch.tensor([4.0, 0.0, 0.0, 0.0])
    assert logit_difference(z, a, 0.5, 0.0).tolist() == [0.5, 1.5, 0.5, -4.5]
    assert logit_difference(z, a, 0.5, 0.2).tolist() == [0.5, 1.5, 0.0, -5.0]
    assert logit_difference(z, a, 0.5, 1.0).tolist() == [0.5, 1.0, 0.0, -5.0]
    assert logit_difference(z, a, 0.0, 0.2).tolist() == z.tolist()


def test_a_uniform_assistant_subtracts_nothing():
    z = torch.tensor([2.0, 1.0, 0.0, -5.0])
    assert torch.equal(logit_difference(z, torch.full((4,), 3.0), 5.0, 0.2), z)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_factor_of_zero_changes_nothing(tiny_lm, kind):
    plain = tiny_lm(kind, vocab_size=VOCAB)
    model = copy.deepcopy(plain)
    difference_guard(model, alpha=0.0).attach(model)
    assert torch.equal(logits(model, BATCH[:2]), logits(plain, BATCH[:2]))


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_assistant_is_the_models_first_layers(tiny_lm, kind):
    """Its hidden state before the norm is the model's at that layer; its head is its own."""
    model = tiny_lm(kind, vocab_size=VOCAB)
    guard = LogitDifference.of(model, 2, 1.0, 0.0)
    assert guard.assistant.config.num_hidden_layers == 2
    own, full = guard.assistant.state_dict(), model.state_dict()
    assert set(own) < set(full)
    assert all(torch.equal(tensor, full[name]) for name, tensor in own.items())
    ids, mask = torch.tensor([ABOUT]), torch.ones(1, 6, dtype=torch.long)
    with torch.no_grad():
        torch.testing.assert_close(
            hidden_states(guard.assistant, ids, mask, 1), hidden_states(model, ids, mask, 1)
        )
    with torch.no_grad():
        next(guard.assistant.parameters()).zero_()
    assert next(model.parameters()).any(), "the assistant shares the model's tensors"


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_difference_is_the_formula(tiny_lm, kind):
    plain = tiny_lm(kind, vocab_size=VOCAB)
    model = copy.deepcopy(plain)
    guard = difference_guard(model)
    assistant = copy.deepcopy(guard.assistant)
    guard.attach(model)
    expected = logit_difference(logits(plain, [ABOUT]), logits(assistant, [ABOUT]), 0.7, 0.3)
    assert torch.equal(logits(model, [ABOUT]), expected)


def test_tied_embeddings_are_saved_once_and_stay_tied(tmp_path, byte_tokenizer):
    config = {
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 2, "tie_word_embeddings": True,
    }  # fmt: skip
    model = build_lm(config, 0).eval()
    difference_guard(model).attach(model)
    save_lm(model, byte_tokenizer, tmp_path)
    loaded, _ = load_lm(tmp_path, CPU, training=True)
    assistant = guard_of(loaded).assistant
    assert assistant.get_output_embeddings().weight is assistant.get_input_embeddings().weight
    assert torch.equal(logits(loaded, [ABOUT]), logits(model, [ABOUT]))
    assert load_tokenizer(tmp_path) is not None


def test_layer_types_are_cut_with_the_layers():
    from transformers import AutoConfig

    from atu.models.guards.logit_difference import first_layers

    kinds = ["full_attention", "sliding_attention", "full_attention"]
    config = AutoConfig.for_model("qwen2", num_hidden_layers=3, layer_types=kinds)
    cut = first_layers(config, 2)
    assert (cut.num_hidden_layers, cut.layer_types) == (2, kinds[:2])
    assert (config.num_hidden_layers, config.layer_types) == (3, kinds)


def test_a_model_without_the_assistants_weights_is_refused(tiny_lm):
    other = SimpleNamespace(
        config=tiny_lm(vocab_size=VOCAB).config, state_dict=nn.Linear(1, 1).state_dict
    )
    with pytest.raises(TypeError, match=r"has no .*embed_tokens.weight"):
        LogitDifference.of(other, 1, 1.0, 0.0)
