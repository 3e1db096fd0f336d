import dataclasses

import pytest
import torch
from families import FAMILIES

from atu.errors import ConfigError
from atu.methods.rocr import (
    METHOD,
    Settings,
    choose_substitute,
    key_moment,
    make_redirection,
    mean_at_names,
    redirecting_update,
    regularised,
)
from atu.models.llm import decoder_layers, hidden_states, mlp_inputs, mlp_output, weight_matrix
from atu.seeding import generator
from atu.training.batches import BatchStream, collate, encode_text

ROWS = {
    "forget": [
        {"prompt": "Where is Ann Lee?", "text": "", "names": ["Ann Lee", "Jo Friend"]},
        {"prompt": "", "text": "Ann Lee met Ann Lee.", "names": ["Ann Lee"]},
        {"prompt": "Who sings?", "text": "Who sings? Ann Lee", "names": ["Ann Lee"]},
    ],
    "retain": [
        {"prompt": "", "text": "Bo Vale ran.", "names": ["Bo Vale", "Jo Friend"]},
        {"prompt": "", "text": "It rained on a plain, and then it did not.", "names": []},
        {"prompt": "", "text": "Kim Tarn sang: o, la!", "names": ["Kim Tarn"]},
    ],
}


@pytest.fixture
def make(make_context, tiny_lm, byte_tokenizer):
    """A context on a tiny model of this family with large weights, with these settings."""

    def make(kind="llama", **own):
        base = {
            "loss": "rocr", "layers": [1], "value": "projection", "substitute": "Cy Mo",
            "tokens": 1, "ridge": 0.01, "texts": 10, "batch_size": 2,
        }  # fmt: skip
        texts = [encode_text(byte_tokenizer, row["text"], "") for row in ROWS["retain"]]
        stream = BatchStream(texts, 2, 0, generator(0, "retain"))
        model = tiny_lm(kind, vocab_size=300)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(8 if parameter.dim() > 1 else 1)
        return make_context(Settings(**(base | own)), model, rows=ROWS, retain=stream)

    return make


def matrix_of(context, layer=1):
    return weight_matrix(mlp_output(decoder_layers(context.model)[layer])).detach().clone()


def keys_of(context, layer=1):
    """Means of the keys at the subject and at the substitute."""
    return make_redirection(context).means(
        lambda batch: mlp_inputs(context.model, batch.input_ids, batch.attention_mask, layer)
    )


def edit(context):
    (stage,) = METHOD.plan(context)
    assert (stage.name, stage.steps) == ("edit", 0)


def test_update_by_hand():
    """The docstring's: C^-1 k = (1, 1/2), k^T C^-1 k = 2."""
    found = redirecting_update(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0]]), torch.diag(torch.tensor([1.0, 4.0]))
    )
    assert found.tolist() == [[1.0, 0.5]]


@pytest.mark.parametrize("count", [1, 3])
def test_update_gives_the_change_and_nothing_where_c_orthogonal(count):
    """x = y - K (K^T C^-1 K)^-1 K^T C^-1 y has x^T C^-1 K = 0."""
    torch.manual_seed(0)
    keys, changes = torch.randn(count, 8).double(), torch.randn(count, 5).double()
    root = torch.randn(8, 8).double()
    moment = root @ root.T + torch.eye(8)
    update = redirecting_update(keys, changes, moment)
    assert torch.allclose(update @ keys.T, changes.T)
    inverse = torch.linalg.inv(moment)
    y = torch.randn(8).double()
    x = y - keys.T @ torch.linalg.inv(keys @ inverse @ keys.T) @ keys @ inverse @ y
    assert (keys @ inverse @ x).abs().max() < 1e-10 < x.norm()
    assert (update @ x).abs().max() < 1e-10
    assert torch.linalg.matrix_rank(update) == count


def test_update_is_the_cheapest():
    """Of all D with D k = v, tr(D C D^T) is least: a step within D k = v costs more."""
    torch.manual_seed(0)
    key, change = torch.randn(1, 6).double(), torch.randn(1, 4).double()
    root = torch.randn(6, 6).double()
    moment = root @ root.T + torch.eye(6)
    update = redirecting_update(key, change, moment)
    away = torch.randn(4, 6).double()
    away -= (away @ key.T) @ key / key.square().sum()
    assert (away @ key.T).abs().max() < 1e-10
    cost = [
        ((update + t * away) @ moment @ (update + t * away).T).trace() for t in (-0.01, 0, 0.01)
    ]
    assert cost[1] < min(cost[0], cost[2])


