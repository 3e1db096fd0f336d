"""What an attacker sees of every method: how far it stands out from a model that never knew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atu.attacks.lens import Settings as Lens
from atu.config.sections import AttackSection
from atu.metrics.membership import membership_loss
from atu.metrics.memorisation import muse_priv_leak
from atu.metrics.selection import PARTNER
from atu.reporting.names import called
from atu.reporting.robustness import attack_columns
from atu.reporting.tables import interval, markdown_lines

MEMBERSHIP = membership_loss.id
PRIV_LEAK = f"forget.{muse_priv_leak.id}"


def lens_names(attack: AttackSection, names: Sequence[str]) -> list[str]:
    """The attacks among these that are logit lenses."""
    return [name for name in names if isinstance(attack.attacks[name], Lens)]


def attacker_columns(
    robust: Sequence[Mapping[str, Any]],
    privacy: Sequence[Mapping[str, Any]],
    attack: AttackSection,
    names: Sequence[str],
) -> dict[str, str]:
    """Key to title of what was measured: the retain question beside the target's, the logit lens,
    membership inference by the loss, PrivLeak.
    """
    titles = {PARTNER: "the retain question beside the target's"}
    titles |= {
        f"{name}.0": attack_columns(attack, name)[0].title for name in lens_names(attack, names)
    }
    asked = {key: title for key, title in titles.items() if any(row[key].n for row in robust)}
    texts = {MEMBERSHIP: "membership AUC, loss", PRIV_LEAK: "PrivLeak, %"}
    return asked | {key: title for key, title in texts.items() if key in privacy[0]}


def attacker_table(
    robust: Sequence[Mapping[str, Any]],
    privacy: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
) -> list[dict[str, Any]]:
    """One row per model and method with these columns; the oracle's are what the others should
    have.
    """
    texts = {(row["model"], row["method"]): row for row in privacy}
    found = []
    for row in robust:
        cell = (row["model"], row["method"])
        both = {**row, **texts[cell]}
        found.append({key: both[key] for key in ("model", "method", *columns)})
    return found


def markdown_attacker(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], names: Mapping[str, str]
) -> str:
    """The table in Markdown; nothing where nothing was measured."""
    if not columns:
        return ""
    lines = [[called(row, rows, names), *(interval(row[key]) for key in columns)] for row in rows]
    return markdown_lines(["method", *columns.values()], lines)
