"""What a verdict is derived from, on made results."""

import pytest

from atu.attacks.relearn import AFTER, BEFORE, TAUGHT
from atu.reporting import evidence
from atu.reporting.evidence import Beside, evidence_of
from atu.reporting.items import load_attacks, load_items


@pytest.mark.parametrize(("taught", "weak"), [(1.0, False), (0.5, True)])
def test_an_attack_that_taught_too_little_is_no_evidence(
    make_cell, make_params, make_attack_row, monkeypatch, taught, weak
):
    """Nothing comes back of the target and of the control: as the control, or unknown."""
    rows = [
        make_attack_row(condition, f"{who}/pet", score, role=role)
        for role, who in (("target", "Ada"), ("control", "Zoe"))
        for condition, score in ((BEFORE, 0.0), (AFTER, 0.0), (TAUGHT, taught))
    ]
    cells = [make_cell(method, attacks={"relearn": rows}) for method in ("none", "ga")]
    beside = Beside(
        "m", ["none", "ga"], load_items([cell["rephrase"] for cell in cells]),
        load_attacks([cell["attack/relearn"] for cell in cells]), make_params("relearn").report,
    )  # fmt: skip
    utility, privacy = ([cell[phase] for cell in cells] for phase in ("utility", "privacy"))
    monkeypatch.setattr(evidence, "_tasks", lambda *_: [])
    attack = make_params("relearn").attack
    (line,) = evidence_of(beside, "ga", utility, privacy, attack, ["relearn"]).attacks
    assert line.title == "relearned on other facts"
    assert (line.weak, line.finding) == (weak, "unknown" if weak else "as the reference")
