"""Which titles are marked, because what they show failed the meta-evaluation."""

import polars as pl
import pytest

from atu.metrics.trust import Trust
from atu.reporting import marks
from atu.reporting.marks import asked_keys, attack_keys, failed_titles, lines, marked, privacy_keys
from atu.reporting.privacy import TITLES
from atu.reporting.robustness import REPHRASED, shown_columns

EXACT = "exact_match@own-2"
GOLD = "attack/lens.target.gold.head_projection@fixed-1"
LOSS = "privacy/forget.membership_loss@faithful-1.auc@own-1"


def trust(key, low):
    return Trust(key, 12, 11, 0.75, low, 0.9, 0, None, None, None)


@pytest.fixture
def attacked(make_attack_row):
    """Items of the lens and of sentences in the context."""
    asked = [("lens", "gold", "head_projection@fixed-1"), ("lens", "control", "x@own-1"),
             ("context", "hinted", EXACT), ("context", "answered", EXACT)]  # fmt: skip
    return pl.DataFrame(
        [make_attack_row(c, "Ada/pet", 1.0) | {"metric": m, "attack": a} for a, c, m in asked]
    )


def test_what_each_column_shows(make_params, attacked):
    """Controls show nothing that could fail; a difference what the attack says of itself."""
    section = make_params("lens", "context", "quantise").attack
    leak = "attack/context.target.context_leak@own-1"
    found = attack_keys(section, ["lens", "context", "quantise"], attacked, {leak: trust(leak, 0)})
    assert found == {"lens.0": GOLD, "context.0": leak}
    assert attack_keys(section, ["context"], attacked, {}) == {}


def test_ways_of_asking_show_what_rephrase_measured():
    keys = asked_keys(EXACT)
    assert keys["target"] == keys["question"] == f"rephrase/target.question.{EXACT}"
    assert keys["worst_form"] == keys["worst"] == f"rephrase/target.worst.{EXACT}"
    controls = {column.key for column in REPHRASED if column.control}
    assert set(keys) == {"target", "worst_form"} | {c.key for c in REPHRASED} - controls


def test_lines_of_privacy():
    keys = privacy_keys()
    assert set(keys) == set(TITLES)
    assert keys["membership_loss@faithful-1"] == LOSS
    assert keys["tofu_probability@faithful-1"] == "privacy/target.tofu_probability@faithful-1"
    assert keys["forget.muse_priv_leak@faithful-1"] == "privacy/forget.muse_priv_leak@faithful-1"


def test_only_what_failed_is_marked(monkeypatch, make_params, attacked):
    """The lens, an AUC and the worst form failed, the plain question did not; others' questions
    have no key."""
    rows = [trust(GOLD, 0.5), trust(LOSS, 0.79), trust(f"rephrase/target.question.{EXACT}", 0.8)]
    rows.append(trust(f"rephrase/target.worst.{EXACT}", 0.1))
    monkeypatch.setattr(marks, "measured", lambda: rows)
    section = make_params("lens").attack
    titles = {column.key: column.title for column in shown_columns(section, ["lens"])}
    titles |= {"neighbour": "neighbours"} | TITLES
    failed = failed_titles(titles, EXACT, section, ["lens"], attacked)
    assert set(failed) == {"lens.0", "worst", "membership_loss@faithful-1"}
    assert failed["lens.0"] == (
        "‡ logit lens, top 4 per layer: may not tell a model that knows the target from one that "
        "never did; faithfulness 0.75 [0.50, 0.90] over 12 and 11 models of the embedded world "
        "(docs/metrics.md)."
    )
    shown = marked(titles, failed)
    assert {key for key in titles if shown[key] != titles[key]} == set(failed)
    assert shown["lens.0"] == "logit lens, top 4 per layer ‡"
    assert lines(failed, ["question", "lens.0"]) == f"\n{failed['lens.0']}\n"
    assert lines(failed, ["question"]) == ""
