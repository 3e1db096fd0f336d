"""pretrain: the model to unlearn from, and an oracle that never saw the target: trained on the
benchmark from scratch or from a model that exists; or that model itself, pinned.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atu.config.dependencies import dependencies
from atu.config.sections import Pinned, Pretrain
from atu.inference.batching import BatchSize
from atu.inference.probing import answer_probes
from atu.models.build import build_lm
from atu.models.checkpoint import place_checkpoint
from atu.models.compute import Compute, device_of, settle
from atu.models.gguf import dequantise
from atu.models.gguf_header import is_gguf
from atu.models.llm import load_lm, require_room, save_lm
from atu.models.pinned import locate, parameter_count, pin
from atu.models.tokenizer import train_tokenizer
from atu.probes.prompts import SHARED_TEXT, part_of
from atu.results.artifacts import Artifact
from atu.results.files import write_jsonl
from atu.results.jobs import Job, write_folder
from atu.results.tables import ORACLE, read_table
from atu.seeding import child_seed, generator
from atu.training.answers import answer_nll
from atu.training.batches import (
    EncodedText,
    collate,
    encode_texts,
    length_sorted_batches,
    padded_tokens,
    pass_over,
)
from atu.training.keeper import Keeper, Trace
from atu.training.loop import make_optimizers, run_steps, split_matrices, warmup_linear

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PHASE = "pretrain"
ANSWER_TOKENS = 48


def run(
    out: Path,
    section: Pretrain,
    compute: Compute,
    model: str,
    shared: Artifact,
    oracle: Artifact | None,
    second: bool = False,
) -> None:
    """Train the full model on the shared corpus, or with `oracle` (a target's prepared folder) the
    model that never saw that target; a model that exists and is not trained is pinned.

    Both use the tokenizer of the full corpus: it is trained here from the same texts, so the oracle
    job need not wait for the full one and still has the same vocabulary. A `second` oracle differs
    by its seed alone.
    """
    names = oracle.cell["names"] if oracle else []
    inputs = {"shared": shared} | ({"prepare": oracle} if oracle else {})
    params = dependencies(PHASE, section, compute, model)
    section, spec, code = section.of(model), section.models[model], model in compute.remote_code
    cell = {"model": model, "oracle_of": oracle.cell["target"] if oracle else None}
    if second:
        cell["second"] = True
        section = section.model_copy(update={"seed": child_seed(section.seed, PHASE, "second")})
    with write_folder(
        out,
        PHASE,
        cell=cell,
        params=params,
        inputs=inputs,
    ) as job:
        if isinstance(spec, Pinned) and not spec.finetune:
            folder = _pinned(spec, oracle, job, code)
            job.metrics = {"pretrain/parameters/all": parameter_count(folder)}
            return
        corpus = read_table(shared.file("corpus.parquet"))
        rows = read_table(oracle_corpus(oracle)) if oracle else corpus
        lm, tokenizer = _start(spec, section.seed, compute, corpus, code)
        trace = Trace()
        keeper = Keeper(job.checkpoints, trace)
        _train(lm, tokenizer, rows, section, _optimizers(lm, spec, section), keeper)
        job.notes["resumed"] = keeper.resumed
        save_lm(lm, tokenizer, job.path("model"))
        write_jsonl(job.path("trace.jsonl"), trace.rows)
        probes = read_table(shared.file("probes.parquet"))
        job.metrics = {"pretrain/loss/train": trace.rows[-1]["loss"]}
        job.metrics["pretrain/parameters/all"] = sum(p.numel() for p in lm.parameters())
        job.metrics |= _knowledge(lm, tokenizer, probes, names)


def _pinned(spec: Pinned, oracle: Artifact | None, job: Job, code: bool) -> Path:
    """The model as it came, or the oracle that came for the target, in the job's folder."""
    if oracle is None:
        return place_checkpoint(spec.source, job.path, None, code)
    base = locate(spec.source, pin(spec.source, code)["revision"])
    return place_checkpoint(spec.oracles[oracle.cell["target"]], job.path, base, code)


def oracle_corpus(prepare: Artifact) -> Path:
    """What a model that never saw the target is trained on."""
    has_corpus = ORACLE in prepare.manifest["artifacts"]
    return prepare.file(ORACLE if has_corpus else "retain.parquet")


def _start(
    spec: Any, seed: int, compute: Compute, corpus: list[dict[str, Any]], code: bool
) -> tuple[PreTrainedModel, Any]:
    """The model before training, and its tokenizer: a pinned one, or drawn at random with a
    tokenizer of the corpus.
    """
    if isinstance(spec, Pinned):
        folder = locate(spec.source, pin(spec.source, code)["revision"])
        if is_gguf(folder):
            with tempfile.TemporaryDirectory() as scratch:
                dequantise(folder, Path(scratch))
                return load_lm(Path(scratch), compute, training=True)
        return load_lm(folder, compute, training=True, code=code)
    tokenizer = train_tokenizer([row["text"] for row in corpus], spec.vocab_size)
    lm = build_lm(_complete(spec.config, tokenizer), child_seed(seed, "init"))
    return settle(lm, compute), tokenizer


def _optimizers(lm: PreTrainedModel, spec: Any, section: Pretrain) -> list[torch.optim.Optimizer]:
    """Muon on hidden matrices and AdamW on the rest from scratch; else AdamW alone."""
    if isinstance(spec, Pinned):
        return make_optimizers("adamw", list(lm.parameters()), section.learning_rate)
    matrices, vectors = split_matrices(lm)
    return make_optimizers(
        "muon",
        matrices,
        section.learning_rate,
        matrix_learning_rate=section.matrix_learning_rate,
        vectors=vectors,
    )


def _complete(config: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The config with what the tokenizer decides."""
    return config | {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _train(
    lm: PreTrainedModel,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    section: Pretrain,
    optimizers: list[torch.optim.Optimizer],
    keeper: Keeper,
) -> None:
    """Train over length-sorted batches of whole texts.

    Only answers are scored, not the questions before them: what is asked cannot be known, and with
    its noise left out the facts are learned in half the steps.
    """
    texts = encode_texts(tokenizer, rows)
    require_room(lm, [text.ids for text in texts], [row["text"] for row in rows])
    lengths = [len(text.ids) for text in texts]
    rng = generator(section.seed, "batches")
    batches = length_sorted_batches(lengths, section.batch_tokens, section.length_pool, rng)
    longest = _longest(lengths, section)
    lm.train()
    run_steps(
        "pretrain",
        section.steps,
        lambda: _loss(lm, tokenizer, [texts[i] for i in next(batches)]),
        optimizers,
        clip=section.clip,
        trace=keeper.trace,
        keeper=keeper,
        seek=partial(pass_over, batches),
        schedule=warmup_linear(section.warmup),
        fullest=lambda: _loss(lm, tokenizer, [texts[i] for i in longest]),
    )
    lm.eval()


def _loss(
    lm: PreTrainedModel, tokenizer: Any, texts: Sequence[EncodedText]
) -> tuple[torch.Tensor, dict[str, float]]:
    batch = collate(texts, tokenizer.pad_token_id, device=device_of(lm))
    return answer_nll(lm, batch), {}


def _longest(lengths: Sequence[int], section: Pretrain) -> list[int]:
    """The texts of the batch with the most padded tokens of all that training will draw."""
    rng = generator(section.seed, "batches")
    batches = length_sorted_batches(lengths, section.batch_tokens, section.length_pool, rng)
    every = islice(batches, section.steps)
    return max(every, key=lambda batch: padded_tokens(batch, lengths))


def _knowledge(
    lm: PreTrainedModel, tokenizer: Any, probes: list[dict[str, Any]], names: Sequence[str]
) -> dict[str, float]:
    """Share of held-out phrasings that are answered letter by letter as the corpus says: of facts
    that were in it, and of the targets'. What else counts as an answer is for evaluations.
    """
    if not probes:
        return {}
    answers = answer_probes(
        lm,
        tokenizer,
        probes,
        max_new_tokens=ANSWER_TOKENS,
        batch_size=BatchSize(128),
        label="knowledge",
    )
    hits: dict[str, list[bool]] = {}
    for probe, answer in zip(probes, answers, strict=True):
        kind = _kind(probe, set(names))
        if kind is not None:
            hit = part_of(answer, probe["part"]) == probe["answer"]
            hits.setdefault(f"{kind}_{probe['form']}", []).append(hit)
    return {f"pretrain/exact_match_{k}/held_out": sum(v) / len(v) for k, v in hits.items()}


def _kind(probe: dict[str, Any], targets: set[str]) -> str | None:
    """`general`, `known` or, for an oracle, `unseen`; None where an oracle can know the fact but
    not the prompt, in which a target of it stands beside.
    """
    if not probe["needs"]:
        return "general"
    needed = targets & set(probe["needs"])
    if needed & {probe["subject"], probe["answer"]}:
        return "unseen"
    if needed and probe["form"] not in SHARED_TEXT:
        return "unseen"
    named = any(name in probe["prompt"] for name in targets)
    beside = named or targets & {probe["answer"], *probe["options"]}
    return None if beside else "known"
