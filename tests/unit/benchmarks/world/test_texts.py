import itertools
import re
from collections import defaultdict

import pytest

from atu.benchmarks.world.forms import WRAPPED, forms_of, partner
from atu.benchmarks.world.people import build_world
from atu.benchmarks.world.texts import (
    TEXT_COLUMNS,
    TRAIN_PHRASINGS,
    TRAIN_SHARES,
    forget_rows,
    holdout_rows,
    phrasing_order,
    probes,
    retain_rows,
    training_rows,
)
from atu.probes.prompts import FORMS, SHARED_TEXT, part_of
from atu.results.tables import PROBES

SEED = 7
PHRASINGS = {
    "question": 8, "cloze": 3, "reverse": 4, "synonym": 2, "cross_lingual": 3, "two_hop": 8,
}  # fmt: skip
"""How many of each form world.yaml has for a person's fact."""
ASKED = [form for form in FORMS if form != "alias"]
"""Nobody in the world has another name."""


@pytest.fixture(scope="module")
def world():
    return build_world(SEED, 24, 4)


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


def test_same_seed_same_texts():
    world = build_world(SEED, 8)
    fact = world.facts[0]
    for make in (training_rows, lambda world, seed: probes(world, fact, "target", seed)):
        first, again, other = (make(world, seed) for seed in (SEED, SEED, SEED + 1))
        assert first == again != other


def test_columns(rows, flat_probes):
    assert all(tuple(row) == TEXT_COLUMNS for row in rows)
    assert all(tuple(probe) == tuple(PROBES) for probe in flat_probes)
    assert len({probe["id"] for probe in flat_probes}) == len(flat_probes)


def test_a_training_text_is_its_prompt_and_answer(rows):
    """Asked in every form; what is not asked is a biography or a statement."""
    asked = [row for row in rows if row["prompt"]]
    assert {row["form"] for row in asked} == set(ASKED)
    assert {row["form"] for row in rows if not row["prompt"]} == {"passage", "statement"}
    assert all(row["text"] == f"{row['prompt']} {row['answer']}" for row in asked)


def test_every_phrasing_of_a_form_is_probed_once(world, all_probes):
    """All that world.yaml has, of every form that the kind of fact has. A wrapped form has the 4
    held-out plain questions of a person's fact, and those of its own that train: 2 choices, 3
    spellings, 1 of any other, or none where the form does not train. Of a country's 4 questions 2
    are held out, and 2 choices train or none."""
    for fact in (*world.facts, *world.general):
        found = defaultdict(list)
        for probe in all_probes[fact.id]:
            found[probe["form"]].append(probe["phrasing"])
        assert set(found) == set(forms_of(fact))
        for form, phrasings in found.items():
            assert len(set(phrasings)) == len(phrasings)
            held_out, trained = (2, 2) if fact.kind == "general" else (
                4, {"choice": 2, "spelling": 3}.get(form, 1)
            )  # fmt: skip
            if form in WRAPPED:
                assert len(phrasings) in (held_out, held_out + trained)
            else:
                assert len(phrasings) == (4 if fact.kind == "general" else PHRASINGS[form])


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
            if probe["seen"]:
                trained[fact.attribute, probe["form"]].add(probe["phrasing"])
    for (attribute, form), phrasings in trained.items():
        if form in PHRASINGS:
            assert phrasings == set(range(PHRASINGS[form])), (attribute, form)


