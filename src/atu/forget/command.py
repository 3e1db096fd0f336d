"""`atu forget`: from a model and a name to a model that has forgotten the name."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from atu.benchmarks.shared.source import Reader
from atu.config.fetching import bring_encoder
from atu.config.load import check_values, load_params
from atu.config.params import Params
from atu.config.plain import plain_name
from atu.errors import ConfigError, visible
from atu.forget.brought import NOWHERE, Brought, Places, read_brought, unread
from atu.forget.corpus import PHASE as CORPUS
from atu.forget.corpus import Concept, is_written, taken, write, write_corpus
from atu.forget.experiment import COMMAND, EXPERIMENT, MODEL, SCALES, Shape, render
from atu.forget.result import NUMBERS, export, require_free
from atu.forget.settings import Writing
from atu.forget.texts import key, words
from atu.models.encoder import BUNDLED, locate_encoder
from atu.models.folders import loading
from atu.models.pinned import file_digests, locate, split_revision
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import read_json
from atu.results.locks import Lock, Source
from atu.results.writer import only_writer
from atu.untrusted.targets import target_slug
from atu.untrusted.texts import REORDERING, UNPRINTABLE, is_folder
from atu.untrusted.yaml import parse_yaml
from atu.workfolder.folder import (
    LOCKS,
    PARAMS,
    keep_params,
    require_params,
    require_place,
    work_folder,
)
from atu.workfolder.models import pin_model
from atu.workfolder.workflow import run_workflow, snakefile

READ = ("names.json", "forget.json", "retain.json", "questions.json")


@dataclass(frozen=True)
class ForgetRequest:
    """The options of `atu forget`."""

    model: str
    concept: Concept
    writing: Writing
    method: str
    rank: int | None
    """Rank of the LoRA adapter; None trains the full weights."""
    encoder: str
    out: Path
    work: Path
    offline: bool
    cores: int
    threads: int | None
    """Of every job; None: one for a small model, otherwise all cores."""
    quick: bool = False
    places: Places = NOWHERE
    """Where the user's own texts and questions are."""


def run(request: ForgetRequest, *, dry_run: bool) -> None:
    """Run all steps, skipping those that are done.

    Raises:
        AtuError: an option, the model, the corpus or the machine is unsuitable.
    """
    _check(request)
    brought = read_brought(request.places, request.concept.names, request.writing)
    for line in brought.lines():
        print(visible(line), file=sys.stderr)
    with work_folder(request.work), only_writer(request.work) as lock_file:
        source, folder = _pin_model(request)
        shape = Shape.of(folder)
        threads = request.threads or (1 if shape.scale == SCALES[0] else request.cores)
        writing = request.writing.keeping(1.0 if request.quick else shape.scale.retain_share)
        request = replace(request, threads=threads, writing=writing)
        encoder = _pin_encoder(request)
        corpus = Source(CORPUS, None, f"{LOCKS}/{CORPUS}.json")
        text = render(
            names=request.concept.names,
            descriptions=request.concept.descriptions,
            method=request.method,
            rank=request.rank,
            seed=request.writing.seed,
            select=request.writing.select,
            encoder=encoder,
            model=source,
            corpus=corpus,
            shape=shape,
            quick=request.quick,
            long_answers=brought.has_long_answers(request.writing),
        )
        values = parse_yaml(text)
        check_values(values, str(request.work / PARAMS), across=False)
        for line in unread(brought, values, request.method):
            print(line, file=sys.stderr)
        if dry_run:
            print(text, end="")
            return
        require_params(request.work / PARAMS, COMMAND)
        written = _write(request, folder, encoder, brought)
        with contextlib.chdir(request.work):
            _lock_corpus(corpus)
            keep_params(Path(PARAMS), text)
            params = load_params(Path(PARAMS))
            run_workflow(COMMAND, EXPERIMENT, request.cores, lock_file, threads)
            finish(request, params, written)


def finish(request: ForgetRequest, params: Params, corpus: Artifact) -> None:
    """Write the result folder and print where it is."""
    results = Path("results") / params.experiment
    new = export(request.out, params, Path(PARAMS), results, corpus)
    print(read_json(request.out / NUMBERS)["summary"])
    print(f"{'Written' if new else 'Nothing to be done'}: {request.out} (README.md is its card)")
    print(f"Report: {request.work / results / 'report' / 'report.html'}")