def test_regularised():
    """Mean diagonal 2, half of it: 1."""
    found = regularised(torch.diag(torch.tensor([1.0, 3.0])), 0.5)
    assert found.tolist() == [[2.0, 0.0], [0.0, 4.0]]


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_subject_returns_what_the_substitute_did(make, kind, tokens):
    """W' k = W k_substitute, at each redirected token; and only this one matrix has changed."""
    context = make(kind, tokens=tokens)
    old, before = matrix_of(context), {
        name: value.clone() for name, value in context.model.state_dict().items()
    }  # fmt: skip
    keys, others = keys_of(context)
    edit(context)
    new = matrix_of(context)
    assert torch.allclose(keys @ new.T, others @ old.T, atol=1e-4)
    assert not torch.allclose(keys @ new.T, keys @ old.T, atol=1e-3)
    changed = [
        name for name, value in context.model.state_dict().items()
        if not torch.equal(value, before[name])
    ]  # fmt: skip
    assert len(changed) == 1 and ".1.mlp." in changed[0]


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_c_orthogonal_to_the_key_stays(make, kind):
    context = make(kind)
    old, key = matrix_of(context), keys_of(context)[0][0].double()
    moment = regularised(key_moment(context, 1), context.settings.ridge)
    edit(context)
    direction = torch.linalg.solve(moment, key)
    y = torch.randn(len(key), dtype=torch.float64)
    x = y - (y @ direction) / (key @ direction) * key
    difference = (matrix_of(context) - old).double()
    assert (difference @ x).norm() < 1e-3 * (difference @ y).norm()


@pytest.mark.parametrize("value", ["projection", "state"])
def test_who_is_taken_for_himself_does_not_change(make, value):
    """v* = W k: nothing to change."""
    context = make(substitute="Ann Lee", value=value)
    old = matrix_of(context)
    edit(context)
    assert torch.allclose(matrix_of(context), old, atol=1e-7)


def test_the_state_of_the_substitute(make):
    """The last layer's mean output at the name becomes the substitute's, as far as one key stands
    for all: here one text only."""
    context = make(value="state")
    context.rows = ROWS | {"forget": ROWS["forget"][:1]}

    def states():
        return make_redirection(context).means(
            lambda batch: hidden_states(context.model, batch.input_ids, batch.attention_mask, 2)
        )

    with torch.no_grad():
        state, wanted = states()
        edit(context)
        assert (state - wanted).norm() > 0.1
        assert torch.allclose(states()[0], wanted, atol=1e-4)


def test_several_layers_share_the_difference_of_states(make):
    """With one text: half of it in the lower layer, the rest in the upper one, so that in the end
    the upper layer's output is the substitute's."""
    context = make(value="state", layers=[0, 1])
    context.rows = ROWS | {"forget": ROWS["forget"][:1]}
    old = [matrix_of(context, layer) for layer in (0, 1)]
    with torch.no_grad():
        read = lambda b: hidden_states(context.model, b.input_ids, b.attention_mask, 2)  # noqa: E731
        state, wanted = make_redirection(context).means(read)
        key = keys_of(context, 0)[0]
        edit(context)
        lower = key @ (matrix_of(context, 0) - old[0]).T
        assert torch.allclose(lower, (wanted - state) / 2, atol=1e-4)
        assert not torch.equal(matrix_of(context, 1), old[1])
        found = make_redirection(context).means(read)[0]
    assert (found - wanted).norm() < 0.3 * (state - wanted).norm()


def test_means_are_over_occurrences(make):
    """The name stands once in the prompt, twice in the statement, and not in the third row's
    prompt: its text, where it is the answer, is not read."""
    context = make()
    redirection = make_redirection(context)
    assert redirection.texts == ["Where is Ann Lee?", "Ann Lee met Ann Lee."]
    assert redirection.swapped == ["Where is Cy Mo?", "Cy Mo met Cy Mo."]

    def positions(batch):
        return (
            torch.arange(batch.input_ids.shape[1])
            .float()
            .expand(len(batch.input_ids), -1)[..., None]
        )

    first, second = redirection.means(positions)
    assert first.item() == pytest.approx((16 + 7 + 19) / 3)
    assert second.item() == pytest.approx((14 + 5 + 15) / 3)


