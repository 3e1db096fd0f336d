"""A method on a user's texts: the phases, one after another, without Snakemake."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from pydantic import ValidationError

from atu import methods
from atu.benchmarks.base import Prepared
from atu.config.checks import require_layers, require_trained
from atu.config.entries import parse_entry
from atu.config.load import load_params
from atu.config.params import Params
from atu.config.sections import Align, Embed, Unlearn
from atu.errors import ConfigError, resource_errors
from atu.forget.given import Given, probe_rows, probes_of, text_rows
from atu.models.compute import Compute
from atu.models.llm import decoder_layers, save_lm
from atu.models.loaded import LoadedModel, open_model
from atu.models.pinned import PIN, file_digests
from atu.phases import align, embed, prepare
from atu.phases import unlearn as phase
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.checkpoints import code_digest
from atu.results.files import write_json
from atu.results.jobs import Job, write_folder
from atu.unlearning.engine import UnlearnInputs
from atu.untrusted.strict import Section, explain
from atu.untrusted.targets import Target

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, eq=False)
class UnlearnedModel(LoadedModel):
    """The model after unlearning, with the course of unlearning."""

    trajectory: pl.DataFrame = field(repr=False)
    """A row per evaluated point, the first before unlearning."""
    trace: pl.DataFrame = field(repr=False)
    """A row per step."""
    metrics: dict[str, float] = field(repr=False)
    """Of the chosen point, and the cost: `metrics.json` of the job."""


def unlearn(
    model: LoadedModel,
    concept: str | Sequence[str],
    forget: Given,
    retain: Given,
    *,
    questions: Given | None = None,
    method: str = "atu",
    params: Params | None = None,
    seed: int = 0,
    work: str | Path | None = None,
    embed: Mapping[str, Any] | None = None,
    align: Mapping[str, Any] | None = None,
    **settings: Any,
) -> UnlearnedModel:
    """Let a model forget a concept; the given model does not change.

    It gives what the pipeline gives with the same texts, settings and seed. A model with a `source`
    is loaded from it again, so that training starts from unrounded weights.

    Args:
        concept: its name, or several names of it.
        forget: texts: a list of strings, of `(question, answer)` pairs or of objects with `text`
            and `prompt`; a polars frame; or a `.parquet` or `.jsonl` file.
        retain: texts of other things, which it must still know, in any of these forms.
        questions: `(question, answer)` pairs or objects about the concept, and with a `role` of
            `neighbour`, `other` or `general` about other knowledge. They choose the point, so
            measure forgetting with other questions. By default those that the forget texts answer.
        method: a key of `unlearn.methods`.
        params: the settings; the working directory's `params.yaml` if None.
        work: a folder for the jobs, where finished ones are reused: align once, try many methods.
            None keeps nothing.
        embed: values that replace those of this section, for methods that need the predictor.
        align: the same of this one.
        settings: values that replace those of the method's entry, such as `learning_rate`.

    Raises:
        ConfigError: an argument is wrong; names it, its value and the repair.
        MethodError: a loss was not finite, or a point could not be scored.
        ResourceError: memory or disk ran out.
    """
    params = params or load_params()
    section = _entry(params, method, settings)
    chosen = section.methods[method]
    embedding = _changed(params.embed, "embed", embed)
    alignment = _changed(params.align, "align", align)
    target, tables = _tables(concept, forget, retain, questions)
    _require_fit(model, method, chosen, alignment, tables)
    compute = replace(model.compute, checkpointing=params.compute.checkpointing)
    with _folder(work) as folder, resource_errors():
        jobs = _Jobs(folder, compute)
        inputs = UnlearnInputs(jobs.lm(model), jobs.prepare(target, tables), None, None)
        if methods.get(chosen.loss).needs_predictor:
            inputs = jobs.aligned(inputs, embedding, alignment, seed)
        done = jobs.unlearn(inputs, section, method, seed)
        unlearned = open_model(done, model.compute)
        return UnlearnedModel(
            unlearned.model, unlearned.tokenizer, model.compute, done if work is not None else None,
            trajectory=pl.DataFrame(done.read_jsonl("trajectory.jsonl"), infer_schema_length=None),
            trace=pl.DataFrame(done.read_jsonl("trace.jsonl"), infer_schema_length=None),
            metrics=done.metrics(),
        )  # fmt: skip


def _entry(params: Params, name: str, changes: Mapping[str, Any]) -> Unlearn:
    """The section with only this method, with the changes to its settings."""
    known = params.unlearn.methods
    if name not in known:
        raise ConfigError("method", name, f"not in unlearn.methods, which has {', '.join(known)}")
    values = asdict(known[name]) | dict(changes)
    settings = parse_entry("unlearn.methods", "loss", methods.registry(), name, values)
    if methods.get(settings.loss).start != "full":
        raise ConfigError("method", name, "is a model that never saw the concept; load that one")
    return params.unlearn.model_copy(update={"methods": {name: settings}})


def _changed(section: S, key: str, changes: Mapping[str, Any] | None) -> S:
    try:
        return type(section).model_validate(section.model_dump() | dict(changes or {}))
    except ValidationError as error:
        raise explain(error, key, sorted(type(section).model_fields)) from None


def _tables(
    concept: str | Sequence[str], forget: Given, retain: Given, questions: Given | None
) -> tuple[Target, Prepared]:
    """The target, and the tables that `prepare` would write for it."""
    names = (concept,) if isinstance(concept, str) else tuple(concept)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ConfigError("concept", concept, "name what is to be forgotten")
    rows = text_rows("forget", forget, names)
    probes = probes_of(rows) if questions is None else probe_rows("questions", questions)
    if not any(p["role"] == "target" and p["split"] == "select" for p in probes):
        raise ConfigError(
            "questions", None, "none is about the concept; give (question, answer) pairs, by which "
            "the point that is kept is chosen"
        )  # fmt: skip
    retained = text_rows("retain", retain, names)
    return Target(names[:1]), Prepared(names, rows, retained, holdout=[], members=[], probes=probes)


def _require_fit(
    model: LoadedModel, name: str, settings: Any, alignment: Align, tables: Prepared
) -> None:
    """Refuse settings that do not suit the model or the texts, before any computation."""
    method, called = methods.get(settings.loss), str(model.model.config.model_type)
    try:
        layers = len(decoder_layers(model.model))
    except TypeError as error:
        raise ConfigError("model", called, f"{error}; take one of docs/models.md") from None
    require_trained(name, settings, layers, called)
    if method.needs_predictor:
        require_layers("align.hook_layers", alignment.hook_layers, layers, called)
    if method.prompted and not any(row["prompt"] for row in tables.forget):
        raise ConfigError(
            "forget", None, f"{name} reads answers to questions; give (question, answer) pairs"
        )


@contextmanager
def _folder(work: str | Path | None) -> Iterator[Path]:
    if work is not None:
        yield Path(work)
        return
    with tempfile.TemporaryDirectory(prefix="atu-") as folder:
        yield Path(folder)


@dataclass(frozen=True)
class _Jobs:
    """Jobs in a work folder, each in a subfolder named by a hash of all its inputs."""

    folder: Path
    compute: Compute

    def once(self, phase: str, identity: Any, write: Callable[[Path], None]) -> Artifact:
        """The job of this identity, which is run unless it exists."""
        text = json.dumps([identity, asdict(self.compute), code_digest()], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        manifest = self.folder / phase / key / MANIFEST
        if not manifest.is_file():
            write(manifest)
        return Artifact.open(manifest, phase)

    def lm(self, model: LoadedModel) -> Artifact:
        """The model as a job: its own, a pin of its folder, or what is in memory."""
        source = model.source
        if isinstance(source, Artifact):
            return source
        if source is None:
            manifest = self.folder / "pretrain" / "memory" / MANIFEST
            with _new_model(manifest) as job:
                save_lm(model.model, model.tokenizer, job.path("model"))
            return Artifact.open(manifest, "pretrain")
        pin = {"place": str(source.resolve()), "revision": None, "files": file_digests(source)}

        def write(manifest: Path) -> None:
            with _new_model(manifest) as job:
                write_json(job.path(PIN), pin)

        return self.once("pretrain", pin, write)

    def prepare(self, target: Target, tables: Prepared) -> Artifact:
        """The texts and questions as a job of `prepare`."""
        return self.once(
            prepare.PHASE,
            asdict(tables),
            lambda out: prepare.write_target(out, target, tables, params={}, inputs={}),
        )

    def aligned(
        self, inputs: UnlearnInputs, embedding: Embed, alignment: Align, seed: int
    ) -> UnlearnInputs:
        """The inputs with embeddings and predictors."""
        lm, prepared = inputs.pretrain, inputs.prepare
        identity = [lm.digest, prepared.digest, embedding.model_dump()]
        embedded = self.once(
            embed.PHASE,
            identity,
            lambda out: embed.run(out, embedding, self.compute, lm, prepared),
        )
        predictors = self.once(
            align.PHASE,
            [*identity, alignment.model_dump(), seed],
            lambda out: align.run(out, alignment, self.compute, seed, lm, embedded, prepared),
        )
        return replace(inputs, embed=embedded, align=predictors)

    def unlearn(self, inputs: UnlearnInputs, section: Unlearn, method: str, seed: int) -> Artifact:
        """The unlearned model."""
        digests = {name: artifact.digest for name, artifact in inputs.present().items()}
        values = section.model_dump(mode="json")
        return self.once(
            phase.PHASE,
            [digests, values, method, seed],
            lambda out: phase.run(out, section, self.compute, method, seed, inputs),
        )


@contextmanager
def _new_model(manifest: Path) -> Iterator[Job]:
    """A `pretrain` job for a model that is already trained."""
    cell = {"model": "given", "oracle_of": None}
    with write_folder(manifest, "pretrain", cell=cell, params={}, inputs={}) as job:
        yield job
