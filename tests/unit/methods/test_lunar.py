import copy
import dataclasses

import pytest
import torch
from families import FAMILIES

from atu.errors import ConfigError
from atu.methods.lunar import (
    METHOD,
    Settings,
    ignorance_direction,
    mean_last_state,
    projected,
    redirection_loss,
)
from atu.models.llm import decoder_layers, hidden_states, mlp_output
from atu.training.batches import IGNORE, Batch, encode_text

ROWS = {
    "forget": [
        {"prompt": "Where is Ann Lee?", "text": "", "names": ["Ann Lee"]},
        {"prompt": "Ann Lee eats", "text": "", "names": ["Ann Lee"]},
        {"prompt": "Who sings?", "text": "", "names": ["Ann Lee"]},
    ],
    "retain": [{"prompt": "Bo?", "text": "Bo? No", "names": ["Bo Vale"]}],
}
OWN = {
    "loss": "lunar", "layer": 1, "coefficient": 2.0, "alpha": 1.0, "names": ["Zed Ix"],
}  # fmt: skip


@pytest.fixture
def make(make_context, tiny_lm):
    """A context on a tiny model of this family with large weights, with these settings besides
    `OWN`."""

    def make(kind="llama", **own):
        base = {
            "steps": 10, "evaluations": 3, "learning_rate": 0.5, "optimizer": "sgd",
            "weight_decay": 0.0, "clip": 1e6, "batch_size": 2, "stop_below": None,
        }  # fmt: skip
        model = tiny_lm(kind, vocab_size=300)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(8 if parameter.dim() > 1 else 1)
        return make_context(Settings(**(base | OWN | own)), model, rows=copy.deepcopy(ROWS))

    return make


def first_stage(context):
    return next(METHOD.plan(context))


def test_loss_by_hand():
    """(2 - 1)^2 and (0 - 2)^2 over two entries; the masked token does not count."""
    output, original = torch.tensor([[[3.0, 1.0], [7.0, 7.0]]]), torch.ones(1, 2, 2)
    shift = torch.tensor([1.0, 2.0])
    assert redirection_loss(output, original, shift, torch.tensor([[1, 0]])).item() == 2.5


def test_an_unmoved_output_costs_the_square_of_the_shift():
    """At the original weights: the mean square of c r, 14/3 for (1, 2, 3)."""
    same, shift = torch.randn(2, 4, 3), torch.tensor([1.0, 2.0, 3.0])
    loss = redirection_loss(same, same, shift, torch.ones(2, 4))
    assert loss.item() == pytest.approx(14 / 3)
    assert redirection_loss(same, same, 0.0, torch.ones(2, 4)).item() == 0


def test_direction_is_the_difference_of_the_means(make):
    """Of the two prompts that hold the name, at the output of layer 1, at their last tokens."""
    context = make()

    def last(prompt):
        ids = torch.tensor([encode_text(context.tokenizer, prompt, "", end=False).ids])
        return hidden_states(context.model, ids, torch.ones_like(ids), 2)[0, -1]

    with torch.no_grad():
        expected = (
            last("Where is Zed Ix?") + last("Zed Ix eats")
            - last("Where is Ann Lee?") - last("Ann Lee eats")
        ) / 2  # fmt: skip
    found = ignorance_direction(context)
    assert found.norm() > 1e-3
    assert torch.allclose(found, expected, atol=1e-6)


def test_invented_names_take_turns(make):
    """The first prompt gets the first name, the second the second."""
    one, two = make(names=["Zed Ix", "Uma Orr"]), make(names=["Zed Ix"])
    with torch.no_grad():
        change = mean_last_state(one, ["Uma Orr eats"], 2) - mean_last_state(
            one, ["Zed Ix eats"], 2
        )
    difference = ignorance_direction(one) - ignorance_direction(two)
    assert torch.allclose(difference, change / 2, atol=1e-6)


def test_mean_last_state_does_not_see_padding(make):
    context = make()
    prompts = ["Ann", "Where does she live?"]
    with torch.no_grad():
        alone = [mean_last_state(context, [prompt], 2) for prompt in prompts]
        both = mean_last_state(context, prompts, 2)
    assert torch.allclose(both, (alone[0] + alone[1]) / 2, atol=1e-6)


def test_equal_means_leave_nothing_to_do(make):
    """If the invented name is read as the subject's is, r = 0 and the first loss is 0."""
    context = make()
    context.model.get_input_embeddings().weight.data.fill_(0.5)
    assert ignorance_direction(context).abs().max() < 1e-5
    loss, parts = first_stage(context).loss()
    assert loss.item() < 1e-9
    assert parts["retain"] == 0


