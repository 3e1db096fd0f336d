import json
from dataclasses import asdict

import polars as pl
import pytest
import torch
from machines import CPU
from safetensors.torch import load_file

from atu import attacks
from atu.attacks.base import Attack, Result, item
from atu.attacks.relearn import TAUGHT
from atu.config.cells import Cell, attack_manifest
from atu.errors import ConfigError, EvaluationError
from atu.metrics.answers import exact_match
from atu.metrics.registry import registry
from atu.phases import attack
from atu.phases.attack import ITEMS, Answers, require_known_items, summarise
from atu.privacy.answers import MEANS, RATIOS
from atu.results.artifacts import MANIFEST, PROVENANCE, Artifact
from atu.results.items import BLIND
from atu.results.tables import read_frame, read_table
from atu.seeding import child_seed

NAMES = ["context", "depth", "fresh_predictor", "lens", "quantise", "relearn", "sampling"]
TABLES = {
    "relearn": {"trace.parquet", "answers.parquet"}, "sampling": {"samples.parquet"},
    "quantise": {"answers.parquet"}, "depth": {"layers.parquet"},
}  # fmt: skip


def attack_folder(chain, params, manifest, name, **change):
    """One attack on the miniature's model, opened; `change` replaces arguments of the phase."""
    given = {
        "section": params.attack, "compute": CPU, "name": name, "unlearn": chain.unlearn,
        "prepare": chain.prepared, "embed": chain.embed, "align": chain.align,
        "original": chain.full, "oracle": chain.oracle_lm,
    }  # fmt: skip
    attack.run(manifest, **(given | change))
    return Artifact.open(manifest, "attack")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, chain, mini_params):
    """A function that gives the folder of an attack, made once."""
    folder, done = tmp_path_factory.mktemp("attacks"), {}

    def get(name):
        if name not in done:
            done[name] = attack_folder(chain, mini_params, folder / name / MANIFEST, name)
        return done[name]

    return get


@pytest.fixture
def again(tmp_path, chain, mini_params):
    """A function that runs an attack once more, elsewhere."""
    return lambda name, **change: attack_folder(
        chain, mini_params, tmp_path / "again" / MANIFEST, name, **change
    )


@pytest.fixture
def stub(monkeypatch):
    """A function that puts another function in the place of the attack's; what it is given."""

    def place(run, **needs):
        seen = []

        def spy(context):
            seen.append(context)
            return run(context)

        found = Attack(object, spy, None, **needs)
        monkeypatch.setattr(attacks, "get", lambda name: found)
        return seen

    return place


def every_probe(context):
    """An attack that says 1.0 of every probe that it is given."""
    return Result([item(probe, "c", exact_match.id, 1.0) for probe in context.probes])


def items(artifact):
    return read_frame(artifact.file("items.parquet")).to_dicts()


def provenance(artifact):
    return json.loads((artifact.folder / PROVENANCE).read_text(encoding="utf-8"))


@pytest.fixture
def probes(chain):
    return read_table(chain.prepared.file("probes.parquet"))


@pytest.mark.parametrize("name", NAMES)
def test_items(attacked, probes, name):
    """One row per item and condition, of known metrics, about report probes alone, with the probe's
    own fact and role."""
    artifact = attacked(name)
    frame = pl.read_parquet(artifact.file("items.parquet"))
    assert dict(frame.schema) == ITEMS
    assert frame.height == frame.n_unique(["condition", "metric", "id"]) > 0
    assert frame["score"].is_nan().sum() == 0
    assert set(frame["metric"]) <= set(registry())
    report = {p["id"]: p for p in probes if p["split"] == "report"}
    for row in frame.to_dicts():
        probe = report[row["id"]]
        assert (row["fact"], row["role"]) == (probe["fact"], probe["role"])
        assert (probe["form"], probe["seen"]) == ("question", False)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_the_means_of_the_items(attacked, name):
    """`attack/<name>.<role>.<condition>.<metric id>/report`, and with `.n` how many; where an item
    is not scored there is only how many are not."""
    artifact = attacked(name)
    metrics = artifact.metrics()
    groups = {}
    for row in items(artifact):
        key = f"attack/{name}.{row['role']}.{row['condition']}.{row['metric']}"
        groups.setdefault(key, []).append(row["score"])
    for key, scores in groups.items():
        assert metrics.pop(f"{key}.n/report") == len(scores)
        if None in scores:
            assert metrics.pop(f"{key}.not_scored/report") == scores.count(None)
        else:
            assert metrics.pop(f"{key}/report") == pytest.approx(sum(scores) / len(scores))
    if "answers.parquet" in artifact.manifest["artifacts"]:
        table = read_frame(artifact.file("answers.parquet"))
        for condition in table["condition"].unique():
            rows = table.filter(pl.col("condition") == condition)
            for score in MEANS:
                found = metrics.pop(f"attack/{name}.target.{condition}.{score}/report")
                assert found == pytest.approx(rows[score].mean())
    others = {
        "context": ["target.context_leak@own-1"],
        "relearn": [
            "target.relearning_gain@own-1",
            *(f"{role}.relearning_steps@own-1" for role in ("target", "control")),
        ],
        "depth": ["unknown", "held_by_no_layer"],
        "lens": ["budget"],
        "fresh_predictor": [
            f"layer {n}.{score}" for n in (1, 2) for score in ("constant_cosine", "cosine", "skill")
        ],
    }
    assert sorted(metrics) == sorted(f"attack/{name}.{key}/report" for key in others.get(name, []))


