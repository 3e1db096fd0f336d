from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atu.attacks import relearn
from atu.attacks.base import item, mean_score
from atu.attacks.relearn import (
    AFTER,
    BEFORE,
    TAUGHT,
    Tuned,
    averaged,
    comparable,
    fine_tuned,
    split_facts,
)
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.probes.prompts import join_answer
from atu.training.keeper import Trace

GAIN = "target.relearning_gain@own-1"
STEPS = {role: f"{role}.relearning_steps@own-1" for role in ("target", "control")}
SHARED = {"pet", "dish", "town", "tool"}


@pytest.fixture
def taught(monkeypatch):
    """Every fine-tune asked for, in place of the fine-tune: its label, the rows and the probes that
    are looked at, which are answered after as many steps as it is the call; the model that comes
    back is the label."""
    calls = []

    def spy(context, rows, known, label):
        calls.append((label, list(rows), list(known)))
        found = [item(probe, TAUGHT, probe["measure"], 1.0) for probe in known]
        return Tuned(label, found, Trace([{"step": n + 1} for n in range(len(calls))]))

    monkeypatch.setattr(relearn, "fine_tuned", spy)
    return calls


@pytest.fixture(scope="module")
def teach(tokenizer, all_probes):
    """A function that trains a copy of a model on what it knows of Ada, Bob and Cyd in all four
    wordings; `of_ada` replaces every answer about Ada."""

    def teach(model, steps, learning_rate, of_ada=None):
        known = [
            p | {"answer": of_ada if of_ada and p["role"] == "target" else p["answer"]}
            for p in all_probes
            if p["role"] != "control" and p["form"] == "question"
        ]
        rows = [p | {"text": join_answer(p["prompt"], p["answer"])} for p in known]
        settings = relearn.Settings("relearn", 2, 1.0, steps, steps, learning_rate, 16, 1.0)
        given = SimpleNamespace(
            model=model, tokenizer=tokenizer, settings=settings, seed=1, max_new_tokens=4,
            batch_size=BatchSize(64), further=None,
        )  # fmt: skip
        return fine_tuned(given, rows, known[:1], "learn").model

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
    assert list(after) == [label for label, *_ in taught] == [
        f"relearn {role}, fold {n}" for role in people for n in range(1, folds + 1)
    ]  # fmt: skip
    for label, rows, asked_for in taught:
        known, new = {row["fact"] for row in rows}, {probe["fact"] for probe in after[label]}
        assert {probe["fact"] for probe in asked_for} == known
        assert not {row["prompt"] for row in rows} & {probe["prompt"] for probe in asked_for}
        person = people[label.split()[1].rstrip(",")]
        assert known and new and not known & new
        assert known | new == {f"{person}/{kind}" for kind in SHARED}
    answered = sorted(probe["id"] for probes in after.values() for probe in probes)
    assert answered == sorted(probe["id"] for call in before for probe in call[2])
    taught_ids = [row["id"] for row in result.items if row["condition"] == TAUGHT]
    assert sorted(taught_ids) == answered  # each once, however many folds teach it
    roles = [row["role"] for row in result.tables["trace"]]
    assert roles == sorted(roles, reverse=True)  # first the target
    mean = (folds + 1) / 2  # of 1, 2, .. folds steps; the control's are `folds` more each
    assert [result.metrics[STEPS[role]] for role in people] == [mean, mean + folds]


def test_the_gain_is_what_the_control_does_not_explain(make_context, asked, taught):
    """The target's score goes from 1/4 (the pet) to 3/4 (all but the pet), the control's from 0 to
    1/4: 1/2 - 1/4."""

    def score(condition, probe):
        pet = probe["type"] == "pet"
        if probe["role"] == "control":
            return float(pet and condition == AFTER)
        return float(pet == (condition == BEFORE))

    asked(relearn, score)
    assert relearn.run(make_context("relearn")).metrics[GAIN] == pytest.approx(0.25)