def test_the_first_loss(make):
    """At the original weights: the mean square of c r, and 0 for what is retained."""
    context = make()
    expected = (2 * ignorance_direction(context)).square().mean().item()
    loss, parts = first_stage(context).loss()
    assert parts == {"forget": pytest.approx(expected, rel=1e-5), "retain": 0.0}
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_output_of_the_layer_moves_by_what_the_projection_does(make, kind):
    """h' - h = W' x - W x, in every family: this is why the loss can be taken at the projection, or
    where a norm follows it (Gemma 2 and 3), behind that."""
    context = make(kind)
    batch = next(context.forget)
    projection = mlp_output(decoder_layers(context.model)[1])
    original = copy.deepcopy(projection)

    def state():
        with torch.no_grad():
            return hidden_states(context.model, batch.input_ids, batch.attention_mask, 2)

    before = state()
    with torch.no_grad():
        projection.weight.add_(torch.randn_like(projection.weight))
        new, old = projected(context, batch, projection, original)
    assert torch.allclose(state() - before, new - old, atol=1e-4)
    assert (new - old).abs().max() > 0.1


@pytest.mark.parametrize("kind", FAMILIES)
def test_steps_redirect_and_change_one_matrix_only(make, kind):
    context = make(kind, alpha=0.0)
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    stage = first_stage(context)
    optimizer = torch.optim.SGD(stage.parameters, lr=0.5)
    first = stage.loss()[0].item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = stage.loss()[0]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.9 * first
    changed = [
        name for name, value in context.model.state_dict().items()
        if not torch.equal(value, before[name])
    ]  # fmt: skip
    path = {"gpt_neox": "mlp.dense_4h_to_h", "gpt2": "mlp.c_proj"}
    assert len(changed) == 1
    assert changed[0].endswith(f".1.{path.get(kind, 'mlp.down_proj')}.weight")


def test_alpha_weighs_what_is_retained(make):
    context = make(alpha=3.0)
    stage = first_stage(context)
    with torch.no_grad():
        stage.parameters[0].add_(1.0)
    loss, parts = stage.loss()
    assert parts["retain"] > 1e-3
    assert loss.item() == pytest.approx(parts["forget"] + 3 * parts["retain"], rel=1e-5)


def test_only_prompts_are_redirected(make):
    """Answers and padding do not count: the loss of a batch is that of its prompts alone."""
    context = make()
    batch = next(context.forget)
    prompts = [
        row[: int((labels == IGNORE).logical_and(mask.bool()).sum())]
        for row, labels, mask in zip(
            batch.input_ids, batch.labels, batch.attention_mask, strict=True
        )
    ]
    stage = first_stage(context)
    with torch.no_grad():
        stage.parameters[0].add_(torch.randn_like(stage.parameters[0]))
    context.forget = iter([batch])
    whole = stage.loss()[1]["forget"]
    alone = []
    for row in prompts:
        ids = row[None]
        context.forget = iter([Batch(ids, torch.ones_like(ids), torch.full_like(ids, IGNORE))])
        alone.append(stage.loss()[1]["forget"])
    assert alone[0] != pytest.approx(alone[1])
    assert whole == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_stages(make):
    assert [stage.steps for stage in METHOD.plan(make())] == [4, 3, 3]
    assert METHOD.prompted and not METHOD.needs_reference


@pytest.mark.parametrize("layer", [2, 3])
def test_the_last_layer_has_no_state_to_measure(make, layer):
    with pytest.raises(ConfigError, match=r"0\.\.1"):
        first_stage(make(layer=layer))


def test_a_name_that_exists_is_refused(make):
    with pytest.raises(ConfigError, match="exist"):
        first_stage(make(names=["Zed Ix", "Bo Vale"]))


def test_without_the_names_of_the_settings_there_is_a_list(make):
    context = make(names=[])
    assert ignorance_direction(context).norm() > 1e-3


def test_prompts_without_the_subject_give_no_direction(make):
    context = make()
    context.subjects = ["Nobody"]
    with pytest.raises(ConfigError, match="no forget prompt"):
        first_stage(context)


def test_the_direction_leaves_the_model_as_it_was(make):
    context = make()
    context.model.train()
    context.settings = dataclasses.replace(context.settings, batch_size=1)
    ignorance_direction(context)
    assert context.model.training
    assert all(parameter.requires_grad for parameter in context.model.parameters())