@pytest.mark.parametrize("form", ASKED)
def test_each_form_trains_for_some_facts_and_is_held_out_for_others(world, all_probes, form):
    """As many as the shares say (to 0.1), of 264 facts about people; the rest have no training
    text of the form. Where every fact trains, some phrasings of each are held out; as the forms'
    order is the plain question's, a wrapped form's training phrasings are the first of it."""
    groups = [
        (fact, [p for p in all_probes[fact.id] if p["form"] == form])
        for fact in world.facts
        if form in forms_of(fact)
    ]
    counts = [sum(probe["seen"] for probe in group) for _, group in groups]
    assert set(counts) == {TRAIN_PHRASINGS.get(form, 1)} | ({0} if form in TRAIN_SHARES else set())
    share = sum(count > 0 for count in counts) / len(counts)
    assert share == pytest.approx(TRAIN_SHARES.get(form, 1.0), abs=0.1)
    for fact, group in groups:
        assert not all(probe["seen"] for probe in group)
        plain = phrasing_order(fact, "question", 8)
        if form in WRAPPED:
            seen = {probe["phrasing"] for probe in group if probe["seen"]}
            assert seen == set(plain[: len(seen)])


def without_options(prompt):
    """The options of a choice are drawn anew: only the question counts there."""
    return "\n".join(line for line in prompt.split("\n") if not line.startswith("Options: "))


def test_seen_means_that_a_training_text_asks_it(rows, flat_probes):
    """A probe of any form is seen exactly when its prompt stands in a training text of its fact and
    form, with the same answer."""
    trained = defaultdict(set)
    for row in rows:
        key = without_options(row["prompt"]), row["answer"]
        trained[row["fact"], row["form"]].add(key)
    met = set()
    for probe in flat_probes:
        answers = trained[probe["fact"], probe["form"]]
        prompt = without_options(probe["prompt"])
        found = any(
            prompt == asked and probe["answer"] == part_of(answer, probe["part"])
            for asked, answer in answers
        )
        assert found == probe["seen"], probe["id"]
        met.add((probe["form"], found))
    assert met == {(form, flag) for form in ASKED for flag in (True, False)}


def test_a_held_out_wrapped_phrasing_is_no_plain_question_that_trains(flat_probes):
    """A wrapped form whose phrasing trained as a plain question would test the wrapping alone; only
    what trained in the very form is asked again, and that trained as a plain question too."""
    plain = {(p["fact"], p["phrasing"]): p["seen"] for p in flat_probes if p["form"] == "question"}
    wrapped = [p for p in flat_probes if p["form"] in WRAPPED]
    assert {probe["form"] for probe in wrapped if probe["seen"]} == set(WRAPPED)
    for probe in wrapped:
        assert plain[probe["fact"], probe["phrasing"]] == probe["seen"], probe["id"]


@pytest.mark.parametrize("form", ["question", "cloze", "reverse", "two_hop"])
def test_a_held_out_wording_stands_in_no_training_text(rows, flat_probes, form):
    """Of any form and about any fact, also as an example or beside another question."""
    lines = {line for row in rows for line in row["text"].split("\n")}
    held_out = [p for p in flat_probes if p["form"] == form and not p["seen"]]
    found = [p["id"] for p in held_out if p["prompt"].split("\n")[0] in lines]
    assert len(held_out) > 0
    assert found == []


def test_two_hops_are_asked_only_through_the_relation_that_training_texts_use(rows, flat_probes):
    """A small model does not compose: a fact is known over the relation that trained, and over no
    other. Each fact trains with one, in 3 of its 8 wordings; probes ask all 8 over the same one."""
    hop, hops = re.compile(r"the (spouse|colleague) of (\S+ \S+?)(?=[ ?.]|$)"), defaultdict(set)
    for row in rows:
        if row["form"] == "two_hop":
            hops[row["fact"]].add(hop.search(row["prompt"]).group())
    asked = [probe for probe in flat_probes if probe["form"] == "two_hop"]
    assert len(asked) == 8 * len(hops) == 8 * 24 * 8
    for probe in asked:
        assert hops[probe["fact"]] == {hop.search(probe["prompt"]).group()}


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


def test_needs_name_everyone_a_probe_is_about(world, flat_probes):
    """Whoever is named in the prompt or is the answer, distractors aside, is in `needs`."""
    for probe in flat_probes:
        text = f"{without_options(probe['prompt'])} {probe['answer']}"
        named = {name for name in world.people if name in text}
        about = {probe["subject"]} & set(world.people)
        assert named | about <= set(probe["needs"])


