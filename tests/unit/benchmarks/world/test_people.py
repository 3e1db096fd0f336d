import importlib
import itertools
import pkgutil
from collections import Counter

import numpy as np
import pytest

from atu.benchmarks.world import people as world_module
from atu.benchmarks.world.people import MINIMUM_PEOPLE, build_world, vocabulary
from atu.errors import ConfigError

SEEDS = [0, 1, 7]


@pytest.fixture(scope="module", params=SEEDS)
def world(request):
    return build_world(request.param, 48)


def related(world, attribute):
    """The relation as a dict from person to person."""
    return {f.subject: f.value for f in world.facts if f.attribute == attribute}


def test_the_seed_decides_the_world():
    assert build_world(7, 48) == build_world(7, 48)
    assert build_world(7, 48) != build_world(8, 48)


@pytest.mark.parametrize("count", [0, 2, 3, 4, 6, 49, 194, 1000])
def test_a_wrong_number_of_people_is_refused(count):
    """16 beginnings x 12 endings give 192 names; pairs need an even number. Of the 6 pairs of 4
    people, spouses take 2 and mentors 4: none is left for colleagues. Of 15 pairs of 6 people 6 are
    left; when these are two triangles they hold no matching. So 8 is the least."""
    assert MINIMUM_PEOPLE == 8
    with pytest.raises(ConfigError, match=rf"prepare\.people = {count}: .*even .* 8 to 192"):
        build_world(0, count)


def test_more_people_than_books_are_refused():
    """12 x 12 titles: the 146th person would have none of their own."""
    with pytest.raises(ConfigError, match=r"prepare\.people = 146: only 144"):
        build_world(0, 146)


@pytest.mark.parametrize(("people", "holdout"), [(192, 1), (190, 4)])
def test_more_people_than_names_are_refused(people, holdout):
    """Strangers take names too: of 192, 192 - holdout are left."""
    with pytest.raises(ConfigError, match=rf"prepare\.people = {people}: .*8 to {192 - holdout}"):
        build_world(0, people, holdout)


def test_more_people_than_books_are_refused_by_the_value_in_the_file():
    """144 people have a book each, the two strangers beside them have none; 146 stands nowhere."""
    with pytest.raises(ConfigError, match=r"prepare\.people = 144: .*144 unique"):
        build_world(0, 144, 2)


class FewDraws:
    """A generator that refuses to be asked for ever."""

    def __init__(self, rng):
        self.rng, self.left = rng, 2000

    def permutation(self, values):
        self.left -= 1
        if self.left == 0:
            raise TimeoutError("endless")
        return self.rng.permutation(values)


@pytest.mark.parametrize("count", [MINIMUM_PEOPLE, 144])
def test_the_fewest_and_most_people(monkeypatch, count):
    """They are drawn without trying for ever."""
    original = world_module.generator
    monkeypatch.setattr(world_module, "generator", lambda *path: FewDraws(original(*path)))
    for seed in range(20):
        assert len(build_world(seed, count).people) == count


@pytest.mark.parametrize("part", [0, 1], ids=["given", "family"])
def test_no_two_people_share_a_name(world, part):
    names = [name.split(" ")[part] for name in world.people]
    assert len(set(names)) == 48


def test_everybody_has_every_attribute_and_relation(world):
    vocab = vocabulary()
    kinds = dict.fromkeys(vocab["attributes"], "attribute") | dict.fromkeys(
        vocab["relations"], "relation"
    )
    for person in world.people:
        assert {f.attribute: f.kind for f in world.about(person)} == kinds
    assert len({f.id for f in world.facts}) == len(world.facts) == 48 * len(kinds)


def test_values_are_spread_evenly(world):
    """24 birthplaces for 48 people: each is used twice. Books are their authors' alone."""
    places = Counter(f.value for f in world.facts if f.attribute == "birthplace")
    assert set(places.values()) == {2} and len(places) == 24
    books = [f.value for f in world.facts if f.attribute == "book"]
    assert len(set(books)) == 48


@pytest.mark.parametrize("attribute", ["spouse", "colleague"])
def test_symmetric_relations_are_matchings(world, attribute):
    tied = related(world, attribute)
    assert set(tied) == set(world.people)
    assert all(tied[tied[person]] == person != tied[person] for person in tied)


def test_mentors_are_one_cycle(world):
    """Going from pupil to mentor meets all 48 people before the first one again."""
    mentor = related(world, "mentor")
    met = [world.people[0]]
    while mentor[met[-1]] != met[0]:
        met.append(mentor[met[-1]])
        assert len(met) <= 48
    assert set(met) == set(world.people)