def test_a_fine_tune_ends_when_the_taught_facts_are_answered(make_context, rows_of, asked):
    """Looked at before the first step and after every second: the mean of both probes is 1/2 at
    the first two looks, and 1 at the third, after 4 of at most 9 steps; .75 would be no less."""
    context = make_context("relearn", {"until": 0.75, "every": 2, "steps": 9})
    known, rows = comparable(context, "target", rows_of("Ada"))
    calls = asked(relearn, lambda condition, probe: float(len(calls) >= 3 or probe is known[0]))
    tuned = fine_tuned(context, rows, known[:2], "here")
    assert [condition for condition, *_ in calls] == [TAUGHT] * 3
    assert [row["step"] for row in tuned.trace.rows] == [1, 2, 3, 4]
    assert [row["score"] for row in tuned.taught] == [1.0, 1.0]


def test_a_fine_tune_that_never_gets_there_ends_all_the_same(make_context, rows_of, asked):
    """After 5 steps, the last stretch shorter; its items say that it did not."""
    context = make_context("relearn", {"until": 0.5, "every": 2, "steps": 5})
    known, rows = comparable(context, "control", rows_of("Una"))
    calls = asked(relearn, lambda condition, probe: 0.0)
    tuned = fine_tuned(context, rows, known, "here")
    assert [row["step"] for row in tuned.trace.rows] == [1, 2, 3, 4, 5] and len(calls) == 4
    assert {row["score"] for row in tuned.taught} == {0.0}


def test_what_answers_already_is_not_trained(make_context, rows_of, asked, weights):
    context = make_context("relearn")
    asked(relearn, lambda condition, probe: 1.0)
    known, rows = comparable(context, "target", rows_of("Ada"))
    tuned = fine_tuned(context, rows, known, "here")
    assert tuned.trace.rows == []
    before, after = weights(context.model), tuned.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_fact_that_several_folds_teach_counts_once(make_probe):
    """Answered after one fine-tune and not after the other: 1/2."""
    pet, dish = make_probe("Ada", "pet"), make_probe("Ada", "dish")
    given = [(pet, 1.0), (dish, 1.0), (pet, 0.0)]
    found = averaged([item(p, TAUGHT, "m@own-1", score, "x") for p, score in given])
    assert [(row["id"], row["score"]) for row in found] == [(pet["id"], 0.5), (dish["id"], 1.0)]


def test_looks_are_no_rarer_than_the_end():
    with pytest.raises(ValueError, match="every 3 must be at most steps = 2"):
        relearn.Settings("relearn", 2, 0.95, 3, 2, 0.1, 4, 1.0)


def test_a_fine_tune_works_on_a_copy(make_context, rows_of, weights):
    """One row of the trace per step; the original keeps its weights, its mode and no gradient."""
    context = make_context("relearn", {"steps": 3})
    before = weights(context.model)
    tuned = fine_tuned(context, rows_of("Ada")[2:6], context.questions("target"), "here")
    model, trace = tuned.model, tuned.trace
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
        tuned = fine_tuned(context, rows_of("Ada")[2:], context.questions("target"), label)
        return [row["loss"] for row in tuned.trace.rows]

    assert losses(0, "a") == losses(0, "a")
    assert losses(0, "a") != losses(1, "a")
    assert losses(0, "a") != losses(0, "b")


def test_hidden_knowledge_comes_back(make_context, teach, knowing):
    """A model that knew Ada was then taught to say nothing of her: a fine-tune on half of her facts
    brings facts of the other half back. Of Una it never knew anything; what she is taught is
    learned, in more steps, and nothing else comes."""
    hiding = teach(knowing, 60, 0.001, of_ada="no idea")
    settings = {
        "until": 0.75, "every": 10, "steps": 200, "learning_rate": 0.001, "batch_size": 8,
    }  # fmt: skip
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
    assert all(mean_score(result.items, TAUGHT, role) >= 0.75 for role in STEPS)
    assert result.metrics[STEPS["target"]] < result.metrics[STEPS["control"]]