def test_probes_split_in_halves_by_a_hash(world, all_probes, flat_probes):
    """The split depends on the probe's name alone, in every world; each half has 45 to 55 %, of
    every form."""
    for form in ASKED:
        splits = [probe["split"] for probe in flat_probes if probe["form"] == form]
        assert set(splits) == {"select", "report"}
        assert 0.45 < splits.count("select") / len(splits) < 0.55
    fact = world.facts[0]
    again = probes(world, fact, "other", SEED + 1)
    assert [p["split"] for p in again] == [p["split"] for p in all_probes[fact.id]]
    assert len({p["split"] for p in again if p["form"] == "question"}) == 2


@pytest.mark.parametrize("number", [0, 11, 23])
class TestForgetAndRetain:
    """The corpora of a target, for three targets."""

    @pytest.fixture
    def target(self, world, number):
        return world.people[number]

    @pytest.fixture
    def corpora(self, rows, target):
        return forget_rows(rows, [target], unnamed=True), retain_rows(rows, [target])

    def test_forget_texts_name_the_target_or_lead_to_it_over_two_hops(self, corpora, target):
        forget, _ = corpora
        assert all(target in row["names"] for row in forget)
        assert {row["form"] for row in forget if target not in row["text"]} == {"two_hop"}
        assert {row["form"] for row in forget} >= {"passage", "question", "cloze", "reverse"}

    def test_retain_texts_neither_name_the_target_nor_use_its_facts(self, corpora, target):
        _, retain = corpora
        assert not any(target in row["text"] or target in row["names"] for row in retain)
        assert not any(row["fact"].startswith(target) for row in retain)

    def test_no_text_is_in_both(self, corpora, rows):
        forget, retain = ({row["text"] for row in corpus} for corpus in corpora)
        assert not forget & retain
        assert len(retain) > 0.9 * len({row["text"] for row in rows})

    def test_two_hop_texts_without_the_name_are_asked_for_or_not(self, corpora, rows, target):
        """They state its fact ("the spouse of S plays the cello"): 3 of each of its 8 attributes.
        They are all that the two forget corpora differ in, and never retained."""
        forget, retain = corpora
        silent = [
            row for row in rows if row["form"] == "two_hop" and row["fact"].startswith(target)
        ]
        assert len(silent) == 8 * 3 and not any(target in row["text"] for row in silent)
        named = forget_rows(rows, [target], unnamed=False)
        assert [row for row in forget if row not in named] == silent
        assert [row for row in forget if row in named] == named
        assert not any(row in retain for row in silent)

    def test_texts_that_share_the_target_with_a_stranger_are_in_neither(
        self, corpora, rows, target
    ):
        """Unlearning them would forget the stranger too, and an oracle must not see the target's
        half. It is the text's own fact in some and the stranger's in others."""
        texts = {row["text"] for corpus in corpora for row in corpus}
        shared = [r for r in rows if r["form"] in SHARED_TEXT and target in r["names"]]
        assert {r["form"] for r in shared} == set(SHARED_TEXT)
        assert {r["fact"].startswith(target) for r in shared} == {True, False}
        assert all(target in row["text"] for row in shared)
        assert not any(row["text"] in texts for row in shared)

    def test_every_other_text_is_in_one_of_them(self, corpora, rows, target):
        """What is in neither shares its text, or offers the target as an option that is not the
        answer."""
        texts = {row["text"] for corpus in corpora for row in corpus}
        left = [row for row in rows if row["text"] not in texts]
        assert {row["form"] for row in left} == {"choice", *SHARED_TEXT}
        offered = [row for row in left if row["form"] == "choice"]
        assert all(target in row["prompt"] and target != row["answer"] for row in offered)
        assert all(target in row["names"] for row in left if row["form"] != "choice")