def test_no_pair_is_tied_twice(world):
    """24 couples, 24 pairs of colleagues and 48 steps of the mentors' cycle: 96 different pairs."""
    pairs = {
        name: {frozenset(pair) for pair in related(world, name).items()}
        for name in ("spouse", "colleague", "mentor")
    }
    assert [len(p) for p in pairs.values()] == [24, 24, 48]
    assert len(set.union(*pairs.values())) == 96


def test_neighbours(world):
    """Spouse, colleague, mentor and pupil: four different people, in the world's order."""
    for person in world.people:
        pupil = next(p for p, m in related(world, "mentor").items() if m == person)
        expected = {world.value(person, r) for r in ("spouse", "colleague", "mentor")} | {pupil}
        found = world.neighbours(person)
        assert set(found) == expected and len(found) == 4
        assert found == sorted(found, key=world.people.index)
        assert all(person in world.neighbours(other) for other in found)


def test_facts_of_one_person_do_not_move_with_the_seed_of_another_stream(monkeypatch):
    """Every attribute is drawn from its own stream: drawing more from one leaves the others."""
    before = build_world(0, 8)
    original = world_module.generator

    def shifted(seed, *names):
        return np.random.default_rng(99) if names[-1] == "pet" else original(seed, *names)

    monkeypatch.setattr(world_module, "generator", shifted)
    changed = {
        old.attribute
        for old, new in zip(before.facts, build_world(0, 8).facts, strict=True)
        if old != new
    }
    assert changed == {"pet"}


def test_general_facts_concern_no_person(world):
    """20 places with 3 facts each, none of which names a person."""
    assert len(world.general) == 60
    assert {f.kind for f in world.general} == {"general"}
    people = set(world.people)
    assert not people & {x for f in world.general for x in (f.subject, f.value)}


@pytest.mark.parametrize("holdout", [1, 4, 96])
def test_strangers_change_nothing(holdout):
    """The world is the same with and without them, and they are the same in a world that has
    more of them."""
    alone, beside = build_world(7, 48), build_world(7, 48, holdout)
    assert (alone.people, alone.facts, alone.general) == (
        beside.people, beside.facts, beside.general,
    )  # fmt: skip
    assert (alone.holdout, alone.holdout_facts) == ((), ())
    assert len(beside.holdout) == holdout


def test_strangers_have_names_and_books_of_their_own():
    """A world of 48 people and 96 strangers: 144 given names, family names and books."""
    world = build_world(7, 48, 96)
    everybody = (*world.people, *world.holdout)
    for part in (0, 1):
        assert len({name.split(" ")[part] for name in everybody}) == 144
    books = [world.value(name, "book") for name in everybody]
    assert len(set(books)) == 144


def test_strangers_have_attributes_and_no_ties():
    """In their order, each attribute's value from the same pool as the world's."""
    world = build_world(7, 8, 3)
    attributes = list(vocabulary()["attributes"])
    found = [(f.subject, f.attribute) for f in world.holdout_facts]
    assert found == [(name, attribute) for name in world.holdout for attribute in attributes]
    assert {f.kind for f in world.holdout_facts} == {"holdout"}
    for name in world.holdout:
        assert [f.attribute for f in world.about(name)] == attributes
        assert world.neighbours(name) == []
    for fact in world.holdout_facts:
        spec = vocabulary()["attributes"][fact.attribute]
        assert fact.attribute == "book" or fact.value in spec["values"]


def test_strangers_differ():
    """Not the first values of each pool for everybody: 8 values of each attribute for 8 people."""
    world = build_world(7, 8, 8)
    for attribute in ("pet", "dish", "school"):
        assert len({world.value(name, attribute) for name in world.holdout}) == 8


def _texts(value):
    """All strings in nested lists, tuples and dict keys."""
    if isinstance(value, str):
        return [value]
    return [text for item in value for text in _texts(item)]


@pytest.fixture(scope="module")
def real_names():
    """Given and family names of every locale that Faker knows, in lower case."""
    person = pytest.importorskip("faker.providers.person")
    found = set()
    for module in pkgutil.iter_modules(person.__path__):
        provider = importlib.import_module(f"{person.__name__}.{module.name}").Provider
        lists = [
            getattr(provider, name)
            for name in dir(provider)
            if name.startswith(("first_name", "last_name"))
            and isinstance(getattr(provider, name), (tuple, list, dict))
        ]
        found |= {text.lower() for names in lists for text in _texts(names)}
    return found


def test_the_list_of_real_names_is_not_empty(real_names):
    assert len(real_names) > 10_000
    assert {"james", "smith", "maria", "nguyễn"} <= real_names


@pytest.mark.parametrize("kind", ["given", "family"])
def test_no_invented_name_is_a_real_one(real_names, kind):
    parts = vocabulary()["names"]
    names = [a + b for a, b in itertools.product(parts[f"{kind}_start"], parts[f"{kind}_end"])]
    assert len(set(names)) == len(names) == 192
    assert [name for name in names if name.lower() in real_names] == []
