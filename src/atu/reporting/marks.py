"""Marks at titles of numbers that failed the meta-evaluation of metrics (`metrics.trust`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from atu.config.sections import AttackSection
from atu.metrics.membership import auc
from atu.metrics.trust import Trust, measured
from atu.reporting.privacy import ANSWERS, AUCS, TITLES
from atu.reporting.robustness import attack_columns
from atu.results.items import PROBABILITY

SIGN = "‡"


def asked_keys(measure: str) -> dict[str, str]:
    """Of columns from the phase `rephrase`, the number that each shows."""
    same = ("question", "worst", "worst_adversarial", "alias", "two_hop", "paired")
    names = {"target": "question", "worst_form": "worst"} | {name: name for name in same}
    keys = {column: f"rephrase/target.{name}.{measure}" for column, name in names.items()}
    return keys | {"ort": f"rephrase/target.worst_ort.{PROBABILITY}"}


def attack_keys(
    attack: AttackSection,
    names: Sequence[str],
    attacked: pl.DataFrame,
    failed: Mapping[str, Trust],
) -> dict[str, str]:
    """Of the attacks' columns but controls, the number that each shows; of a difference between
    conditions the attack's own number, if it failed.
    """
    keys = {}
    for name in names:
        items = attacked.filter(pl.col("attack") == name)
        for number, column in enumerate(attack_columns(attack, name)):
            about, condition = f"attack/{name}.{column.role}", column.conditions[0]
            if column.minus:
                found = [key for key in failed if key.rpartition(".")[0] == about]
            else:
                shown = items.filter(pl.col("condition") == condition)["metric"].unique()
                found = [f"{about}.{condition}.{metric}" for metric in shown.sort()]
            if found and not column.control:
                keys[f"{name}.{number}"] = found[0]
    return keys


def privacy_keys() -> dict[str, str]:
    """Of the privacy table's lines, the number that each shows."""
    keys = {name: f"privacy/{name}" for name in TITLES}
    keys |= {name: f"privacy/target.{name}" for name in ANSWERS}
    return keys | {name: f"privacy/forget.{name}.{auc.id}" for name in AUCS}


def failed_titles(
    titles: Mapping[str, str],
    measure: str,
    attack: AttackSection,
    names: Sequence[str],
    attacked: pl.DataFrame,
) -> dict[str, str]:
    """A sentence for every title whose number failed, by the title's key.

    Args:
        titles: of columns and lines, by their keys.
        measure: the metric by which the benchmark's answers are scored.
        names: the grid's attacks.
        attacked: their items.
    """
    failed = {found.key: found for found in measured() if found.failed}
    keys = asked_keys(measure) | privacy_keys() | attack_keys(attack, names, attacked, failed)
    return {
        name: f"{SIGN} {title}: may not tell a model that knows the target from one that never "
        f"did; faithfulness {found.area} over {found.knowing} and {found.ignorant} models of the "
        "embedded world (docs/metrics.md)."
        for name, title in titles.items()
        if (found := failed.get(keys.get(name, "")))
    }


def marked(titles: Mapping[str, str], failed: Mapping[str, str]) -> dict[str, str]:
    """The titles, with the sign where there is a note."""
    return {name: f"{title} {SIGN}" if name in failed else title for name, title in titles.items()}


def lines(failed: Mapping[str, str], shown: Iterable[str]) -> str:
    """The sentences below a Markdown table that shows these."""
    return "".join(f"\n{failed[name]}\n" for name in shown if name in failed)
