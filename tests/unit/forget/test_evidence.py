"""What is concluded of a model that forgot, one that did not, and one that is ruined."""

import math

import polars as pl
import pytest

from atu.config.sections import Report
from atu.forget.evidence import FEW, gather, table
from atu.metrics.options import option_accuracy
from atu.results.items import PROBABILITY, SCORE

SECTION = Report(compare="atu", bootstrap=200, confidence=0.95, seed=0)
ROLES = ("target", "neighbour", "general")


def items(probabilities, count=12, scores=1.0):
    """`items.parquet`: one fact per question; the probability of each is near its role's."""
    rows = [
        {"id": f"{role}/{k}", "role": role, "fact": f"{role}/{k}", "split": "report",
         "form": "question", "wrong": [] if role == "general" else ["a", "b", "c"],
         SCORE: scores, PROBABILITY: p * (0.8 + 0.02 * k)}
        for role, p in zip(ROLES, probabilities, strict=True) for k in range(count)
    ]  # fmt: skip
    other = rows[0] | {"id": "x", "split": "select", PROBABILITY: 1.0}
    return pl.DataFrame([*rows, other, other | {"split": "report", "form": "cloze"}])


def answers(right):
    """`answers.parquet`: the share of right choices by role; there are none about nobody."""
    return pl.DataFrame(
        [
            {"id": f"{role}/{k}", "role": role, "fact": f"{role}/{k}", option_accuracy.id: value}
            for role, share in zip(ROLES, right, strict=True)
            for k in range(12)
            for value in [None if share is None else float(k < 12 * share)]
        ]
    )


BEFORE = items((0.4, 0.4, 0.5))
CHOICES = answers((1, 1, None)), answers((0.25, 1, None))


def found(after, before=BEFORE):
    return gather(before, after, CHOICES, SECTION)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ((0.04, 0.38, 0.5), "forgotten"),
        ((0.4, 0.4, 0.5), "not forgotten"),
        ((0.44, 0.3, 0.5), "not forgotten"),
        ((0.3, 0.3, 0.45), "not told apart"),
        ((0.04, 0.04, 0.05), "ruined"),
        ((0.0, 0.01, 0.05), "ruined"),
        ((0.004, 0.12, 0.3), "forgotten with damage"),
    ],
)
def test_verdicts(after, verdict):
    """By whose probability fell: the concept's alone, nobody's, everybody's a little, everybody's
    a lot. A model under which a probability is 0 has a verdict as well.
    """
    assert found(items(after)).verdict == verdict


def test_a_collapsed_model_is_ruined_whatever_is_likely():
    after = items((0.04, 0.38, 0.5))
    assert gather(BEFORE, after, CHOICES, SECTION, collapsed=True).verdict == "ruined"


def test_what_was_not_known_cannot_be_forgotten():
    """A user's questions that the original model answers no better than by chance, though their
    answers have become less likely; a choice that it makes rightly is knowledge.
    """
    before, after = items((0.4, 0.4, 0.5), scores=0.05), items((0.04, 0.38, 0.5), scores=0.0)
    guesses = answers((0.25, 1, None)), answers((0.25, 1, None))
    for choices, verdict in ((guesses, "not known"), (CHOICES, "forgotten"),
                             ([part.clear() for part in guesses], "not known")):  # fmt: skip
        assert gather(before, after, tuple(choices), SECTION).verdict == verdict
    assert gather(BEFORE, after, guesses, SECTION).verdict == "forgotten"


def test_without_neighbours_the_rest_says_whether_the_model_is_ruined():
    """And forgetting cannot be told from damage."""
    pairs = [items((0.4, 0.4, 0.5)), items((0.04, 0.4, 0.5)), items((0.04, 0.4, 0.05))]
    before, kept, ruined = (side.filter(pl.col("role") != "neighbour") for side in pairs)
    assert found(kept, before).verdict == "not told apart"
    assert found(ruined, before).verdict == "ruined"


def test_every_measure_has_its_line_and_choices_their_chance():
    lines = {(line.measure, line.role): line for line in found(items((0.04, 0.4, 0.5))).lines}
    assert [key for key in lines if key[0] == "choice"] == [
        ("choice", "target"), ("choice", "neighbour")
    ]  # fmt: skip
    choice = lines["choice", "target"]
    assert (choice.before.mean, choice.after.mean, choice.chance) == (1.0, 0.25, 0.25)
    assert lines["probability", "target"].before.mean == pytest.approx(0.4 * 0.91)
    assert lines["said", "target"].chance is None


def test_changes_are_paired_logs():
    """A tenth of every probability: ln .1 with no width, whatever the probabilities are."""
    evidence = found(items((0.04, 0.4, 0.5)))
    change = evidence.change["target"]
    assert change.mean == pytest.approx(math.log(0.1))
    assert change.high - change.low == pytest.approx(0)
    assert evidence.excess.mean == pytest.approx(math.log(0.1))


@pytest.mark.parametrize(("count", "weak"), [(FEW - 1, True), (FEW, False)])
def test_few_statements_are_called_weak(count, weak):
    few = items((0.4, 0.4, 0.5), count)
    none = answers((1, 1, None)).clear()
    evidence = gather(few, few, (none, none), SECTION)
    assert evidence.strength.startswith("weak") == weak


def test_the_table_shows_interval_and_items():
    rows = {row["title"]: row for row in table(found(items((0.04, 0.4, 0.5))))}
    assert len(rows) == 5  # two choices and three probabilities; what is still said is elsewhere
    assert rows["likeliest of the choices: the concept"]["before"] == "1.00 [1.00, 1.00] (12)"
    assert rows["likeliest of the choices: neighbours"]["chance"] == "0.25"
    assert rows["probability per token: the concept"]["before"].startswith("0.364 [")