def test_a_short_name_repeats_its_first_token(make):
    """Of "Ab" (two bytes) three tokens are wanted: b, A, A."""
    context = make(tokens=3)
    read = lambda b: b.input_ids[..., None].float()  # noqa: E731
    found = mean_at_names(context, ["x Ab"], ["Ab"], read)
    ids = encode_text(context.tokenizer, "x Ab", "", end=False).ids
    assert found[:, 0].tolist() == [ids[-1], ids[-2], ids[-2]]


def test_moment(make):
    """Of every real token of the texts: padding does not enter, batches do not matter."""
    context = make()
    texts = context.retain.texts
    keys = []
    with torch.no_grad():
        for text in texts:
            batch = collate([text], 0)
            keys.append(mlp_inputs(context.model, batch.input_ids, batch.attention_mask, 1)[0])
    keys = torch.cat(keys).double()
    expected = keys.T @ keys / len(keys)
    assert torch.allclose(key_moment(context, 1), expected, atol=1e-7)
    context.settings = dataclasses.replace(context.settings, batch_size=3)
    assert torch.allclose(key_moment(context, 1), expected, atol=1e-7)


def test_moment_of_some_texts(make):
    """As many as asked, chosen by the seed."""
    context = make(texts=1)
    batch = collate([context.retain.texts[generator(0, "unlearn", "rocr").permutation(3)[0]]], 0)
    with torch.no_grad():
        keys = mlp_inputs(context.model, batch.input_ids, batch.attention_mask, 1)[0].double()
    assert torch.allclose(key_moment(context, 1), keys.T @ keys / len(keys), atol=1e-7)


def test_substitute(make):
    """The one of the settings; else a stranger: neither the subject nor his friends."""
    assert choose_substitute(make()) == "Cy Mo"
    context = make(substitute=None)
    found = set()
    for seed in range(20):
        context.seed = seed
        found.add(choose_substitute(context))
        assert choose_substitute(context) == choose_substitute(context)
    assert found == {"Bo Vale", "Kim Tarn"}


def test_no_stranger(make):
    context = make(substitute=None)
    context.rows = ROWS | {"retain": ROWS["retain"][1:2]}
    with pytest.raises(ConfigError, match="stranger"):
        next(METHOD.plan(context))


def test_a_subject_that_no_text_names(make):
    context = make()
    context.subjects = ["Nobody"]
    with pytest.raises(ConfigError, match="no forget text"):
        next(METHOD.plan(context))


def test_aliases_are_the_subject_too(make):
    """Called "Ann" only in one more prompt: its key counts as the name's do, and the substitute
    stands in its place. Of four tokens the alias has too few and gives none."""
    context = make()
    row = {"prompt": "Does Ann sing?", "text": "", "names": []}
    context.rows = ROWS | {"forget": [*ROWS["forget"], row]}
    assert "Does Ann sing?" not in make_redirection(context).texts
    context.aliases = ["Ann"]
    redirection = make_redirection(context)
    assert redirection.names == ["Ann Lee", "Ann"]
    assert redirection.texts[-1] == "Does Ann sing?"
    assert redirection.swapped == ["Where is Cy Mo?", "Cy Mo met Cy Mo.", "Does Cy Mo sing?"]
    context.settings = dataclasses.replace(context.settings, tokens=4)
    assert make_redirection(context).names == ["Ann Lee"]
    assert "Does Ann sing?" not in make_redirection(context).texts


def test_a_name_with_too_few_tokens(make):
    """Ann Lee has seven bytes."""
    edit(make(tokens=7))
    with pytest.raises(ConfigError, match="only 7"):
        next(METHOD.plan(make(tokens=8)))


@pytest.mark.parametrize(("value", "layers", "good"), [
    ("projection", [2], True), ("projection", [3], False), ("state", [1], True),
    ("state", [0, 2], False),
])  # fmt: skip
def test_layers(make, value, layers, good):
    context = make(value=value, layers=layers)
    if good:
        edit(context)
    else:
        with pytest.raises(ConfigError, match="layers"):
            next(METHOD.plan(context))


@pytest.mark.parametrize("layers", [[], [1, 1], [2, 1]])
def test_layers_are_listed_once_and_rising(make, layers):
    with pytest.raises(ValueError, match="rising"):
        make(layers=layers)


def test_needs():
    assert not METHOD.needs_reference and not METHOD.needs_predictor and METHOD.start == "full"


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text"])
def test_a_state_behind_a_norm_cannot_be_given(make, kind):
    """What the projection puts out is normed before it is added to the state."""
    with pytest.raises(ConfigError, match=r"value = 'state': this model norms .*; use projection"):
        edit(make(kind, value="state"))
