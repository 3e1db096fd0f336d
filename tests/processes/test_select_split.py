"""Thresholds and stopping are chosen on the `select` split of the probes, so no reported number may
depend on it: which jobs read probes, and every evaluation run twice."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from machines import CPU

from atu import attacks
from atu.config.params import PHASES, Params
from atu.metrics.answers import exact_match
from atu.models.build import build_lm
from atu.models.llm import save_lm
from atu.models.tokenizer import train_tokenizer
from atu.phases import attack, prepare, privacy, rephrase, utility
from atu.phases.report import ReportInputs
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.jobs import write_folder
from atu.results.sources import PACKAGE
from atu.seeding import hash_fraction
from atu.untrusted.targets import Target

RULES = Path(__file__).parents[2] / "workflow/rules"
EVALUATIONS = ("rephrase", "utility", "privacy", "attack")
"""The phases that read probes and give reported numbers; each is run below."""
TRAINING = {
    "pretrain_oracle", "prepare_one", "embed_shared", "embed_one", "align_one", "search_one",
    "unlearn_one",
}  # fmt: skip
"""The other rules that read a target's probes or corpora."""
CHOSEN = {
    "predictor_inputs": {"embed", "align"},
    "attack_inputs": {"embed", "align", "pretrain"},
    "search_inputs": {"prepare", "embed", "align"},
    "searched_input": {"search"},
    "search_manifests": {"search"},
    "start_model": {"pretrain"},
    "prepared_manifests": {"prepare"},
    "utility_before": {"utility"},
    "benchmark_files": set(),
    "privacy_reference": {"privacy"},
    "attack_manifests": {"attack"},
}
"""Functions of workflow/rules/common.smk: the phases whose manifests they name."""


def jobs():
    """The phases whose folders each job of Snakemake takes, from the rules' text; a rule named for
    its phase alone is no job.
    """
    found = {}
    for path in sorted(RULES.glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        for name, body in re.findall(r"^rule (\w+_\w+):\n((?:    .*\n|\n)+)", text, re.MULTILINE):
            block = re.search(r"^    input:\n((?:        .*\n)+)", body, re.MULTILINE)
            phases = set()
            for line in re.split(r",\n", re.sub(r" *#.*\n", "", block[1]).strip()):
                phases |= phases_of(line.strip().rstrip(","))
            found[name] = phases
    return found


def phases_of(expression):
    """The phases that one input of a rule names."""
    value = re.sub(r"^\w+=", "", expression)
    value = re.sub(r"^(?:unpack|ancient)\((.*)\)$", r"\1", value).removesuffix("()")
    if re.fullmatch(
        r'(method_)?sources\("\w+"(, "base")?\)|(attack|benchmark)_sources'
        r"|benchmark_locks|(model|oracle|given)_lock",
        value,
    ):
        return set()
    if value in CHOSEN:
        return CHOSEN[value]
    named = re.fullmatch(
        r'manifests\("(\w+)"\)|RESULTS / "(\w+)" / .*'
        r"|rules\.([a-z]+)(?:_\w+)?\.(?:input|output\.manifest)",
        value,
    )
    return {next(name for name in named.groups() if name)}


def test_the_rules_of_every_phase_are_found():
    assert {name.split("_")[0] for name in jobs()} == set(PHASES)
    assert jobs()["unlearn_one"] == {"embed", "align", "search", "pretrain", "prepare"}


def test_the_report_and_the_mirror_read_results_alone():
    """No probes: their folders are of the phases that `ReportInputs` and `open_cells` name."""
    results = {"rephrase", "utility", "privacy", "attack", "unlearn", "align"}
    assert (
        jobs()["report_one"]
        == results | {"pretrain", "search"}
        == set(ReportInputs.__annotations__)
    )
    assert jobs()["track_one"] == results | {"report"}


def test_probes_are_read_by_training_and_by_the_evaluations_below():
    """A new rule that takes a target's folder has to be tested here."""
    readers = {name for name, phases in jobs().items() if "prepare" in phases}
    readers.discard("pretrain_full")
    assert readers == TRAINING | {f"{phase}_one" for phase in EVALUATIONS}


def test_no_other_module_opens_probes():
    """A file's name is written where it is read or written."""
    files = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "probes.parquet" in path.read_text(encoding="utf-8")
    }
    assert files <= {
        "phases/prepare.py", "phases/pretrain.py", "phases/align.py", "unlearning/trajectory.py",
        # For the phase `attack` of the `report` split, for `search` of `select`.
        "results/tables.py",
        *(f"phases/{phase}.py" for phase in EVALUATIONS),
    }  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(mini_values, tmp_path_factory):
    """The reported and all other metrics of every evaluation, twice: with the probes as they are,
    and with every probe of the `select` split altered.

    As they are, a random model answers nothing rightly. Altered, what it says to a `select` probe
    is the right answer, and all else about the probe is another: person, fact, wording, options.
    """
    folder = tmp_path_factory.mktemp("select")
    params = Params.model_validate(mini_values)
    target = params.grid.targets[0]
    prepare.run_shared(folder / "shared" / MANIFEST, params.prepare)
    shared = Artifact.open(folder / "shared" / MANIFEST, "prepare")
    prepare.run_target(folder / "whole" / MANIFEST, params.prepare, Target((target,)), shared)
    whole = Artifact.open(folder / "whole" / MANIFEST, "prepare")
    probes = pl.read_parquet(whole.file("probes.parquet"))
    few = probes.filter(pl.int_range(pl.len()).over("role", "form", "split", "seen") < 3)
    unlearned = random_model(folder / "model", whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utility, "_evaluate", score_documents)
        patch.setattr(attack, "load_predictors", lambda _: {1: SimpleNamespace(config=None)})
        patch.setattr(attack.AlignmentData, "load", lambda *_: None)
        patch.setattr(attack, "SentenceEncoder", lambda *_: SimpleNamespace(encode_texts=list))
        plain = evaluate(folder / "plain", params, unlearned, whole, few)
        items = pl.read_parquet(folder / "plain/rephrase/items.parquet")
        altered = evaluate(folder / "altered", params, unlearned, whole, alter(few, items))
    return plain, altered


