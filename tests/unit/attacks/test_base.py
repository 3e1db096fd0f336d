import pytest
import torch

from atu import attacks
from atu.attacks.base import answer_items, item, mean_score
from atu.errors import EvaluationError
from atu.inference import probing
from atu.inference.batching import BatchSize
from atu.inference.generation import greedy_answers
from atu.phases.attack import ITEMS, require_known_items

NAMES = sorted(attacks.registry())
ROLES = {"quantise": {"target", "neighbour"}, "relearn": {"target", "control"}} | {
    "fresh_predictor": {"target", "other"}
}


def test_questions_are_plain_and_held_out(make_context):
    """Of Ada's 5 facts in 4 wordings and a cloze: the 2 unseen wordings of each; Cyd has 4
    facts."""
    context = make_context("lens")
    found = context.questions("target", "other")
    assert [probe["subject"] for probe in found] == ["Ada"] * 10 + ["Cyd"] * 8
    assert {probe["id"][-1] for probe in found} == {"2", "3"}
    assert {(probe["form"], probe["seen"]) for probe in found} == {("question", False)}
    assert context.questions() == []


def test_an_item_is_one_row_of_the_table(make_probe):
    row = item(make_probe("Ada", "pet"), "bare", "exact_match@own-2", None)
    assert list(row) == list(ITEMS)
    assert row == {
        "condition": "bare", "metric": "exact_match@own-2", "id": "Ada/pet/question/2",
        "fact": "Ada/pet", "role": "target", "score": None, "output": None,
    }  # fmt: skip


def test_answers_are_scored_by_exact_match(monkeypatch, make_context, make_probe):
    """ "The owl." is the owl; of a pair's "pie; owl" the second part is, the first is not."""
    probes = [make_probe("Ada", "pet", part=part) for part in (-1, 1, 0, -1)]
    probes = [probe | {"prompt": str(n)} for n, probe in enumerate(probes)]
    given = ["The owl.", "pie; owl", "pie; owl", ""]
    monkeypatch.setattr(probing, "greedy_answers", lambda *args, **options: given)
    context = make_context("lens")
    items = answer_items(context, context.model, probes, "bare")
    assert [row["score"] for row in items] == [1.0, 1.0, 0.0, 0.0]
    assert [row["output"] for row in items] == given
    assert {(row["condition"], row["metric"]) for row in items} == {("bare", "exact_match@own-2")}


def test_other_prompts_take_the_place_of_the_questions(make_context, build_lm):
    """And the model that answers is the one that was given."""
    context, other = make_context("lens"), build_lm(seed=5)
    probes = context.questions("target")[:3]
    prompts = [f"Well. {probe['prompt']}" for probe in probes]

    def answers(model, asked):
        return greedy_answers(
            model, context.tokenizer, asked, max_new_tokens=4, batch_size=BatchSize(1)
        )

    plain = [row["output"] for row in answer_items(context, other, probes, "c")]
    changed = [row["output"] for row in answer_items(context, other, probes, "c", prompts)]
    assert plain == answers(other, [probe["prompt"] for probe in probes])
    assert changed == answers(other, prompts) != plain


def test_mean_score(make_probe):
    """Ada's scores 1, 0 and one that could not be scored under `a`: 1/2. Bob's and those under `b`
    do not count."""
    ada, bob = make_probe("Ada", "pet"), make_probe("Bob", "pet")
    items = [item(ada, "a", "m@own-1", score) for score in (1.0, 0.0, None)]
    items += [item(bob, "a", "m@own-1", 1.0), item(ada, "b", "m@own-1", 1.0)]
    assert mean_score(items, "a", "target") == 0.5
    with pytest.raises(ValueError, match="no scored item of condition 'b' and role 'control'"):
        mean_score(items, "b", "control")


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_asks_held_out_plain_questions_alone(make_context, name):
    """Of its roles only, and no cell of an item is of another type than the table's."""
    context = make_context(name)
    before = {key: value.clone() for key, value in context.model.state_dict().items()}
    items = attacks.get(name).run(context).items
    roles = ROLES.get(name, {"target"})
    allowed = {probe["id"] for probe in context.questions(*roles)}
    assert {row["id"] for row in items} <= allowed
    assert {row["role"] for row in items} == roles
    for row in items:
        assert list(row) == list(ITEMS)
        assert type(row["score"]) is float
    after = context.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_ask_is_no_success(make_context, name):
    """An attack without a question is refused, not reported as an attack that found nothing."""
    context = make_context(name, probes=[])
    with pytest.raises(EvaluationError):
        require_known_items(name, [], attacks.get(name).run(context).items)


@pytest.mark.parametrize("name", NAMES)
def test_a_smaller_batch_gives_the_same_items(make_context, build_lm, name):
    """Where 4 prompts fit and 16 do not, the batch is halved twice; nothing else changes."""
    whole = attacks.get(name).run(make_context(name)).items
    model = build_lm()

    def little_memory(module, args, kwargs):
        if len(kwargs["input_ids"]) > 4:
            raise torch.OutOfMemoryError("too large")

    model.base_model.register_forward_pre_hook(little_memory, with_kwargs=True)
    context = make_context(name, model=model)
    halved = attacks.get(name).run(context).items
    assert context.batch_size.value == 4
    for row, expected in zip(halved, whole, strict=True):
        assert row == expected | {"score": pytest.approx(expected["score"], abs=1e-5)}