@pytest.mark.parametrize("name", NAMES)
def test_the_folder(attacked, chain, mini_params, name):
    """Its tables, its cell, and of the parameters the own attack's entry alone: editing another
    must not change this manifest."""
    manifest = attacked(name).manifest
    assert set(manifest["artifacts"]) == {"items.parquet", "metrics.json"} | TABLES.get(name, set())
    assert manifest["cell"] == chain.unlearn.cell | {"attack": name}
    section = mini_params.section("attack", name)
    assert manifest["params"] == section | {"compute": asdict(CPU)}
    assert list(section["attacks"]) == [name]
    inputs = {"unlearn": chain.unlearn.digest, "prepare": chain.prepared.digest}
    if name == "fresh_predictor":
        inputs |= {"embed": chain.embed.digest, "align": chain.align.digest}
    if name == "depth":
        inputs |= {"original": chain.full.digest, "oracle": chain.oracle_lm.digest}
    assert manifest["inputs"] == inputs


@pytest.mark.parametrize("name", NAMES)
def test_the_same_inputs_give_the_same_bytes(attacked, again, name):
    first, second = attacked(name), again(name)
    assert first.folder != second.folder
    assert (first.folder / MANIFEST).read_bytes() == (second.folder / MANIFEST).read_bytes()


def test_other_attacks_need_no_alignment_and_no_other_model(attacked, again):
    """And the folder is the same without."""
    without = dict.fromkeys(("embed", "align", "original", "oracle"))
    assert again("lens", **without).digest == attacked("lens").digest


def test_the_original_and_the_oracle_are_loaded_for_whom_needs_them(again, stub, chain):
    """Where somebody has them; an attack that needs none is given none."""
    seen = stub(every_probe)
    again("lens")
    assert seen[0].original is seen[0].oracle is None
    seen = stub(every_probe, needs_original=True, needs_oracle=True)
    again("lens")
    for role, folder in (("original", chain.full), ("oracle", chain.oracle_lm)):
        weights = load_file(folder.file("model/model.safetensors"))
        found = getattr(seen[0], role).state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    artifact = again("lens", oracle=None)
    assert seen[1].oracle is None and set(artifact.manifest["inputs"]) == {
        "unlearn", "prepare", "original",
    }  # fmt: skip


@pytest.mark.parametrize("missing", ["embed", "align"])
def test_an_attack_that_trains_a_predictor_is_refused_without(tmp_path, again, missing):
    """Before anything is written."""
    message = "--attack = 'fresh_predictor': needs --embed and --align"
    with pytest.raises(ConfigError, match=message):
        again("fresh_predictor", **{missing: None})
    assert list(tmp_path.iterdir()) == []


def test_an_attack_is_given_report_probes_alone(again, stub, probes, chain):
    """All of them, in every form and role; and the whole corpora. `select` is the method's."""
    seen = stub(every_probe)
    artifact = again("lens")
    report = [p["id"] for p in probes if p["split"] == "report"]
    assert 0 < len(report) < len(probes)
    assert [p["id"] for p in seen[0].probes] == report == [row["id"] for row in items(artifact)]
    for corpus in ("forget", "retain", "holdout"):
        assert getattr(seen[0], corpus) == read_table(chain.prepared.file(f"{corpus}.parquet"))
    assert seen[0].folder == chain.unlearn.folder / "model"
    assert not seen[0].model.training


def test_the_seed_is_of_the_cell_and_the_attack(again, stub, chain):
    """Not the number itself, by which the method drew already."""
    seen = stub(every_probe)
    again("lens")
    expected = child_seed(chain.unlearn.cell["seed"], "attack", "lens") % 2**31
    assert seen[0].seed == expected != chain.unlearn.cell["seed"]


def test_the_alignment_is_the_methods_own_and_all_names(again, stub, chain, mini_params, probes):
    """The predictor's sizes and the parameters of `align`; the target's name first, then the other
    people's, whose embeddings have unit length, and no country."""
    seen = stub(every_probe, needs_alignment=True)
    again("lens")
    found = seen[0].alignment
    assert found.params == mini_params.align.model_dump() | {"compute": asdict(CPU)}
    assert (found.config.width, found.config.output_dim) == (mini_params.align.width, 384)
    target = mini_params.grid.targets[0]
    countries = {p["subject"] for p in probes if p["role"] == "general"}
    assert found.names[0] == target and len(found.names) == len(set(found.names)) > 8
    assert found.names[1:] == sorted({p["subject"] for p in probes} - countries - {target})
    assert found.embeddings.shape == (len(found.names), 384)
    assert found.embeddings.norm(dim=1).tolist() == pytest.approx([1.0] * len(found.names))


