from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atu.attacks import relearn
from atu.attacks.base import mean_score
from atu.attacks.relearn import AFTER, BEFORE, comparable, fine_tuned, split_facts
from atu.errors import EvaluationError
from atu.probes.prompts import join_answer
from atu.training.keeper import Trace

GAIN = "target.relearning_gain@own-1"
SHARED = {"pet", "dish", "town", "tool"}


@pytest.fixture
def taught(monkeypatch):
    """Every fine-tune asked for, in place of the fine-tune: its label and the rows; the model that
    comes back is the label."""
    calls = []

    def spy(context, rows, label):
        calls.append((label, list(rows)))
        return label, Trace([{"step": 1}])

    monkeypatch.setattr(relearn, "fine_tuned", spy)
    return calls


@pytest.fixture(scope="module")
def teach(tokenizer, all_probes):
    """A function that trains a copy of a model on what it knows of Ada, Bob and Cyd in all four
    wordings; `of_ada` replaces every answer about Ada."""

    def teach(model, steps, learning_rate, of_ada=None):
        rows = [
            {"prompt": p["prompt"], "text": join_answer(p["prompt"], answer)}
            for p in all_probes
            if p["role"] != "control" and p["form"] == "question"
            for answer in [of_ada if of_ada and p["role"] == "target" else p["answer"]]
        ]
        settings = relearn.Settings("relearn", 2, steps, learning_rate, 16, 1.0)
        given = SimpleNamespace(model=model, tokenizer=tokenizer, settings=settings, seed=1)
        return fine_tuned(given, rows, "learn")[0]

    return teach


@pytest.fixture(scope="module")
def knowing(build_lm, teach):
    """A model that really learned the facts about Ada, Bob and Cyd."""
    return teach(build_lm(seed=1), 250, 0.01)


def kinds(facts):
    return {fact.split("/")[1] for fact in facts}


