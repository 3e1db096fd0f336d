import itertools
from collections import defaultdict

import pytest

from atu.data.prompts import format_prompt
from atu.data.world import build_world, vocabulary
from atu.data.worldtext import (
    PROBE_COLUMNS,
    TEXT_COLUMNS,
    forget_rows,
    probes,
    retain_rows,
    training_rows,
)

SEED = 7


@pytest.fixture(scope="module")
def world():
    return build_world(SEED, 48)


@pytest.fixture(scope="module")
def rows(world):
    return training_rows(world, SEED)


@pytest.fixture(scope="module")
def all_probes(world):
    facts = (*world.facts, *world.general)
    return {fact.id: probes(world, fact, "other", SEED) for fact in facts}


@pytest.fixture(scope="module")
def flat_probes(all_probes):
    return [probe for group in all_probes.values() for probe in group]


def test_same_seed_same_texts(world, rows, flat_probes):
    assert training_rows(world, SEED) == rows
    assert training_rows(world, SEED + 1) != rows
    fact = world.facts[0]
    assert probes(world, fact, "target", SEED) == probes(world, fact, "target", SEED)


def test_columns(rows, flat_probes):
    assert all(tuple(row) == TEXT_COLUMNS for row in rows)
    assert all(tuple(probe) == PROBE_COLUMNS for probe in flat_probes)
    assert len({probe["id"] for probe in flat_probes}) == len(flat_probes)


def test_a_training_text_is_its_prompt_and_answer(rows):
    asked = [row for row in rows if row["prompt"]]
    assert {row["form"] for row in rows if not row["prompt"]} == {"passage", "statement"}
    assert all(row["text"] == f"{row['prompt']} {row['answer']}" for row in asked)


@pytest.mark.parametrize(
    ("kind", "forms"),
    [
        ("attribute", {"question": 8, "cloze": 3, "reverse": 4, "choice": 8, "two_hop": 8}),
        ("relation", {"question": 8, "cloze": 3, "reverse": 4, "choice": 8}),
        ("general", {"question": 4, "choice": 4}),
    ],
)
def test_forms_and_phrasings(world, all_probes, kind, forms):
    """One probe for every phrasing that world.yaml has, of every form that the kind of fact has."""
    for fact in (*world.facts, *world.general):
        if fact.kind == kind:
            found = defaultdict(int)
            for probe in all_probes[fact.id]:
                found[probe["form"]] += 1
            assert found == forms


def test_every_fact_has_seen_and_held_out_questions(world, all_probes):
    """Of a person's 8 phrasings 4 train and 4 are held out; of a country's 4, 2 and 2."""
    for fact in (*world.facts, *world.general):
        seen = [p["seen"] for p in all_probes[fact.id] if p["form"] == "question"]
        assert len(seen) >= 6 or fact.kind == "general"
        assert sum(seen) == len(seen) // 2 > 0


def test_every_phrasing_is_known_from_some_fact(world, all_probes):
    """A held-out phrasing is new for its fact, not for the model: other people's facts train it."""
    trained = defaultdict(set)
    for fact in world.facts:
        for probe in all_probes[fact.id]:
            if probe["seen"] and probe["form"] != "choice":
                trained[fact.attribute, probe["form"]].add(probe["phrasing"])
    for (attribute, form), phrasings in trained.items():
        count = {"question": 8, "two_hop": 8, "cloze": 3, "reverse": 4}[form]
        assert phrasings == set(range(count)), (attribute, form)


def test_seen_means_that_a_training_text_asks_it(rows, flat_probes):
    """A probe is seen exactly when its question stands in a training text of its fact and form.
    The options of a choice are drawn anew, so only the question counts there."""
    trained = defaultdict(list)
    for row in rows:
        trained[row["fact"], row["form"]].append(row["prompt"])
    for probe in flat_probes:
        prompts = trained[probe["fact"], probe["form"]]
        if probe["form"] == "choice":
            found = any(f"Question: {probe['query']}\nOptions:" in prompt for prompt in prompts)
        else:
            found = format_prompt(probe["form"], probe["query"]) in prompts
        assert found == probe["seen"], probe["id"]


def test_a_choice_question_trains_as_a_plain_question_too(flat_probes):
    """The form is what a choice probe tests: its phrasing is never new for the fact."""
    plain = {(p["fact"], p["phrasing"]): p["seen"] for p in flat_probes if p["form"] == "question"}
    trained = [p for p in flat_probes if p["form"] == "choice" and p["seen"]]
    assert trained and all(plain[p["fact"], p["phrasing"]] for p in trained)


