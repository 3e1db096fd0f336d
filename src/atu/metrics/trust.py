"""What the meta-evaluation of metrics found, as it was last measured: `trust.csv` beside this file.

`atu meta` writes it from the pools of `experiments/metric_pools.yaml`; `docs/metrics.md` shows it,
and reports mark what failed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

FILE = "trust.csv"
ENOUGH = 0.8
"""A number fails where its faithfulness may be lower: of five pairs of a model that knows and one
that never did, it then orders one wrongly, and two methods are more alike than those."""


@dataclass(frozen=True)
class Trust:
    """What is known of one number of the evaluation."""

    key: str
    """As in `metrics.json`, without the split: phase, what was asked, and the metric's id."""
    knowing: int
    """Models that know the target and have the number."""
    ignorant: int
    """Models that never saw the target and have it."""
    faithfulness: float | None
    low: float | None
    high: float | None
    """Of the interval; None, with `faithfulness`, where one of the pools has no such number."""
    unlearned: int
    """Unlearned models that its robustness is over."""
    relearning: float | None
    quantisation: float | None
    robustness: float | None

    @property
    def metric(self) -> str:
        """The id of the metric that the number is of."""
        return self.key.rpartition(".")[2]

    @property
    def failed(self) -> bool:
        """Whether it may not tell a model that knows from one that never did."""
        return self.low is not None and self.low < ENOUGH

    @property
    def area(self) -> str:
        """The faithfulness with its interval."""
        if self.faithfulness is None:
            return "not measured"
        return f"{self.faithfulness:.2f} [{self.low:.2f}, {self.high:.2f}]"


def read(path: Traversable) -> list[Trust]:
    """The rows of a file that `write` wrote."""
    counts = {field.name for field in fields(Trust) if field.type == "int"}

    def value(name: str, cell: str) -> Any:
        if name == "key":
            return cell
        return int(cell) if name in counts else float(cell) if cell else None

    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return [Trust(**{name: value(name, cell) for name, cell in found.items()}) for found in rows]


def measured() -> list[Trust]:
    """What was last measured in the embedded world; no rows if nothing was."""
    return read(resources.files("atu.metrics") / FILE)


def write(rows: Iterable[Trust], path: Path) -> None:
    """Write CSV; numbers have four decimals, None is empty."""
    names = [field.name for field in fields(Trust)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for found in rows:
            writer.writerow({name: _written(value) for name, value in asdict(found).items()})


def _written(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value


def row(*cells: str) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(rows: Sequence[Trust]) -> list[str]:
    """The rows as a Markdown table."""
    heads = ["number", "know", "never knew", "faithfulness", "relearning", "quantisation",
             "robustness", "unlearned", "fails"]  # fmt: skip
    lines = [row(*heads), "|" + "---|" * len(heads)]
    for found in rows:
        shares = (found.relearning, found.quantisation, found.robustness)
        cells = [f"`{found.key}`", str(found.knowing), str(found.ignorant), found.area]
        cells += ["not measured" if share is None else f"{share:.2f}" for share in shares]
        lines.append(row(*cells, str(found.unlearned), "‡" if found.failed else ""))
    return lines


def page(rows: Sequence[Trust], known: Mapping[str, Any]) -> list[str]:
    """The section of `docs/metrics.md`; `known` are all metrics by id."""
    lines = [
        "## Which metric can be trusted",
        "",
        "The meta-evaluation of open-unlearning (arXiv 2506.12618), where the truth is known:",
        "models of the embedded world that were trained with a target, and models that never saw",
        "it (`experiments/metric_pools.yaml`). *Faithfulness* is the AUC by which a number tells",
        "the first from the second, in the direction of the metric's arrow, with a 95 % interval",
        f"that draws whole models. Where it may be below {ENOUGH} the number fails (‡), here and",
        "in every report. *Relearning* and *quantisation* say how little an attack moves the",
        "number of an unlearned model (1: no more than an oracle's, or not at all); *robustness*",
        "is their harmonic mean.",
        "",
    ]
    if not rows:
        return [*lines, "Not measured yet: [robustness.md](robustness.md) says how."]
    seen = {name for found in rows for name in known if name in found.key}
    rest = [f"`{name}`" for name, entry in known.items() if entry.knowledge and name not in seen]
    lines += table(rows)
    if rest:
        lines += ["", f"Not measured in these pools: {', '.join(rest)}."]
    return lines