def test_the_batch_size_that_fitted_is_noted(again, stub, attacked, mini_params):
    """In the provenance, on which no result depends."""
    assert provenance(attacked("lens"))["batch_size"] == mini_params.attack.batch_size

    def halving(context):
        context.batch_size.halve()
        return every_probe(context)

    stub(halving)
    artifact = again("lens")
    assert provenance(artifact)["batch_size"] == mini_params.attack.batch_size // 2
    assert "batch_size" not in artifact.metrics()


@pytest.mark.parametrize("case", ["nothing", "select"])
def test_what_must_not_be_scored_leaves_no_folder(tmp_path, again, stub, probes, case):
    """An attack that scored nothing, and one that asked a probe which the method stopped by."""
    hidden = next(p for p in probes if p["split"] == "select")
    found = [] if case == "nothing" else [item(hidden, "c", exact_match.id, 1.0)]
    stub(lambda context: Result(found))
    with pytest.raises(
        EvaluationError, match="scored nothing" if case == "nothing" else hidden["id"]
    ):
        again("lens")
    assert list(tmp_path.iterdir()) == []


def test_require_known_items():
    """Items about reported probes pass as they are; one about another is named."""
    rows = [{"id": "a"}, {"id": "b"}, {"id": "a"}]
    assert require_known_items("lens", [{"id": "a"}, {"id": "b"}], rows) == rows
    with pytest.raises(EvaluationError, match="lens: 'b' is no probe of the report split"):
        require_known_items("lens", [{"id": "a"}], rows)
    with pytest.raises(EvaluationError, match="lens: the attack scored nothing"):
        require_known_items("lens", [{"id": "a"}], [])


def test_summarise():
    """Of the target's 1, 0, 0 under `x` 1/3; under `y` one of two is not scored, so no mean; the
    same condition of another role or metric is a mean of its own."""

    def row(role, condition, metric, score):
        return {"role": role, "condition": condition, "metric": metric, "score": score}

    rows = [row("target", "x", "m", score) for score in (1.0, 0.0, 0.0)]
    rows += [row("target", "y", "m", score) for score in (1.0, None)]
    rows += [row("other", "x", "m", 1.0), row("target", "x", "q", 0.5)]
    assert summarise(rows) == {
        "target.x.m": pytest.approx(1 / 3), "target.x.m.n": 3,
        "target.y.m.n": 2, "target.y.m.not_scored": 1,
        "other.x.m": 1.0, "other.x.m.n": 1,
        "target.x.q": 0.5, "target.x.q.n": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["relearn", "quantise"])
def test_answers_before_and_after_are_those_of_the_items(attacked, name):
    """To every question about the target before and after, by other metrics too; nobody else's. A
    look at what relearning teaches is no such condition."""
    artifact = attacked(name)
    rows, answers = items(artifact), read_frame(artifact.file("answers.parquet"))
    about = {
        (r["condition"], r["id"], r["output"])
        for r in rows
        if r["role"] == "target" and r["condition"] != TAUGHT
    }
    assert set(answers.select("condition", "id", "output").iter_rows()) == about
    assert set(answers["role"]) == {"target"} and answers.height == len(about)


def test_answers_of_two_models_stay_apart(monkeypatch, make_item):
    """Each is scored with its own model and condition; a cloze and a neighbour's question are not,
    and of nothing nobody is asked."""

    def score(model, tokenizer, probes, batch_size):
        return [dict.fromkeys((*RATIOS, *MEANS, BLIND)) | {MEANS[1]: model} for _ in probes]

    monkeypatch.setattr(attack, "score_probes", score)
    answers = Answers(None, None)
    probes = [make_item(), make_item(form="cloze"), make_item(role="neighbour")]
    answers.take(0.25, probes, ["owl", "", ""], "before")
    answers.take(0.75, probes, ["elk", "", ""], "after")
    answers.take(1.0, probes[1:], ["", ""], "nothing")
    assert answers.table().select("condition", "output").rows() == [
        ("before", "owl"), ("after", "elk"),
    ]  # fmt: skip
    assert answers.metrics() == {
        f"target.before.{MEANS[1]}": 0.25,
        f"target.after.{MEANS[1]}": 0.75,
    }


def test_an_attacks_place(tmp_path):
    """Below the cell's folder, by the attack's name."""
    cell = Cell("llama", "Ada Love", "Ada_Love", "ga", 3)
    expected = tmp_path / "attack" / "llama" / "Ada_Love" / "ga" / "3" / "lens" / MANIFEST
    assert attack_manifest(tmp_path, cell, "lens") == expected