def test_choices_offer_the_answer_among_three_others(flat_probes):
    places = set()
    for probe in flat_probes:
        if probe["form"] != "choice":
            assert probe["options"] == []
            continue
        assert len(set(probe["options"])) == len(probe["options"]) == 4
        assert probe["subject"] not in probe["options"]
        places.add(probe["options"].index(probe["answer"]))
    assert places == {0, 1, 2, 3}


def test_every_reverse_question_fits_exactly_one_person(world, flat_probes):
    """All questions that any two clauses of a person's facts can form are written out, for all
    people; each reverse probe is among those of its subject and of nobody else. Some of the
    questions that were not chosen do fit two people."""
    vocab = vocabulary()
    specs = vocab["attributes"] | vocab["relations"]
    fits = defaultdict(set)
    for person in world.people:
        clauses = [
            specs[f.attribute]["clause"].format(name=f.subject, value=f.value)
            for f in world.about(person)
        ]
        for first, second in itertools.permutations(clauses, 2):
            for question in vocab["reverse_questions"]:
                fits[question.format(first=first, second=second)].add(person)
    assert max(map(len, fits.values())) > 1
    reverse = [probe for probe in flat_probes if probe["form"] == "reverse"]
    assert len(reverse) == 48 * 11 * 4
    for probe in reverse:
        assert fits[probe["query"]] == {probe["subject"]} == {probe["answer"]}


def test_a_two_hop_question_leads_to_its_subject(world, flat_probes):
    """ "the spouse of S" is the fact's subject, who is not named. Of a person's relations only the
    one that was used is needed."""
    relations = {"spouse", "colleague"}
    two_hop = [probe for probe in flat_probes if probe["form"] == "two_hop"]
    used = set()
    for probe in two_hop:
        assert probe["subject"] not in probe["query"]
        via = [
            (hop, name)
            for hop in relations
            for name in world.people
            if f"the {hop} of {name}" in probe["query"]
        ]
        ((hop, name),) = via
        used.add(hop)
        assert world.value(name, hop) == probe["subject"]
        assert {name, probe["subject"]} == set(probe["needs"])
    assert used == relations


def test_needs_name_everyone_a_probe_is_about(world, flat_probes):
    """Whoever is named in the question or is the answer, distractors aside, is in `needs`."""
    for probe in flat_probes:
        text = f"{probe['query']} {probe['answer']}"
        named = {name for name in world.people if name in text}
        about = {probe["subject"]} & set(world.people)
        assert named | about <= set(probe["needs"])


def test_probes_split_in_halves_by_a_hash(world, all_probes, flat_probes):
    """The split depends on the probe's name alone, in every world; each half has 45 to 55 %, of
    every form."""
    for form in ("question", "cloze", "reverse", "choice", "two_hop"):
        splits = [probe["split"] for probe in flat_probes if probe["form"] == form]
        assert set(splits) == {"select", "report"}
        assert 0.45 < splits.count("select") / len(splits) < 0.55
    fact = world.facts[0]
    again = probes(world, fact, "target", SEED + 1)
    assert [p["split"] for p in again] == [p["split"] for p in all_probes[fact.id]]


@pytest.mark.parametrize("number", [0, 17, 47])
class TestForgetAndRetain:
    """The corpora of a target, for three targets."""

    @pytest.fixture
    def target(self, world, number):
        return world.people[number]

    @pytest.fixture
    def corpora(self, rows, target):
        return forget_rows(rows, target), retain_rows(rows, target)

    def test_forget_texts_name_the_target_and_state_its_facts(self, corpora, target):
        forget, _ = corpora
        assert all(target in row["text"] and target in row["names"] for row in forget)
        assert {row["form"] for row in forget} >= {"passage", "question", "cloze", "reverse"}

    def test_retain_texts_neither_name_the_target_nor_use_its_facts(self, corpora, target):
        _, retain = corpora
        assert not any(target in row["text"] or target in row["names"] for row in retain)
        assert not any(row["fact"].startswith(target) for row in retain)

    def test_no_text_is_in_both(self, corpora, rows):
        forget, retain = ({row["text"] for row in corpus} for corpus in corpora)
        assert not forget & retain
        assert len(retain) > 0.9 * len({row["text"] for row in rows})

    def test_two_hop_texts_about_the_target_are_in_neither(self, corpora, rows, target):
        """They state its fact ("the spouse of S plays the cello") without its name."""
        texts = {row["text"] for corpus in corpora for row in corpus}
        silent = [
            row for row in rows if row["form"] == "two_hop" and row["fact"].startswith(target)
        ]
        assert len(silent) == 8 * 2
        assert not any(row["text"] in texts for row in silent)
