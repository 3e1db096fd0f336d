"""The sentences that stand first on the page: who beats the method that is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atu.config.roles import ORACLE, REFERENCES
from atu.reporting.comparison import COMPARED, compared
from atu.reporting.names import called
from atu.reporting.tables import COLUMNS

Row = Mapping[str, Any]


def dominance(
    rows: Sequence[Row],
    ours: str,
    names: Mapping[str, str],
    utility: Mapping[tuple[str, str], Mapping[str, float]],
) -> list[str]:
    """A sentence for every method that does at least as well as `ours` in every compared column and
    better in one, whatever the intervals say: whoever reads no further must know. Of what leaks,
    better is nearer to the oracle, and less without one. An estimate that is not valid supports no
    such claim, and a COLLAPSED model has none. `names` says what people call a method; its key
    stands where it does not.
    """
    sentences = []
    for row in rows:
        same = {r["method"]: r for r in rows if r["model"] == row["model"]}
        mine, oracle = same.get(ours), same.get(ORACLE)
        if mine is None or row["method"] in (ours, *REFERENCES):
            continue
        if utility[row["model"], row["method"]]["collapsed"]:
            continue
        keys = compared(row)
        if not all(side[key].valid for side in (row, mine) for key in keys):
            continue
        gains = [_loss(mine, oracle, key) - _loss(row, oracle, key) for key in keys]
        if min(gains) >= 0 and max(gains) > 0:
            sentences.append(
                f"{called(row, rows, names)} does at least as well as {names.get(ours, ours)} in "
                f"all that is compared ({'; '.join(COLUMNS[key] for key in keys)}) and better in "
                "at least one; intervals may overlap."
            )
    return sentences


def _loss(row: Row, oracle: Row | None, key: str) -> float:
    """What is bad about a column: the lower the better."""
    mean: float = row[key].mean
    if COMPARED[key]:
        return -mean
    return abs(mean - oracle[key].mean) if oracle and oracle[key].valid else mean
