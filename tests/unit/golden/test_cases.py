"""The cases themselves, and how they are compared: a comparison that cannot fail shows nothing."""

import json

import pytest
from official import FOLDER, REFUSED, cases, check, equal, negated, of, official, refusing

from atu.errors import EvaluationError

FILES = sorted(path.stem for path in FOLDER.glob("*.json"))
COVERED = "ou.privleak.retrained_is_one"
"""A case that a line of `DIFFERENCES` covers."""


def case(value, name="ou.privleak.middle", **more):
    return {"id": name, "value": value, "settings": {"rel_tol": 1e-5, "abs_tol": 1e-6}} | more


@pytest.mark.parametrize("file", FILES)
def test_every_case_says_where_it_is_from(file):
    """Repository, commit and file; no id twice."""
    rows = json.loads((FOLDER / f"{file}.json").read_text("utf-8"))
    assert len(rows) == len(cases(file))
    for row in rows:
        assert row["official"].count("@") >= 1 and ":" in row["official"], row["id"]


def test_the_right_value_is_met_and_another_is_not():
    check(case(0.5), 0.5 + 1e-7, {})
    for wrong in (0.5001, REFUSED):
        with pytest.raises(AssertionError, match=r"is not 0\.5"):
            check(case(0.5), wrong, {})
    with pytest.raises(AssertionError, match="is not"):
        check(case({"a": 1.0, "b": 2.0}), {"a": 1.0, "b": 2.1}, {})
    with pytest.raises(AssertionError, match="is not"):
        check(case({"a": 1.0, "b": 2.0}), {"a": 1.0}, {})
    with pytest.raises(AssertionError, match="is not"):
        check(case([1.0, 2.0]), [1.0], {})


def test_the_corrected_value_counts():
    check(case(1.0, corrected=0.0), 0.0, {})
    with pytest.raises(AssertionError):
        check(case(1.0, corrected=0.0), 1.0, {})


@pytest.mark.parametrize("value", ["NaN", "raises KeyError", None])
def test_no_number_is_met_by_a_refusal_alone(value):
    check(case(value), REFUSED, {})
    with pytest.raises(AssertionError):
        check(case(value), 0.0, {})


def test_a_refusal_is_no_number():
    def refuse():
        raise EvaluationError("no token")

    assert refusing(refuse) == refusing(lambda: None) == REFUSED
    assert negated({"a": 1.0, "b": REFUSED}) == {"a": -1.0, "b": REFUSED}
    assert official(case(["NaN", "inf"])) == [REFUSED, float("inf")]
    assert not equal(case(0), 0.0, REFUSED)


def test_an_exception_needs_a_line_of_the_table():
    with pytest.raises(AssertionError, match="no line of DIFFERENCES"):
        check(case(1.0, "muse.privleak.middle"), 2.0, {"muse.privleak.middle": 2.0})


def test_an_exception_states_our_value():
    check(case(1.0, COVERED), 2.0, {COVERED: 2.0})
    with pytest.raises(AssertionError, match=r"3\.0 is not 2\.0"):
        check(case(1.0, COVERED), 3.0, {COVERED: 2.0})


def test_an_exception_that_is_none_any_more():
    with pytest.raises(AssertionError, match="is equal by now"):
        check(case(2.0, COVERED), 2.0, {COVERED: 2.0})


def test_a_group_without_cases():
    with pytest.raises(AssertionError, match="has none of"):
        of("rwku", "rwku.gone")