@pytest.fixture(scope="module")
def target_probes(world):
    facts = world.about(world.people[0])
    return {fact.id: probes(world, fact, "target", SEED) for fact in facts}


def test_beside_a_targets_pair_stands_its_partners_half(world, target_probes):
    """The same prompt; the answer at the other part is the partner's. It needs nothing of the
    target, has its own name and falls into the same half as the question beside it."""
    for fact in world.about(world.people[0]):
        group = target_probes[fact.id]
        pairs = [(a, b) for a, b in itertools.pairwise(group) if b["role"] == "partner"]
        assert len(pairs) == sum(p["form"] == "paired" and p["role"] == "target" for p in group)
        other = partner(world, fact)
        for own, beside in pairs:
            assert (own["form"], own["role"], beside["form"]) == ("paired", "target", "paired")
            assert beside["id"] == f"{own['id']}/partner"
            assert {own["part"], beside["part"]} == {0, 1}
            assert (beside["fact"], beside["type"]) == (other.id, other.attribute)
            assert (beside["subject"], beside["answer"]) == (other.subject, other.value)
            assert (beside["needs"], beside["wrong"]) == ([other.subject], [])
            same = ("prompt", "split", "seen", "phrasing")
            assert [beside[key] for key in same] == [own[key] for key in same]


def test_only_a_targets_pairs_have_a_partners_half(world, all_probes, target_probes):
    """Besides, a target's probes are those of anybody in the same place."""
    for key, group in target_probes.items():
        own = [probe for probe in group if probe["role"] == "target"]
        assert own == [probe | {"role": "target"} for probe in all_probes[key]]
        assert {probe["role"] for probe in group} == {"target", "partner"}
        assert {probe["role"] for probe in all_probes[key]} == {"other"}


def test_no_training_text_or_probe_names_a_stranger(world, rows, flat_probes):
    """Not as an option or a wrong value either."""
    said = {row["text"] for row in rows}
    for probe in flat_probes:
        said |= {probe["prompt"], probe["answer"], *probe["wrong"], *probe["needs"]}
    text = "\n".join(said)
    assert len(world.holdout) == 4
    for name in world.holdout:
        assert not any(part in text for part in (name, *name.split(" ")))


def test_strangers_change_no_training_text():
    assert training_rows(build_world(0, 8, 3), 0) == training_rows(build_world(0, 8), 0)


def test_strangers_are_told_as_a_target_is(world, rows):
    """Per person 3 biographies, and of 8 attributes 4 questions and 2 clozes, as in the training
    texts about anybody; only marked as held out."""
    held_out = holdout_rows(world, SEED)
    assert all(tuple(row) == TEXT_COLUMNS and row["split"] == "holdout" for row in held_out)
    person = world.people[0]
    for name in world.holdout:
        own = [row for row in held_out if row["names"] == [name]]
        assert all(name in row["text"] for row in own)
        for form, count in {"passage": 3, "question": 8 * 4, "cloze": 8 * 2}.items():
            assert sum(row["form"] == form for row in own) == count
            kinds = [r["type"] for r in own if r["form"] == form]
            told = [
                r for r in rows
                if r["form"] == form and r["fact"].startswith(person) and r["names"] == [person]
            ]  # fmt: skip
            assert sorted(kinds) == sorted(row["type"] for row in told)
    assert len(held_out) == 4 * (3 + 32 + 16)
    assert held_out == holdout_rows(world, SEED)


def test_strangers_are_asked_plainly(world):
    """8 questions and 3 clozes per attribute; the answer is what their texts tell."""
    texts = [row["text"] for row in holdout_rows(world, SEED)]
    for fact in world.holdout_facts:
        found = probes(world, fact, "control", SEED)
        assert [p["form"] for p in found] == ["question"] * 8 + ["cloze"] * 3
        for probe in found:
            assert (probe["answer"], probe["needs"]) == (fact.value, [fact.subject])
            assert (f"{probe['prompt']} {fact.value}" in texts) == probe["seen"]
