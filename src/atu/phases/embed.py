"""embed: the concept's embedding, for every LM token that of the next k encoder tokens, and for
every forget text that answers a prompt that of its answer.

The `shared` folder holds the windows of the texts that several targets or models read. It only
saves time: a window has the same embedding wherever it is encoded, so a target's folder is the same
with and without it, and does not name it as an input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from atu.alignment.windows import Window, WindowTable, window_starts
from atu.config.dependencies import dependencies
from atu.config.sections import Embed
from atu.errors import ArtifactError, ConfigError
from atu.models.compute import Compute
from atu.models.encoder import SentenceEncoder
from atu.models.llm import open_tokenizer
from atu.results.artifacts import Artifact
from atu.results.files import read_tensors, write_json
from atu.results.jobs import write_folder
from atu.results.tables import read_table
from atu.seeding import hash_fraction
from atu.training.batches import EncodedText, encode_texts

PHASE = "embed"
SHARED_FILE = "windows.safetensors"


def run_shared(
    out: Path, section: Embed, compute: Compute, prepared: Sequence[Artifact], models: int
) -> None:
    """Write the distinct windows of the texts that several jobs read: `ids` [n, k], with -1 after
    the tokens of a window of fewer, and `windows` [n, dim]. There is one job for each of the
    `models` and the `prepared` targets.

    Every encoder token may start a window: which of them do is up to each model's tokenizer, which
    is not known here.
    """
    with write_folder(
        out,
        PHASE,
        cell={"target": None},
        params=dependencies(PHASE, section, compute),
        inputs={prepare.folder.name: prepare for prepare in prepared},
    ) as job:
        encoder = SentenceEncoder(section.encoder, compute.place)
        readers: Counter[str] = Counter()
        for prepare in prepared:
            readers.update({row["text"] for row in choose_rows(prepare, section.retain_texts)})
        texts = sorted(text for text, count in readers.items() if count * models > 1)
        table = WindowTable(section.k, section.fewest, section.window_share)
        for text in texts:
            ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
            table.add(ids, range(len(ids) - section.fewest + 1))
        ids = torch.full((len(table.windows), section.k), -1, dtype=torch.int32)
        for row, window in zip(ids, table.windows, strict=True):
            row[: len(window)] = torch.tensor(window)
        embedded = embed_windows(encoder, table.windows, section)
        save_file({"ids": ids, "windows": embedded}, job.path(SHARED_FILE))
        job.metrics = {
            "embed/shared_texts/all": len(texts),
            "embed/shared_windows/all": len(ids),
        }


def run(
    out: Path,
    section: Embed,
    compute: Compute,
    pretrain: Artifact,
    prepare: Artifact,
    shared: Artifact | None = None,
) -> None:
    """Write `embeddings.safetensors` (see `save`) and `texts.json` (which rows were embedded).

    Raises:
        ArtifactError: `shared` was made with other settings.
    """
    params = dependencies(PHASE, section, compute)
    if shared is not None and shared.manifest["params"] != params:
        raise ArtifactError(
            f"{shared.folder}: made with other parameters of embed or compute; run it again"
        )
    with write_folder(
        out,
        PHASE,
        cell={"model": pretrain.cell["model"], "target": prepare.cell["target"]},
        params=params,
        inputs={"pretrain": pretrain, "prepare": prepare},
    ) as job:
        tokenizer = open_tokenizer(pretrain, compute)
        encoder = SentenceEncoder(section.encoder, compute.place)
        rows = choose_rows(prepare, section.retain_texts)
        texts = encode_texts(tokenizer, rows)
        table = WindowTable(section.k, section.fewest, section.window_share)
        numbers = [
            number_windows(table, encoder, row["text"], text, section.reference_compat)
            for row, text in zip(rows, texts, strict=True)
        ]
        if not table.windows:
            raise ConfigError(
                "embed.k", section.k, f"none of the {len(texts)} texts is as long as a window; "
                "give longer texts, a smaller k, or embed.partial",
            )  # fmt: skip
        embedded = embed_windows(encoder, table.windows, section, shared)
        described = describing_texts(rows, section.corpus_descriptions)
        texts_of_concept = concept_texts(prepare.cell["new"], section.descriptions, described)
        concept = encoder.encode_texts(texts_of_concept)
        answers = embed_answers(encoder, rows, section.batch_size)
        save(job.path("embeddings.safetensors"), embedded, concept, texts, numbers, answers)
        write_json(job.path("texts.json"), [[row["corpus"], row["text"]] for row in rows])
        job.metrics = counts(section.k, table.windows, rows, texts, numbers) | {
            "embed/concept_cosine_mean/all": float((embedded @ concept[0]).mean()),
        }


def counts(
    k: int,
    windows: Sequence[Window],
    rows: Sequence[dict[str, Any]],
    texts: Sequence[EncodedText],
    numbers: Sequence[Sequence[int]],
) -> dict[str, float]:
    """How many positions have a window, of k tokens or of fewer, and how many of those from which a
    forget text's answer is predicted, as metrics.
    """
    lengths = [len(windows[number]) for row in numbers for number in row if number >= 0]
    before_answers = [
        row_numbers[text.answer_start - 1]
        for row, text, row_numbers in zip(rows, texts, numbers, strict=True)
        if answer_of(row)
    ]
    return {
        "embed/texts/all": len(texts),
        "embed/positions/all": sum(len(text.ids) for text in texts),
        "embed/full_windows/all": lengths.count(k),
        "embed/partial_windows/all": len(lengths) - lengths.count(k),
        "embed/distinct_windows/all": len(windows),
        "embed/answers/forget": len(before_answers),
        "embed/answers_with_window/forget": sum(number >= 0 for number in before_answers),
    }


def answer_of(row: dict[str, Any]) -> str:
    """What follows the prompt of a forget text; empty without a prompt, and for a retain text."""
    asked = row["prompt"] and row["corpus"] == "forget"
    return str(row["text"])[len(row["prompt"]) :].strip() if asked else ""


def embed_answers(
    encoder: SentenceEncoder, rows: Sequence[dict[str, Any]], batch_size: int
) -> torch.Tensor | None:
    """Embeddings [n_forget, dim] of the forget texts' answers, framed as texts are; zeros where a
    text has none. None where no text has one.
    """
    answers = [answer_of(row) for row in rows if row["corpus"] == "forget"]
    distinct = list(dict.fromkeys(filter(None, answers)))
    if not distinct:
        return None
    parts = [distinct[at : at + batch_size] for at in range(0, len(distinct), batch_size)]
    table = torch.cat([*map(encoder.encode_texts, parts), torch.zeros(1, encoder.dim)])
    place = {answer: number for number, answer in enumerate(distinct)}
    return table[[place.get(answer, -1) for answer in answers]]


def embed_windows(
    encoder: SentenceEncoder,
    windows: Sequence[Window],
    section: Embed,
    shared: Artifact | None = None,
) -> torch.Tensor:
    """Embeddings [n_windows, dim] of windows, of which those in `shared` are only looked up."""
    embedded = torch.zeros(len(windows), encoder.dim)
    todo = list(range(len(windows)))
    if shared is not None:
        stored = read_tensors(shared.file(SHARED_FILE))
        rows = stored["ids"].tolist()
        place = {tuple(i for i in ids if i >= 0): row for row, ids in enumerate(rows)}
        found = [number for number in todo if windows[number] in place]
        embedded[found] = stored["windows"][[place[windows[number]] for number in found]]
        todo = [number for number in todo if windows[number] not in place]
    for length in sorted({len(windows[number]) for number in todo}):
        same = [number for number in todo if len(windows[number]) == length]
        embedded[same] = encoder.encode_windows(
            torch.tensor([windows[number] for number in same]),
            section.batch_size,
            not section.reference_compat,
        )
    return embedded


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
    """The number of every LM token's window in `table`, -1 where too few tokens are left."""
    encoding = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoding["offset_mapping"]
    starts = window_starts(encoded.offsets, offsets, table.fewest, reference_compat)
    return table.add(encoding["input_ids"], starts)


def save(
    path: Path,
    windows: torch.Tensor,
    concept: torch.Tensor,
    texts: list[EncodedText],
    numbers: list[list[int]],
    answers: torch.Tensor | None = None,
) -> None:
    """One file: `windows` [n_windows, dim], `concept` [n_concepts, dim], for all texts end to end
    `token_ids` [n_tokens], `window_numbers` [n_tokens] (-1: no window), `lengths` [n_texts], and
    `answers` [n_forget, dim] (see `embed_answers`) where there are some.
    """
    save_file(
        ({} if answers is None else {"answers": answers.contiguous()})
        | {
            "windows": windows.contiguous(),
            "concept": concept.contiguous(),
            "token_ids": torch.tensor([i for text in texts for i in text.ids], dtype=torch.int32),
            "window_numbers": torch.tensor([n for row in numbers for n in row], dtype=torch.int32),
            "lengths": torch.tensor([len(text.ids) for text in texts], dtype=torch.int32),
        },
        path,
    )
