"""`world.yaml`: what a vocabulary must hold, by an edited copy of the shipped one."""

import copy

import pytest
import yaml

from atu.benchmarks.world.people import vocabulary
from atu.benchmarks.world.vocabulary import check_vocabulary, parse_vocabulary
from atu.errors import ConfigError

BIRTH = "attributes.birthplace"
BAD = {
    "another attribute of an object": (f"{BIRTH}.questions.0", "{name.__class__}", "placeholders"),
    "an index": ("reverse_questions.0", "{0}", "allowed placeholders are {first}, {second}"),
    "padding without end": (f"{BIRTH}.clause", "{value:>999999999}", "placeholders"),
    "an open brace": (f"{BIRTH}.clause", "{value", "expected '}'"),
    "a name with a shell in it": ("names.given_start.0", "$(touch x)", "pattern"),
    "a name with a path in it": ("names.family_end.0", "../x", "pattern"),
    "two equal questions": (f"{BIRTH}.questions", ["a"] * 8, "twice"),
    "too few questions": (f"{BIRTH}.questions", ["a"], "at least 8"),
    "a number among values": (f"{BIRTH}.values.0", 7, "valid string"),
    "unique without a way to compose": (f"{BIRTH}.unique", True, "needs `values`, or"),
    "a relation nobody can pair up for": ("relations.friend", "copy", "relations must be"),
    "a relation that forms ask for": ("relations.spouse", None, "relations must be"),
    "an unknown key": ("general.capitals", {}, "unknown key"),
    "a name used twice": ("general.facts.pet", "copy", "has the name of"),
    "a text without end": (f"{BIRTH}.clause", "x" * 10_000, "at most 200"),
}


def edited(key, value):
    values = copy.deepcopy(vocabulary())
    *path, last = key.split(".")
    at = values
    for part in path:
        at = at[int(part) if isinstance(at, list) else part]
    if value is None:
        del at[last]
    elif value == "copy":
        at[last] = copy.deepcopy(next(iter(at.values())))
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return values


@pytest.mark.parametrize("name", BAD)
def test_a_bad_vocabulary_is_one_message(name):
    key, value, reason = BAD[name]
    with pytest.raises(ConfigError, match=r"^world\.yaml: ") as caught:
        check_vocabulary(edited(key, value))
    assert reason in str(caught.value)


def test_the_shipped_one_is_in_order_and_read_as_it_is():
    text = yaml.safe_dump(vocabulary(), allow_unicode=True)
    assert parse_vocabulary(text) == vocabulary()


def test_it_is_parsed_strictly():
    with pytest.raises(ConfigError, match=r"world\.yaml.*line 2: the key 'a' occurs twice"):
        parse_vocabulary("a: 1\na: 2\n")
