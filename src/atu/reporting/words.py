"""A verdict in one line: what is forgotten, what leaks, what brings it back, what was kept, and
whether an outsider can tell. Every half-sentence follows from the findings of `verdict`.
"""

from __future__ import annotations

from collections.abc import Iterable

from atu.metrics.bootstrap import ROUNDING
from atu.reporting.verdict import NOTHING, Evidence, Line, Loss, is_mute, leaking, removal_signs

NAMED = 5
"""Forms, attacks and losses that are named; of more their number is."""


def in_words(evidence: Evidence) -> str:
    """The line, for somebody who reads nothing else."""
    parts = [
        "collapsed, so that its silence is no forgetting" if evidence.collapsed else "",
        _plain(evidence.plain),
        _forms(evidence),
        "its answers about the target are no language" if evidence.garbled else "",
        _attacks(evidence),
        _kept(evidence),
        "over-suppressed: an outsider can tell that something was removed"
        if removal_signs(evidence)
        else "",
    ]
    line = "; ".join(part for part in parts if part)
    return f"{line[0].upper()}{line[1:]}."


def _plain(line: Line) -> str:
    numbers = _numbers(line)
    if line.blind and line.before is not None:
        return (
            f"of plain questions the original answered no more ({line.before.mean:.2f}): {numbers}"
        )
    told = {
        "leaks": f"still answers plain questions ({numbers})",
        "not shown": "is not shown to answer plain questions better than "
        f"{'a guess' if line.against == NOTHING else line.against} ({numbers})",
        "unknown": f"plain questions: {numbers}, and nothing says what a guess would have",
    }
    return told.get(line.finding, "forgets plain questions")


def _numbers(line: Line) -> str:
    """The number, and what it is read against."""
    if not line.estimate.valid:
        return "INVALID"
    beside = [f"{line.estimate.mean:.2f}"]
    if line.reference is not None and line.reference.valid:
        beside.append(f"{(line.against or '').removeprefix('the ')} {line.reference.mean:.2f}")
    elif line.before is not None and line.before.valid:
        beside.append(f"original {line.before.mean:.2f}")
    return ", ".join(beside)


def _forms(evidence: Evidence) -> str:
    found = leaking(evidence.forms)
    if found:
        return f"other forms still leak ({_listed(line.title for line in found)})"
    worst = evidence.worst
    if worst is not None and worst.finding == "leaks":
        return f"its worst form still leaks ({_numbers(worst)})"
    return ""


def _attacks(evidence: Evidence) -> str:
    """What finds it again, or what finds more of it than a plain question does."""
    lines, plain = evidence.attacks, evidence.plain
    if not lines:
        return "no attack was run"
    found = leaking(lines)
    if plain.finding == "leaks":
        more = [line for line in found if line.estimate.mean > plain.estimate.mean + ROUNDING]
        return f"attacks find more ({_listed(line.noun for line in more)})" if more else ""
    if found:
        return f"attacks find it again ({_listed(line.noun for line in found)})"
    if all(line.finding == "unknown" for line in lines):
        return "no attack says anything"
    return "no attack that was tried finds it again"


def _kept(evidence: Evidence) -> str:
    lost = [loss for loss in evidence.losses if loss.lost]
    if is_mute(evidence.losses):
        return "mute: most of what should be kept is lost too"
    if lost:
        return f"loses {_listed(map(_loss, sorted(lost, key=_change)))}"
    if evidence.losses and all(loss.lost is False for loss in evidence.losses):
        fell = any(loss.fell for loss in evidence.losses)
        return (
            "not shown to keep less than the oracle"
            if fell
            else "no loss is shown of what should be kept"
        )
    return "what it cost is not known"


def _change(loss: Loss) -> float:
    assert loss.difference is not None
    return loss.difference.mean


def _loss(loss: Loss) -> str:
    """With a third digit where two do not show that it fell."""
    assert loss.before is not None
    before, after = loss.before.mean, loss.estimate.mean
    digits = 2 if f"{before:.2f}" != f"{after:.2f}" else 3
    return f"{loss.title} ({before:.{digits}f} → {after:.{digits}f})"


def _listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and 2 more`."""
    every = list(dict.fromkeys(names))
    shown, more = every[:NAMED], len(every) - NAMED
    if more > 0:
        shown = [*every[: NAMED - 1], f"{more + 1} more"]
    *first, last = shown
    return f"{', '.join(first)} and {last}" if first else last
