"""A verdict in one line: every half-sentence, on made numbers."""

from dataclasses import replace

import pytest

from atu.metrics.bootstrap import Estimate
from atu.reporting.verdict import ORACLE, Evidence, Line, Loss
from atu.reporting.words import in_words


def at(mean, low=None, high=None, n=20, scored=-1):
    return Estimate(mean, mean if low is None else low, mean if high is None else high, n, scored)


def line(title, mine, gap, *, noun="", oracle=0.0, **own):
    """A number beside the oracle's; it leaks where all of `gap` is above 0."""
    return Line(title, title, at(mine), at(1.0), at(oracle), ORACLE, at(*gap), noun=noun, **own)


SILENT = line("plain questions", 0.0, (0.0,))
ANSWERED = line("plain questions", 0.3, (0.3, 0.1, 0.5))
A_FEW = line("plain questions", 0.1, (0.1, 0.0, 0.3))
LESS = line("worst form", 0.0, (-0.3, -0.5, -0.1), oracle=0.3)
WORST = line("worst form", 0.5, (0.4, 0.2, 0.6), oracle=0.1)
LENS = line("logit lens, top 4", 0.0, (0.0,), noun="the logit lens")
KEPT = Loss("kept.other", "other people", at(0.97), at(0.98), at(-0.01, -0.05, 0.02))
LOST = Loss("kept.neighbour", "neighbours", at(0.4), at(0.98), at(-0.58, -0.7, -0.4))
GOOD = Evidence(
    name="it", plain=SILENT, worst=None, forms=[], attacks=[LENS], losses=[KEPT],
    collapsed=False, oracle=True, original=True,
)  # fmt: skip


def leaks(*titles):
    return [line(title, 0.5, (0.5, 0.2, 0.8), noun=title) for title in titles]


SAID = {
    "all is well": (
        {},
        "Forgets plain questions; no attack that was tried finds it again; no loss is shown of "
        "what should be kept.",
    ),
    "answers": ({"plain": ANSWERED}, "Still answers plain questions (0.30, oracle 0.00)"),
    "answers a few": (
        {"plain": A_FEW},
        "Is not shown to answer plain questions better than the oracle (0.10, oracle 0.00)",
    ),
    "nobody knows": (
        {"plain": replace(SILENT, reference=None, difference=None, against=None)},
        "Plain questions: 0.00, original 1.00, and nothing says what a guess would have",
    ),
    "nothing to forget": (
        {"plain": replace(SILENT, before=at(0.0))},
        "Of plain questions the original answered no more (0.00): 0.00, oracle 0.00;",
    ),
    "not scored": (
        {"plain": replace(SILENT, estimate=at(0.0, scored=19))},
        "Plain questions: INVALID",
    ),
    "one form": ({"forms": leaks("cloze")}, "; other forms still leak (cloze);"),
    "two forms": ({"forms": leaks("cloze", "two hops")}, "leak (cloze and two hops);"),
    "five forms": ({"forms": leaks(*"abcde")}, "leak (a, b, c, d and e);"),
    "six forms": ({"forms": leaks(*"abcdef")}, "leak (a, b, c, d and 2 more);"),
    "forms name the worst": ({"forms": leaks("a"), "worst": WORST}, "leak (a); no attack"),
    "no single form": ({"worst": WORST}, "; its worst form still leaks (0.50, oracle 0.10);"),
    "attacks of one kind": (
        {"attacks": leaks("sampling", "sampling", "relearning")},
        "; attacks find it again (sampling and relearning);",
    ),
    "attacks find more than a question": (
        {"plain": ANSWERED, "attacks": leaks("relearning")},
        "; attacks find more (relearning);",
    ),
    "garbled": (
        {"stuttering": (0.5, 0.0)},
        "; its answers about the target are no language; no attack",
    ),
    "no attack": ({"attacks": []}, "; no attack was run;"),
    "weak attacks": ({"attacks": [replace(LENS, weak=True)]}, "; no attack says anything;"),
    "lost": ({"losses": [LOST, KEPT]}, "; loses neighbours (0.98 → 0.40)."),
    "the largest loss first": (
        {"losses": [replace(LOST, title="a", difference=at(-0.1, -0.2, -0.1)), LOST, KEPT]},
        "; loses neighbours (0.98 → 0.40) and a (0.98 → 0.40).",
    ),
    "lost below the oracle": (
        {"losses": [replace(LOST, reference=at(0.9), to_reference=at(-0.5, -0.6, -0.4)), KEPT]},
        "; loses neighbours (0.98 → 0.40).",
    ),
    "lost by the oracle too": (
        {"losses": [replace(LOST, reference=at(0.4), to_reference=at(0.0, -0.1, 0.1)), KEPT]},
        "; not shown to keep less than the oracle.",
    ),
    "lost a little": (
        {"losses": [replace(LOST, estimate=at(0.976), before=at(0.984))]},
        "; loses neighbours (0.984 → 0.976).",
    ),
    "mute": ({"losses": [LOST]}, "; mute: most of what should be kept is lost too."),
    "no original": (
        {"losses": [replace(KEPT, before=None, difference=None)]},
        "; what it cost is not known.",
    ),
    "over-suppressed": (
        {"worst": LESS},
        "; over-suppressed: an outsider can tell that something was removed.",
    ),
    "PrivLeak": ({"priv_leak": 15.1}, "; over-suppressed: "),
    "ruined": (
        {"collapsed": True},
        "Collapsed, so that its silence is no forgetting; forgets plain questions;",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_every_half_sentence_follows_from_a_number(name):
    changes, said = SAID[name]
    assert said in in_words(replace(GOOD, **changes))


def test_what_a_question_finds_an_attack_need_not_find_again():
    """Where plain questions are answered, only what finds more than they do is named."""
    few = [line("a", 0.3, (0.3, 0.1, 0.5), noun="quantisation")]
    assert "attack" not in in_words(replace(GOOD, plain=ANSWERED, attacks=few))
    garbled = replace(GOOD, stuttering=(0.9, 0.6))
    assert "no language" not in in_words(garbled)  # the original's are none either


def test_a_half_sentence_is_said_only_where_its_number_says_so():
    """Each of those above but the first is absent where all is well."""
    well = in_words(GOOD)
    assert [name for name, (_, said) in SAID.items() if said in well] == ["all is well"]
