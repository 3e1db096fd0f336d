import copy

import pytest
import torch
import torch.nn.functional as F

from atu.methods import eco
from atu.models.guards.base import guard_of
from atu.training.batches import right_padded

VOCAB = 300


def settings(sigma=3.0, threshold=0.5):
    return eco.Settings("eco", sigma, threshold)


def corpora(number=40):
    """Questions about Ann and about others, and passages; what tells them apart is the name."""
    asked = ["born", "raised", "wed", "paid"]
    verbs = [asked[i % 4] for i in range(number)]
    ours = [{"prompt": f"Where was Ann {verb}?", "answer": "x"} for verb in verbs]
    names = ["Bob", "Cyd", "Dot", "Eve", "Fay"]
    theirs = [
        {"prompt": f"Where was {names[i % 5]} {verb}?", "answer": "y"}
        for i, verb in enumerate(verbs)
    ]
    rows = {"forget": ours, "retain": theirs}
    for role in rows.values():
        for row in role:
            row["text"] = f"{row['prompt']} {row['answer']}"
    rows["forget"].append({"text": "Ann lived.", "prompt": "", "answer": ""})
    rows["retain"].append({"text": "Bob lived.", "prompt": "", "answer": ""})
    return rows


@pytest.fixture
def trained(make_context, tiny_lm):
    """A function that runs the method: the context, and the model without its guard."""

    def run(rows=None, **own):
        model = tiny_lm(vocab_size=VOCAB)
        plain = copy.deepcopy(model)
        context = make_context(settings(**own), model=model, rows=rows or corpora())
        (stage,) = eco.METHOD.plan(context)
        assert (stage.name, stage.steps, stage.evaluate) == ("noise", 0, True)
        return context, plain

    return run


def logits(model, tokenizer, text):
    with torch.no_grad():
        return model(torch.tensor([tokenizer(text)["input_ids"]])).logits


def test_texts_about_the_target_get_noise_and_others_none(trained, byte_tokenizer):
    """Held-out wordings of either; those that are not flagged are the plain model's to the bit."""
    context, plain = trained()
    for text in ("When was Ann paid?", "Ann lived where?"):
        assert not torch.allclose(
            logits(context.model, byte_tokenizer, text), logits(plain, byte_tokenizer, text)
        )
    for text in ("When was Bob paid?", "Where did Dot wed?", "Fay lived."):
        assert torch.equal(
            logits(context.model, byte_tokenizer, text), logits(plain, byte_tokenizer, text)
        )


def test_no_noise_before_the_name(trained, byte_tokenizer):
    context, plain = trained()
    found = logits(context.model, byte_tokenizer, "Where was Ann paid?")[0]
    expected = logits(plain, byte_tokenizer, "Where was Ann paid?")[0]
    before = len(byte_tokenizer("Where was ")["input_ids"])
    assert torch.equal(found[:before], expected[:before])
    assert not torch.allclose(found[-1], expected[-1], atol=1e-4)


def test_the_shares_that_are_flagged_are_measured(trained):
    context, _ = trained()
    assert context.measured == {"flagged_forget": 1.0, "flagged_retain": 0.0}
    rows = corpora()
    rows["retain"] += rows["forget"][:41]
    context, _ = trained(rows, threshold=0.01)
    assert context.measured["flagged_retain"] >= 0.5


def test_the_strength_is_in_deviations_of_the_table(trained):
    context, plain = trained(sigma=2.0)
    table = plain.get_input_embeddings().weight
    assert guard_of(context.model).settings["scale"] == pytest.approx(2 * table.std().item())


def test_no_strength_changes_nothing(trained, byte_tokenizer):
    context, plain = trained(sigma=0.0)
    text = "Where was Ann paid?"
    assert torch.equal(
        logits(context.model, byte_tokenizer, text), logits(plain, byte_tokenizer, text)
    )


def test_the_seed_decides_the_noise_and_nothing_else(make_context, tiny_lm):
    guards = []
    for seed in (0, 0, 1):
        context = make_context(
            settings(), model=tiny_lm(vocab_size=VOCAB), rows=corpora(), seed=seed
        )
        list(eco.METHOD.plan(context))
        guards.append(guard_of(context.model))
    assert torch.equal(guards[0].noise, guards[1].noise)
    assert not torch.equal(guards[0].noise, guards[2].noise)
    assert all(torch.equal(guard.weight, guards[0].weight) for guard in guards)


def test_the_classifier_is_at_the_minimum_of_its_loss():
    """Forget texts as wholes, beginnings of retain texts; both classes weigh the same. The gradient
    of the loss, written down anew, is zero at the fit. No weights tell these texts apart, so that
    the loss has some slope elsewhere."""
    forget, retain = [[3, 4], [3, 5], [3], [5]], [[4, 5, 4], [5], [3, 6, 6]]
    weight, bias = eco.fit_classifier(forget, retain, 7)
    weight, bias = weight.clone().requires_grad_(True), bias.clone().requires_grad_(True)
    ours = torch.stack([weight[torch.tensor(row)].sum() + bias for row in forget])
    theirs = torch.stack(
        [
            weight[torch.tensor(row[:end])].sum() + bias
            for row in retain
            for end in range(1, len(row) + 1)
        ]
    )
    loss = F.softplus(-ours).mean() + F.softplus(theirs).mean()
    (loss + eco.RIDGE * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-4
    assert bias.grad.abs() < 1e-4
    assert weight[3] > 0 > weight[6]
    assert weight[0] == 0


def test_padding_has_no_part_in_the_fit():
    """Id 0 pads; as a token of a text it counts."""
    short = eco.fit_classifier([[3]], [[4]], 5)
    ids, _ = right_padded([[3], [3, 3]], 0)
    assert ids.tolist() == [[3, 0], [3, 3]]
    long = eco.fit_classifier([[3], [3]], [[4], [4]], 5)
    torch.testing.assert_close(short[0], long[0], atol=1e-3, rtol=1e-3)
    mixed, _ = eco.fit_classifier([[3], [3, 3]], [[4], [4, 4]], 5)
    assert mixed[0] == 0
    used, _ = eco.fit_classifier([[3, 0]], [[4]], 5)
    assert used[0] > 0


def test_the_weights_stay(trained):
    context, plain = trained()
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, context.model.get_parameter(name))
    assert eco.METHOD.keeps_weights
