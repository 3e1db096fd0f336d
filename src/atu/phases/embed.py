"""embed: the concept's embedding, and for every LM token that of the next k encoder tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from atu.alignment.windows import WindowTable, window_starts
from atu.config.dependencies import dependencies
from atu.config.sections import Embed
from atu.models.compute import Compute
from atu.models.encoder import SentenceEncoder
from atu.models.llm import open_tokenizer
from atu.results.artifacts import Artifact
from atu.results.files import write_json
from atu.results.jobs import write_folder
from atu.results.tables import read_table
from atu.seeding import hash_fraction
from atu.training.batches import EncodedText, encode_texts

PHASE = "embed"


def run(out: Path, section: Embed, compute: Compute, pretrain: Artifact, prepare: Artifact) -> None:
    """Write `embeddings.safetensors` (see `save`) and `texts.json` (which rows were embedded)."""
    with write_folder(
        out,
        PHASE,
        cell={"model": pretrain.cell["model"], "target": prepare.cell["target"]},
        params=dependencies(PHASE, section, compute),
        inputs={"pretrain": pretrain, "prepare": prepare},
    ) as job:
        tokenizer = open_tokenizer(pretrain, compute)
        encoder = SentenceEncoder(section.encoder, compute.place)
        rows = choose_rows(prepare, section.retain_texts)
        texts = encode_texts(tokenizer, rows)
        table = WindowTable(section.k)
        numbers = [
            number_windows(table, encoder, row["text"], text, section.reference_compat)
            for row, text in zip(rows, texts, strict=True)
        ]
        windows = torch.tensor(table.windows, dtype=torch.long).reshape(-1, section.k)
        embedded = encoder.encode_windows(windows, section.batch_size, not section.reference_compat)
        described = describing_texts(rows, section.corpus_descriptions)
        texts_of_concept = concept_texts(prepare.cell["new"], section.descriptions, described)
        concept = encoder.encode_texts(texts_of_concept)
        save(job.path("embeddings.safetensors"), embedded, concept, texts, numbers)
        write_json(job.path("texts.json"), [[row["corpus"], row["text"]] for row in rows])
        positions = sum(len(text.ids) for text in texts)
        full = sum(number >= 0 for row in numbers for number in row)
        job.metrics = {
            "embed/texts/all": len(texts),
            "embed/positions/all": positions,
            "embed/full_windows/all": full,
            "embed/distinct_windows/all": len(windows),
            "embed/concept_cosine_mean/all": float((embedded @ concept[0]).mean()),
        }


def describing_texts(rows: Sequence[dict[str, Any]], count: int) -> list[str]:
    """Texts of the forget corpus that tell about the concept instead of asking, chosen by hash."""
    told = {row["text"] for row in rows if row["corpus"] == "forget" and not row["prompt"]}
    return sorted(told, key=lambda text: hash_fraction("describe", text))[:count]


def concept_texts(
    names: Sequence[str], descriptions: Sequence[str], described: Sequence[str]
) -> list[str]:
    """What stands for the concept: every name, every description, in which `{name}` stands for each
    name in turn, and `described` as it is.
    """
    texts = [text.replace("{name}", name) for text in descriptions for name in names]
    return list(dict.fromkeys([*names, *texts, *described]))


def choose_rows(prepare: Artifact, retain_texts: int) -> list[dict[str, Any]]:
    """The whole forget corpus and a sample of the retain corpus, chosen by a hash of each text."""
    forget = read_table(prepare.file("forget.parquet"))
    retain = read_table(prepare.file("retain.parquet"))
    retain.sort(key=lambda row: hash_fraction("embed", row["text"]))
    return [row | {"corpus": "forget"} for row in forget] + [
        row | {"corpus": "retain"} for row in retain[:retain_texts]
    ]


def number_windows(
    table: WindowTable,
    encoder: SentenceEncoder,
    text: str,
    encoded: EncodedText,
    reference_compat: bool = False,
) -> list[int]:
    """The number of every LM token's window in `table`, -1 where fewer than k tokens are left."""
    encoding = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoding["offset_mapping"]
    starts = window_starts(encoded.offsets, offsets, table.k, reference_compat)
    return table.add(encoding["input_ids"], starts)


def save(
    path: Path,
    windows: torch.Tensor,
    concept: torch.Tensor,
    texts: list[EncodedText],
    numbers: list[list[int]],
) -> None:
    """One file: `windows` [n_windows, dim], `concept` [n_concepts, dim], and for all texts end to
    end `token_ids` [n_tokens], `window_numbers` [n_tokens] (-1: no full window), `lengths`
    [n_texts].
    """
    save_file(
        {
            "windows": windows.contiguous(),
            "concept": concept.contiguous(),
            "token_ids": torch.tensor([i for text in texts for i in text.ids], dtype=torch.int32),
            "window_numbers": torch.tensor([n for row in numbers for n in row], dtype=torch.int32),
            "lengths": torch.tensor([len(text.ids) for text in texts], dtype=torch.int32),
        },
        path,
    )
