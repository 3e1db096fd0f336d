"""What an unlearned model still says of the concept, beside what it says of neighbours: estimates
with intervals, their chance levels, and what can be concluded from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from atu.config.sections import Report
from atu.metrics.bootstrap import Estimate, clustered_mean, percentiles, resampled_means
from atu.metrics.options import option_accuracy
from atu.reporting.items import SPLIT
from atu.results.items import PROBABILITY, SCORE
from atu.seeding import generator

ROLES = ("target", "neighbour", "general")
DAMAGED, RUINED = 0.5, 0.2
"""A model is damaged, or ruined, where what it says of others has become less likely than this
share of what it was, by the geometric mean."""
FEW = 10
"""With fewer statements about the concept evidence is weak."""
KNOWN = 0.1
"""Of what is asked about the concept the original model must have said more than this share, or
choose the right answer more often than a guess: nothing else can be forgotten."""
SAID = "said"
LOG_RATIO = "log_ratio"
"""Column: log of the probability after over that before."""


@dataclass(frozen=True)
class Line:
    """One measure of one role, before and after."""

    measure: str
    """A key of `TITLES`."""
    role: str
    before: Estimate
    after: Estimate
    chance: float | None = None
    """What a guess scores, if that is known."""

    def numbers(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """All lines, and how probabilities changed."""

    lines: tuple[Line, ...]
    change: Mapping[str, Estimate]
    """Per role the mean over facts of the log of the probability after over that before."""
    excess: Estimate | None
    """The concept's change minus the neighbours'; None without neighbours."""
    collapsed: bool = False
    """Whether the report calls it COLLAPSED."""

    @property
    def strength(self) -> str:
        """How strong the evidence about the concept is, in words."""
        count = self.change["target"].n
        if count < FEW:
            return f"weak: {count} statements"
        return f"{count} statements"

    @property
    def known(self) -> bool:
        """Whether the original model knew what is asked about the concept. Its own statements it
        knows by their making, a user's questions perhaps not.
        """
        about = {line.measure: line for line in self.lines if line.role == "target"}
        said, choice = about.get(SAID), about.get("choice")
        chosen = choice is not None and choice.before.low > (choice.chance or 0)
        return chosen or said is None or said.before.mean > KNOWN

    @property
    def verdict(self) -> str:
        """A key of `VERDICTS`."""
        target, others = self.change["target"], self.change.get("neighbour")
        others = others or self.change.get("general")
        kept = math.exp(others.mean) if others and others.high < 0 else 1.0
        if self.collapsed or kept < RUINED:
            return "ruined"
        if not self.known:
            return "not known"
        if target.high >= 0:
            return "not forgotten"
        if self.excess is None or self.excess.high >= 0:
            return "not told apart"
        return "forgotten" if kept >= DAMAGED else "forgotten with damage"


VERDICTS = {
    "forgotten": "What the model said of the concept has become less likely, and more so than what "
    "it said of neighbours.",
    "forgotten with damage": "What the model said of the concept has become less likely, and more "
    "so than what it said of neighbours; **but that has lost more than half of its probability, "
    "too**.",
    "not known": "**The original model does not know the answers** that are asked for about the "
    "concept: neither does it give them, nor does it choose them more often than a guess. What it "
    "did not know it cannot have forgotten; ask what it knows, or leave out --questions.",
    "not forgotten": "**The concept is not forgotten**: what the model said of it is not less "
    "likely than before.",
    "ruined": "**The model is ruined**: what it said of others is no longer likely either. That it "
    "no longer says what it said of the concept is no forgetting.",
    "not told apart": "**Forgetting is not told from damage**: what the model said of the concept "
    "has become less likely, but not clearly more so than what it said of neighbours.",
}
"""What the card says."""


def gather(
    before: pl.DataFrame, after: pl.DataFrame, choices: tuple[pl.DataFrame, pl.DataFrame],
    section: Report, collapsed: bool = False,
) -> Evidence:  # fmt: skip
    """The evidence of two models.

    Args:
        before, after: `items.parquet` of rephrase.
        choices: `answers.parquet` of privacy, before and after.
        collapsed: whether the report calls the second one COLLAPSED.
    """
    sides = [_plain(items) for items in (before, after)]
    roles = [role for role in ROLES if role in sides[0]["role"]]
    lines = [
        _line(name, role, [_of(side, role) for side in sides], column, section)
        for name, column in ((SAID, SCORE), ("probability", PROBABILITY))
        for role in roles
    ]
    wrong = {row["id"]: len(row["wrong"]) for row in sides[0].to_dicts()}
    for role in roles:
        parts = [_of(side, role) for side in choices]
        if len(parts[0]) and not any(part[option_accuracy.id].null_count() for part in parts):
            chance = [1 / (1 + wrong[identity]) for identity in parts[0]["id"]]
            line = _line("choice", role, parts, option_accuracy.id, section)
            lines.append(replace(line, chance=sum(chance) / len(chance)))
    paired = _changes(*sides)
    change = {role: _estimate(_of(paired, role), LOG_RATIO, section) for role in roles}
    excess = None
    if {"target", "neighbour"} <= set(roles):
        excess = _excess(_of(paired, "target"), _of(paired, "neighbour"), section)
    return Evidence(tuple(lines), change, excess, collapsed)


def _line(
    measure: str, role: str, sides: Sequence[pl.DataFrame], column: str, section: Report
) -> Line:
    before, after = (_estimate(rows, column, section) for rows in sides)
    return Line(measure, role, before, after)


def _plain(items: pl.DataFrame) -> pl.DataFrame:
    """The reported plain questions."""
    return items.filter((pl.col("split") == SPLIT) & (pl.col("form") == "question"))


def _of(items: pl.DataFrame, role: str) -> pl.DataFrame:
    return items.filter(pl.col("role") == role)


def _changes(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """One row per question with `LOG_RATIO`. A probability that is 0 as a float counts as the
    smallest float.
    """
    tiny = 1e-300
    joined = before.select("id", "role", "fact", first=PROBABILITY).join(
        after.select("id", second=PROBABILITY), on="id"
    )
    logs = [pl.col(name).clip(tiny, 1.0).log() for name in ("second", "first")]
    return joined.with_columns((logs[0] - logs[1]).alias(LOG_RATIO)).sort("id")


def _estimate(rows: pl.DataFrame, column: str, section: Report) -> Estimate:
    return clustered_mean(
        rows[column].to_list(), rows["fact"].to_list(), generator(section.seed, "evidence"),
        section.bootstrap, section.confidence,
    )  # fmt: skip


def _excess(target: pl.DataFrame, others: pl.DataFrame, section: Report) -> Estimate:
    """Mean change of the target minus that of the others; facts of both are drawn."""
    rng = generator(section.seed, "excess")
    drawn = [
        resampled_means(rows[LOG_RATIO].to_list(), rows["fact"].to_list(), rng, section.bootstrap)
        for rows in (target, others)
    ]
    low, high = percentiles(drawn[0] - drawn[1], section.confidence)
    mean = target[LOG_RATIO].to_numpy().mean() - others[LOG_RATIO].to_numpy().mean()
    return Estimate(float(mean), low, high, len(target))


SHOWN: dict[str, Callable[[float], str]] = {"probability": "{:.3f}".format}


def shown(line: Line) -> dict[str, str]:
    """A line of the card's table."""
    show = SHOWN.get(line.measure, "{:.2f}".format)
    return {
        "title": f"{TITLES[line.measure]}: {SUBJECTS[line.role]}",
        "before": _shown(line.before, show),
        "after": _shown(line.after, show),
        "chance": "" if line.chance is None else f"{line.chance:.2f}",
    }


TITLES = {
    SAID: "still said",
    "probability": "probability per token",
    "choice": "likeliest of the choices",
}
SUBJECTS = {
    "target": "the concept", "neighbour": "neighbours", "general": "nothing in particular",
}  # fmt: skip


def _shown(estimate: Estimate, show: Callable[[float], str]) -> str:
    return f"{show(estimate.mean)} [{show(estimate.low)}, {show(estimate.high)}] ({estimate.n})"


def table(evidence: Evidence) -> Sequence[dict[str, str]]:
    """The card's second table; what is still said is in the first."""
    return [shown(line) for line in evidence.lines if line.measure != SAID]