def random_model(folder, whole):
    """An `unlearn` folder of an oracle with random weights."""
    texts = pl.read_parquet(whole.file("forget.parquet"))["text"].to_list()
    config = {
        "model_type": "llama", "vocab_size": 400, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    cell = {"model": "m", "target": whole.cell["target"], "method": "oracle", "seed": 0}
    own = {"methods": {"oracle": {"loss": "oracle"}}}
    with write_folder(folder / MANIFEST, "unlearn", cell=cell, params=own, inputs={}) as job:
        save_lm(build_lm(config, 0), train_tokenizer(texts, 400), job.path("model"))
    return Artifact.open(folder / MANIFEST, "unlearn")


def alter(probes, items):
    """Every `select` probe another one, answered rightly by what the model says."""
    select = pl.col("split") == "select"
    said = dict(zip(items["id"].to_list(), items["output"].to_list(), strict=True))
    rows = [
        row | {
            "id": f"x{row['id']}", "subject": "Nobody", "fact": f"x{row['fact']}", "part": -1,
            "answer": said[row["id"]], "options": ["x", said[row["id"]]], "wrong": ["x"],
            "query": "x?", "needs": [],
        }
        if row["split"] == "select" else row
        for row in probes.to_dicts()
    ]  # fmt: skip
    changed = pl.DataFrame(rows, schema=probes.schema, orient="row")
    assert changed.filter(~select).equals(probes.filter(~select))
    return changed


def score_documents(model, tokenizer, tasks, section):
    """In place of lm-eval: a score that is another for every other document."""
    samples, results = {}, {}
    for task in tasks:
        documents = pl.read_parquet(f"{task.task}.parquet").to_dicts()
        metric = task.metric.split(",")[0]
        samples[task.task] = [
            {
                "doc": document,
                "doc_id": i,
                "filtered_resps": [(hash_fraction(row, o), False) for o in document["options"]],
                metric: hash_fraction(row),
            }
            for i, document in enumerate(documents)
            for row in [json.dumps(document)]
        ]
        mean = sum(row[metric] for row in samples[task.task]) / len(documents)
        results[task.task] = {task.metric: mean}
    return {"samples": samples, "results": results}


def evaluate(folder, params, unlearned, whole, probes):
    """Run every evaluation and attack; all metrics by phase, and the names an attack looks among.

    The fresh predictor, which would have to be trained, is asked for those names alone.
    """
    cell = {"target": whole.cell["target"], "names": whole.cell["names"], "new": whole.cell["new"]}
    with write_folder(
        folder / "prepared" / MANIFEST, "prepare", cell=cell, params={}, inputs={}
    ) as job:
        for name in ("forget", "retain", "holdout", "members"):
            shutil.copy(whole.file(f"{name}.parquet"), job.path(f"{name}.parquet"))
        probes.write_parquet(job.path("probes.parquet"))
    prepared = Artifact.open(folder / "prepared" / MANIFEST, "prepare")

    def done(name, phase):
        return Artifact.open(folder / name / MANIFEST, phase)

    rephrase.run(folder / "rephrase" / MANIFEST, params.rephrase, CPU, unlearned, prepared)
    rephrased = done("rephrase", "rephrase")
    utility.run(folder / "utility" / MANIFEST, params.utility, CPU, unlearned, prepared, None)
    privacy.run(
        folder / "privacy" / MANIFEST, params.privacy, CPU, unlearned, prepared, rephrased, None
    )
    found = {phase: done(phase, phase).metrics() for phase in ("rephrase", "utility", "privacy")}
    for name, settings in params.attack.attacks.items():
        if not attacks.get(settings.attack).needs_alignment:
            out = folder / "attack" / name / MANIFEST
            attack.run(out, params.attack, CPU, name, unlearned, prepared, None, None)
            found[f"attack {name}"] = done(f"attack/{name}", "attack").metrics()
    stand_in = SimpleNamespace(file=str, manifest={"params": {"encoder": ""}})
    found["names"] = attack.open_alignment(stand_in, stand_in, prepared, CPU).names
    return found


def test_the_select_split_is_altered(evaluated):
    """Otherwise the tests below could not fail: what was wrong on `select` is right."""
    plain, altered = (found["rephrase"] for found in evaluated)
    key = f"rephrase/target.question.{exact_match.id}"
    assert plain[f"{key}/select"] == plain[f"{key}/report"] == 0.0
    assert altered[f"{key}/select"] > 0.9


def same(metrics):
    """But for the last digits: probes share batches, and a row's padding is its neighbours'."""
    return pytest.approx(metrics, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("phase", ["rephrase", "utility", "privacy"])
def test_no_reported_number_depends_on_the_select_split(evaluated, phase):
    plain, altered = (
        {name: value for name, value in found[phase].items() if not name.endswith("/select")}
        for found in evaluated
    )
    assert len(plain) > 5 and all(name.endswith("/report") for name in plain)
    assert altered == same(plain)


def test_no_attack_depends_on_the_select_split(evaluated):
    plain, altered = (
        {name: value for name, value in found.items() if name.startswith("attack ")}
        for found in evaluated
    )
    assert len(plain) == 6 and all(plain.values())
    assert all(name.endswith("/report") for metrics in plain.values() for name in metrics)
    assert {k: same(v) for k, v in altered.items()} == plain


def test_the_names_a_fresh_predictor_looks_among_are_of_reported_probes(evaluated):
    plain, altered = (found["names"] for found in evaluated)
    assert len(plain) > 2
    assert altered == plain


def test_every_evaluation_is_among_those_that_were_run(evaluated):
    assert {name.split()[0] for name in evaluated[0]} - {"names"} == set(EVALUATIONS)
    every = {name for name in evaluated[0] if name.startswith("attack ")} | {
        "attack fresh_predictor"
    }
    assert every == {f"attack {name}" for name in attacks.registry()}