@given(st.integers(2, 5), st.integers(5, 12), st.randoms())
def test_folds_partition_the_facts(folds, count, random):
    """Every fact in one part, parts of nearly equal size, whatever order the facts come in."""
    facts = [f"Ada/{number}" for number in range(count)]
    parts = split_facts(facts, folds)
    assert len(parts) == folds
    assert sum(map(len, parts)) == count and set.union(*parts) == set(facts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    shuffled = random.sample(facts, count)
    assert split_facts(shuffled, folds) == parts


def test_more_folds_than_facts():
    with pytest.raises(EvaluationError, match="2 facts cannot make 3 folds; lower `folds`"):
        split_facts(["a", "b"], 3)


@pytest.mark.parametrize(("role", "person"), [("target", "Ada"), ("control", "Una")])
def test_both_sides_are_about_the_same_attributes(make_context, rows_of, role, person):
    """A spouse is nothing that the people whom no model saw have. Asked are the 2 held-out wordings
    of 4 facts, taught the 2 trained wordings: questions alone, and of one person."""
    context = make_context("relearn")
    probes, rows = comparable(context, role, rows_of("Ada", "Una", "Ivo"))
    assert {probe["subject"] for probe in probes} == {person}
    assert kinds(probe["fact"] for probe in probes) == SHARED and len(probes) == 8
    assert {row["fact"] for row in rows} == {probe["fact"] for probe in probes}
    assert {row["form"] for row in rows} == {"question"} and len(rows) == 8
    assert not {row["prompt"] for row in rows} & {probe["prompt"] for probe in probes}


@pytest.mark.parametrize("missing", ["Ada/tool", "Una/tool"])
def test_an_attribute_that_one_side_is_not_asked_for(make_context, all_probes, missing):
    """The other side is then not asked for it either: else the control would be taught on another
    number of facts than the target. That Ivo is asked does not count, Una is the control."""
    context = make_context("relearn", probes=[p for p in all_probes if p["fact"] != missing])
    for role, corpus in (("target", context.forget), ("control", context.holdout)):
        probes, _ = comparable(context, role, corpus)
        assert kinds(probe["fact"] for probe in probes) == SHARED - {"tool"}, role


def test_without_a_control_nothing_is_scored(make_context, all_probes, asked, taught):
    """The gain would have nothing to be read against."""
    asked(relearn, lambda condition, probe: 0.0)
    probes = [probe for probe in all_probes if probe["role"] != "control"]
    with pytest.raises(EvaluationError, match="no question of the role 'control' to relearn"):
        relearn.run(make_context("relearn", probes=probes))


@pytest.mark.parametrize("folds", [2, 3])
def test_no_fold_is_taught_what_it_is_asked(make_context, asked, taught, folds):
    """The original answers everything once; each fold's model is asked the fold, and taught all
    other facts of the person, in the order target, control."""
    calls = asked(relearn, lambda condition, probe: 0.0)
    context = make_context("relearn", {"folds": folds})
    result = relearn.run(context)
    people = {"target": "Ada", "control": "Una"}
    before = [call for call in calls if call[0] == BEFORE]
    after = {model: probes for condition, model, probes, _ in calls if condition == AFTER}
    assert [model for _, model, *_ in before] == [context.model] * 2
    assert list(after) == [label for label, _ in taught] == [
        f"relearn {role}, fold {n}" for role in people for n in range(1, folds + 1)
    ]  # fmt: skip
    for label, rows in taught:
        known, new = {row["fact"] for row in rows}, {probe["fact"] for probe in after[label]}
        person = people[label.split()[1].rstrip(",")]
        assert known and new and not known & new
        assert known | new == {f"{person}/{kind}" for kind in SHARED}
    answered = sorted(probe["id"] for probes in after.values() for probe in probes)
    assert answered == sorted(probe["id"] for call in before for probe in call[2])
    roles = [row["role"] for row in result.tables["trace"]]
    assert roles == ["target"] * folds + ["control"] * folds


def test_the_gain_is_what_the_control_does_not_explain(make_context, asked, taught):
    """The target's score goes from 1/4 (the pet) to 3/4 (all but the pet), the control's from 0 to
    1/4: 1/2 - 1/4."""

    def score(condition, probe):
        pet = probe["type"] == "pet"
        if probe["role"] == "control":
            return float(pet and condition == AFTER)
        return float(pet == (condition == BEFORE))

    asked(relearn, score)
    assert relearn.run(make_context("relearn")).metrics == {GAIN: pytest.approx(0.25)}


def test_a_fine_tune_works_on_a_copy(make_context, rows_of, weights):
    """One row of the trace per step; the original keeps its weights, its mode and no gradient."""
    context = make_context("relearn", {"steps": 3})
    before = weights(context.model)
    model, trace = fine_tuned(context, rows_of("Ada")[2:6], "here")
    after = context.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not context.model.training and not model.training
    assert all(p.grad is None for p in context.model.parameters())
    changed = [
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    ]
    assert set(changed) == set(before)
    assert [(row["stage"], row["step"]) for row in trace.rows] == [("here", n) for n in (1, 2, 3)]


def test_a_fine_tune_follows_seed_and_label(make_context, rows_of):
    """No two folds, and no two seeds, see their batches in the same order."""

    def losses(seed, label):
        context = make_context("relearn", seed=seed)
        return [row["loss"] for row in fine_tuned(context, rows_of("Ada")[2:], label)[1].rows]

    assert losses(0, "a") == losses(0, "a")
    assert losses(0, "a") != losses(1, "a")
    assert losses(0, "a") != losses(0, "b")


def test_hidden_knowledge_comes_back(make_context, teach, knowing):
    """A model that knew Ada was then taught to say nothing of her: a short fine-tune on half of her
    facts brings facts of the other half back. Of Una it never knew anything, and nothing comes."""
    hiding = teach(knowing, 60, 0.001, of_ada="no idea")
    settings = {"steps": 20, "learning_rate": 0.001, "batch_size": 8}
    context = make_context("relearn", settings, model=hiding)
    known = relearn.answer_items(context, knowing, context.questions("target"), "known")
    assert mean_score(known, "known", "target") >= 0.75
    result = relearn.run(context)
    before, after, control = (
        mean_score(result.items, *which)
        for which in ((BEFORE, "target"), (AFTER, "target"), (AFTER, "control"))
    )
    assert before <= 0.25 <= after - before
    assert control == 0 and result.metrics[GAIN] == after - before


def test_what_is_taught_is_learned(make_context, rows_of, knowing):
    """Una's facts, taught in two wordings, are answered in the other two; by the copy alone. So
    what she is not taught stays unknown for want of knowledge, not of training."""
    settings = {"steps": 40, "batch_size": 8}
    context = make_context("relearn", settings, model=knowing)
    asked, rows = comparable(context, "control", rows_of("Una"))
    model, _ = fine_tuned(context, rows, "all")
    items = relearn.answer_items(context, model, asked, "taught")
    items += relearn.answer_items(context, knowing, asked, "untaught")
    assert mean_score(items, "taught", "control") >= 0.75
    assert mean_score(items, "untaught", "control") == 0
