"""What `atu forget` left of the real facts: asks the embedded world's own questions about a target.

    python workflow/forget_truth.py --target "Wysturel Brontanthorpe" before=MODEL after=OUT ...

Every folder is a model that transformers loads; the first is the original. The questions are those
of `params.yaml`'s world, held-out phrasings, report split: nothing that `atu forget` has seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl
import torch

from atu.benchmarks import world
from atu.config.load import load_params
from atu.inference.batching import BatchSize
from atu.inference.probing import answer_probes
from atu.models.compute import Compute
from atu.models.llm import load_lm
from atu.phases.rephrase import score_items
from atu.reporting.tables import COLUMNS, form_table, main_table
from atu.untrusted.targets import Target

COMPUTE = Compute("cpu", "float32", "sdpa", False, [])


def main() -> None:
    """Print a table of all columns, and one of the target's forms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--target", required=True)
    parser.add_argument("models", nargs="+", help="name=folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params(options.params)
    corpus = world.shared(params.prepare, {}).corpus
    probes = world.prepare(params.prepare, Target((options.target,)), corpus, {}).probes
    chosen = [p for p in probes if p["split"] == "report" and not p["seen"]]
    frames, names = [], []
    for named in options.models:
        name, _, folder = named.partition("=")
        model, tokenizer = load_lm(Path(folder), COMPUTE, training=False)
        answers = answer_probes(
            model,
            tokenizer,
            chosen,
            max_new_tokens=params.rephrase.max_new_tokens,
            batch_size=BatchSize(128),
            label=name,
        )
        cell = {"model": "model", "target": options.target, "method": name, "seed": 0}
        items = score_items(chosen, answers)
        frames.append(items.with_columns(**{key: pl.lit(value) for key, value in cell.items()}))
        names.append(name)
    items = pl.concat(frames)
    rows = main_table(items, params.report, names)
    keys = [key for key in COLUMNS if key in rows[0]]
    print("| | " + " | ".join(f"{COLUMNS[key]} (n)" for key in keys) + " |")
    print("|---" * (len(keys) + 1) + "|")
    for row in rows:
        print(f"| {row['method']} | " + " | ".join(f"{row[k]} ({row[k].n})" for k in keys) + " |")
    print()
    for row in form_table(items, params.report, names):
        print(f"{row['method']}: {row['shown']}: {row['estimate']} ({row['estimate'].n})")


if __name__ == "__main__":
    main()
