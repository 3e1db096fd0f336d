"""What a verdict is derived from, gathered from made cells."""

import pytest

from atu.attacks.relearn import AFTER, BEFORE, TAUGHT
from atu.reporting.attacker import MEMBERSHIP
from atu.reporting.evidence import Beside, evidence_of
from atu.reporting.items import load_attacks, load_documents, load_items
from atu.reporting.privacy import privacy_table
from atu.reporting.tables import utility_means
from atu.reporting.verdict import verdict_of

TARGET = {(f"Ada/{what}", form) for what in ("pet", "food") for form in ("question", "cloze")}


@pytest.fixture
def gather(make_cell, make_params, make_item):
    """A function that gives GA's evidence: GA answers `ga` and its generation scores .4, the oracle
    answers `oracle`, and two of three further facts where it answers anything; `memory` is how far
    GA's scores of its own texts lie above strangers', `generate` what the oracle's generation
    scores."""

    def gathered(
        ga, oracle=frozenset(), methods=("none", "oracle", "ga"), memory=0.0, generate=0.9
    ):
        own = {
            "none": {},
            "oracle": {"leaks": oracle, "scores": {"generate": generate}},
            "ga": {"leaks": ga, "memory": memory, "scores": {"generate": 0.4}},
        }
        known = {"none": "abc", "oracle": "ab" if oracle else "", "ga": "ab" if ga else ""}
        cells = [
            make_cell(
                method, **own[method],
                extra=[
                    make_item(f"Ada/{fact}", form, hit=float(fact in known[method]))
                    for fact in "abc" for form in ("question", "cloze")
                ],
            )
            for method in methods
        ]  # fmt: skip
        params = make_params()
        utility, privacy = ([cell[name] for cell in cells] for name in ("utility", "privacy"))
        items = load_items([cell["rephrase"] for cell in cells])
        beside = Beside(
            "m", methods, items, load_attacks([]), load_documents(utility), params.report
        )
        rows = privacy_table(privacy, params.report, methods)
        return evidence_of(beside, "ga", utility_means(utility), rows, params.attack, [])

    return gathered


def test_less_than_the_oracle_is_over_suppressed(gather):
    """The oracle answers most about Ada, GA nothing. Where both answer most, both know the same."""
    evidence = gather(set(), TARGET)
    assert evidence.plain.finding == evidence.worst.finding == "over-suppressed"
    plain, most, *_texts = verdict_of(evidence).removed
    assert "plain questions 0.00" in plain and "worst form 0.00" in most
    same = gather(TARGET, TARGET)
    assert {line.finding for line in (same.plain, same.worst, *same.forms)} == {"as the reference"}


def test_tasks_are_compared_document_by_document(gather):
    """Generation .4 of .9, the choice .8 of .8."""
    losses = {loss.key: loss for loss in gather(set()).losses}
    assert losses["utility.generate"].difference.mean == pytest.approx(-0.5)
    assert losses["utility.generate"].lost and not losses["utility.choice"].lost
    assert {"kept.neighbour", "kept.other", "kept.general"} < set(losses)
    assert losses["utility.generate"].reference.mean == pytest.approx(0.9)
    assert losses["utility.choice"].reference is None
    (same,) = (x for x in gather(set(), generate=0.4).losses if x.key == "utility.generate")
    assert same.fell and not same.lost
    alone = {loss.key: loss for loss in gather(set(), methods=("oracle", "ga")).losses}
    assert alone["utility.generate"].lost is None


def test_membership_is_read_beside_the_oracle(gather):
    """The texts of both score .5 above strangers' for the oracle and not at all for GA: its AUC of
    .5 is below 1. PrivLeak, 0 here, is no reason."""
    evidence = gather(set())
    line = evidence.membership
    assert (line.key, line.reference.mean, line.estimate.mean) == (MEMBERSHIP, 1.0, 0.5)
    assert evidence.priv_leak == 0.0
    without = gather(set(), methods=("none", "ga"))
    assert (without.membership, without.priv_leak, without.forget_quality) == (None, None, None)


@pytest.mark.parametrize(("taught", "weak"), [(1.0, False), (0.5, True)])
def test_an_attack_that_taught_too_little_is_no_evidence(
    make_cell, make_params, make_attack_row, taught, weak
):
    """Nothing comes back of the target and of the control: as the control, or unknown."""

    def rows(known):
        return [
            make_attack_row(condition, f"{who}/pet", score, role=role)
            for role, who, had in (("target", "Ada", known), ("control", "Zoe", 0.0))
            for condition, score in ((BEFORE, had), (AFTER, had), (TAUGHT, taught))
        ]

    known = {"none": 1.0, "ga": 0.0}
    cells = [make_cell(method, attacks={"relearn": rows(had)}) for method, had in known.items()]
    utility, privacy = ([cell[phase] for cell in cells] for phase in ("utility", "privacy"))
    attacked = load_attacks([cell["attack/relearn"] for cell in cells])
    items, params = load_items([cell["rephrase"] for cell in cells]), make_params("relearn")
    beside = Beside("m", ["none", "ga"], items, attacked, load_documents(utility), params.report)
    rows = privacy_table(privacy, params.report, ["none", "ga"])
    found = evidence_of(beside, "ga", utility_means(utility), rows, params.attack, ["relearn"])
    (line,) = found.attacks
    assert line.title == "relearned on other facts"
    assert (line.weak, line.finding) == (weak, "unknown" if weak else "as the reference")
