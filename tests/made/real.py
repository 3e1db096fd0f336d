"""Real benchmark data, prepared as jobs do and asked of a tiny random model."""

from pathlib import Path

from machines import CPU

from atu import benchmarks
from atu.benchmarks.rwku import Settings as RwkuSettings
from atu.benchmarks.shared.source import Reader, sources_of
from atu.benchmarks.tofu import Settings as TofuSettings
from atu.models.build import build_lm
from atu.models.llm import save_lm
from atu.models.tokenizer import train_tokenizer
from atu.phases import prepare, privacy, rephrase, utility
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.jobs import write_folder
from atu.results.locks import Lock, Source
from atu.results.tables import read_table

SHAPE = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8192,
}  # fmt: skip
"""MMLU's longest prompts fit in its context, about 5,000 tokens."""


def people(folder):
    """RWKU's people by the names of their folders, in the order of their numbers."""
    paths = sorted((folder / "Target").iterdir(), key=lambda path: int(path.name.split("_")[0]))
    return [path.name.split("_", 1)[1].replace("_", " ") for path in paths]


def rwku_settings(folder, locks):
    """RWKU's original folders; two other people are retained."""
    source = Source(str(folder), None, str(locks / "rwku.json"))
    return RwkuSettings("rwku", source, "positive_phi3", 2, 0.5)


def tofu_settings(folder, locks):
    """TOFU with its holdout sets."""
    source = Source(str(folder), None, str(locks / "tofu.json"))
    return TofuSettings("tofu", source, True, [], 0.5)


def lock(settings, targets):
    """Write the lock of everything that preparing these targets reads, as `atu fetch` does."""
    benchmark = benchmarks.get(settings.benchmark)
    readers = {n: Reader(s, Lock(), record=True) for n, s in sources_of(settings).items()}
    corpus = benchmark.shared(settings, readers).corpus
    for target in targets:
        benchmark.prepare(settings, target, corpus, readers)
    for reader in readers.values():
        reader.lock.write(Path(reader.source.lock))


def prepare_shared(out, settings):
    """The folder that all targets share."""
    prepare.run_shared(out / "shared" / MANIFEST, settings)
    return Artifact.open(out / "shared" / MANIFEST, "prepare")


def prepare_target(out, settings, target, shared):
    """A target's folder."""
    manifest = out / target.slug / MANIFEST
    prepare.run_target(manifest, settings, target, shared)
    return Artifact.open(manifest, "prepare")


def random_model(out, target, prepared):
    """A folder of `unlearn` with a random model, whose tokenizer knows some of the texts."""
    texts = [row["text"] for row in read_table(prepared.file("retain.parquet"))][:100]
    tokenizer = train_tokenizer(texts, 1000)
    special = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("pad", "bos", "eos")}
    model = build_lm(SHAPE | special | {"vocab_size": len(tokenizer)}, seed=0)
    cell = {"model": "random", "target": target.label, "method": "none", "seed": 0}
    params = {"methods": {"none": {"loss": "none"}}}
    manifest = out / "unlearn" / target.slug / MANIFEST
    with write_folder(manifest, "unlearn", cell=cell, params=params, inputs={}) as job:
        save_lm(model, tokenizer, job.path("model"))
    return Artifact.open(manifest, "unlearn")


def evaluate(out, target, prepared, params, documents):
    """The folders of rephrase, utility (small batches: MMLU's prompts are long) and privacy of a
    random model."""
    unlearned = random_model(out, target, prepared)

    def folder(phase):
        return out / phase / target.slug / MANIFEST

    rephrase.run(folder("rephrase"), params.rephrase, CPU, unlearned, prepared)
    asked = Artifact.open(folder("rephrase"), "rephrase")
    section = params.utility.model_copy(update={"documents": documents, "batch_size": 8})
    utility.run(folder("utility"), section, CPU, unlearned, prepared, None)
    privacy.run(
        folder("privacy"),
        params.privacy,
        CPU,
        unlearned,
        prepared,
        asked,
        None,
        without_oracle=True,
    )
    return [Artifact.open(folder(phase), phase) for phase in ("rephrase", "utility", "privacy")]