def _check(request: ForgetRequest) -> None:
    snakefile(COMMAND)
    require_free(request.out, request.concept.names)
    require_place("--work", request.work)
    for option, texts in (
        ("--concept", request.concept.names),
        ("--describe", request.concept.descriptions),
        ("--neighbour", request.concept.neighbours),
    ):
        for text in texts:
            if not text.strip() or UNPRINTABLE.search(text) or REORDERING.search(text):
                raise ConfigError(option, text, "is empty or has control characters")
            if len(text.splitlines()) > 1 or {"{", "}"} & set(text):
                raise ConfigError(option, text, "has a line break or braces; write one plain line")
            if not words(text):
                raise ConfigError(option, text, "has no letter or digit")
    for text in request.concept.neighbours:
        if key(text) in map(key, request.concept.names):
            raise ConfigError("--neighbour", text, "is a name of the concept itself; leave it out")
    if not request.concept.names:
        raise ConfigError("--concept", None, "name what is to be forgotten")
    try:
        target_slug(request.concept.names[0])
    except ValueError as error:
        raise ConfigError("--concept", request.concept.names[0], str(error)) from None
    if request.work.resolve().is_relative_to(request.out.resolve()):
        raise ConfigError(
            "--work", str(request.work), "is the folder of --out or in it; name another"
        )


def _pin_model(request: ForgetRequest) -> tuple[Source, Path]:
    """The model's source, locked in the work folder, and the folder of its files."""
    made = request.work / MODEL / plain_name(split_revision(request.model)[0])
    pinned = pin_model("--model", request.model, request.work, made, offline=request.offline)
    folder = locate(pinned, Lock.read(Path(pinned.lock)).revision)
    return replace(pinned, lock=f"{LOCKS}/{MODEL}.json"), folder


def _pin_encoder(request: ForgetRequest) -> str:
    """The encoder's name, valid from the work folder."""
    name = request.encoder
    if name != BUNDLED and is_folder(Path(name)):
        name = str(Path(name).resolve())
    print(visible(bring_encoder(name, request.offline)), file=sys.stderr)
    return name


def _write(request: ForgetRequest, folder: Path, encoder: str, brought: Brought) -> Artifact:
    """The corpus; the model writes what the user does not bring, unless it exists."""
    pins = {
        MODEL: file_digests(folder),
        "encoder": file_digests(locate_encoder(encoder)),
        "threads": request.threads,  # sums of floats depend on them
    } | ({"brought": brought.digests} if brought.digests else {})
    manifest = request.work / CORPUS / MANIFEST
    if not is_written(manifest, request.concept, request.writing, pins):
        brought = _fitted(brought, folder)
        if request.writing.writes:
            _load_and_write(request, folder, encoder, manifest, pins, brought)
        else:
            make = partial(taken, request.writing, brought)
            write_corpus(manifest, request.concept, request.writing, pins, make)
    return Artifact.open(manifest.absolute(), CORPUS)


def _fitted(brought: Brought, folder: Path) -> Brought:
    """With passages and questions that fit the model's context."""
    if not brought.digests:
        return brought
    from transformers import AutoConfig

    from atu.models.encoding import tokenise
    from atu.models.llm import context_length, load_tokenizer

    tokenizer = load_tokenizer(folder)
    with loading(folder, weights=False):
        context = context_length(AutoConfig.from_pretrained(folder, local_files_only=True))
    return brought.fitted(lambda text: len(tokenise(tokenizer, text).ids), context)


def _load_and_write(
    request: ForgetRequest, folder: Path, encoder: str, manifest: Path, pins: dict[str, Any],
    brought: Brought,
) -> None:  # fmt: skip
    """Load the model, write the corpus, and free the model's memory for the jobs."""
    import torch

    from atu.forget.author import Author
    from atu.forget.similarity import Similarity
    from atu.inference.batching import BatchSize
    from atu.models.compute import Compute
    from atu.models.encoder import SentenceEncoder
    from atu.models.llm import load_lm

    assert request.threads
    torch.set_num_threads(request.threads)
    compute = Compute("auto", "auto", "sdpa", False, [])
    model, tokenizer = load_lm(folder, compute, training=False)
    writing = request.writing
    author = Author(model, tokenizer, writing.seed, BatchSize(writing.batch_size))
    similarity = Similarity(SentenceEncoder(encoder, compute.place))
    make = partial(write, request.concept, writing, author, similarity, brought)
    write_corpus(manifest, request.concept, writing, pins, make)
    del author, model, similarity, make
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _lock_corpus(corpus: Source) -> None:
    """Write the corpus's lock. It was just checked against its manifest, so it is trusted."""
    reader = Reader(corpus, Lock(), record=True)
    for name in READ:
        reader.file(name)
    path = Path(corpus.lock)
    if not path.exists() or Lock.read(path) != reader.lock:
        reader.lock.write(path)
