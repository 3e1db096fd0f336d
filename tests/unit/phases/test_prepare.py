import json
from collections import Counter
from dataclasses import asdict

import datasets
import pytest

from atu.data.tables import PROBES, TEXTS, read_table
from atu.data.world import build_world
from atu.phases.prepare import target_probes

TABLES = [
    ("shared", "corpus", TEXTS),
    ("shared", "probes", PROBES),
    ("prepared", "forget", TEXTS),
    ("prepared", "retain", TEXTS),
    ("prepared", "probes", PROBES),
]


@pytest.fixture(scope="module")
def world(mini_params):
    return build_world(mini_params.prepare.seed, mini_params.prepare.people)


@pytest.fixture(scope="module")
def target(mini_params):
    return mini_params.grid.targets[0]


@pytest.fixture(scope="module")
def rows(chain):
    """Every table's rows by folder and name."""
    return {
        (folder, name): read_table(getattr(chain, folder).file(f"{name}.parquet"))
        for folder, name, _ in TABLES
    }


@pytest.mark.parametrize(("folder", "name", "schema"), TABLES)
def test_tables_load_with_datasets(chain, rows, tmp_path, folder, name, schema):
    """As other people's tools read them: the same columns and the same rows."""
    file = getattr(chain, folder).file(f"{name}.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(file), cache_dir=str(tmp_path), split="train"
    )
    assert loaded.column_names == list(schema)
    assert loaded.to_list() == rows[folder, name]


def test_the_world_is_stored(chain, world):
    stored = json.loads(chain.shared.file("world.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(asdict(world)))


def test_forget_and_retain_are_apart(rows, target):
    """Every forget text names the target, no retain text does, and both come from the corpus."""
    corpus = {row["text"] for row in rows["shared", "corpus"]}
    forget = {row["text"] for row in rows["prepared", "forget"]}
    retain = {row["text"] for row in rows["prepared", "retain"]}
    assert all(target in text for text in forget)
    assert not any(target in text for text in retain)
    assert forget and retain and forget | retain <= corpus


def test_probes_know_roles_and_splits(rows, world, target):
    """A role is what the probe's subject is to the target."""
    near = set(world.neighbours(target))
    probes = rows["prepared", "probes"]
    for probe in probes:
        kind = "other" if probe["subject"] in world.people else "general"
        role = {target: "target"} | dict.fromkeys(near, "neighbour")
        assert probe["role"] == role.get(probe["subject"], kind)
    found = Counter((probe["role"], probe["split"]) for probe in probes)
    assert set(found) == {
        (role, split)
        for role in ("target", "neighbour", "other", "general")
        for split in ("select", "report")
    }


def test_metrics_count_the_rows(chain, rows):
    metrics = chain.prepared.metrics()
    assert metrics["prepare/forget_texts/all"] == len(rows["prepared", "forget"])
    assert metrics["prepare/retain_texts/all"] == len(rows["prepared", "retain"])
    probes = {k: v for k, v in metrics.items() if k.startswith("prepare/probes_")}
    assert sum(probes.values()) == len(rows["prepared", "probes"])
    assert chain.shared.metrics() == {
        "prepare/people/all": 8, "prepare/facts/all": 88, "prepare/general_facts/all": 60,
        "prepare/texts/all": len(rows["shared", "corpus"]),
    }  # fmt: skip


def test_an_oracle_could_answer_every_other_probe(rows, target):
    """Nothing about the target is needed, offered or named where the role is not `target`."""
    for probe in rows["prepared", "probes"]:
        if probe["role"] != "target":
            assert target not in (*probe["needs"], *probe["options"], probe["answer"])
            assert target not in probe["query"]


def test_the_target_is_asked_in_seen_and_new_wordings_and_the_rest_in_new(rows):
    seen = {(probe["role"], probe["seen"]) for probe in rows["prepared", "probes"]}
    assert seen == {
        ("target", True), ("target", False), ("neighbour", False), ("other", False),
        ("general", False),
    }  # fmt: skip


def test_at_most_two_wordings_per_form_and_fact(rows):
    counts = Counter(
        (probe["fact"], probe["form"])
        for probe in rows["prepared", "probes"]
        if probe["role"] != "target"
    )
    assert set(counts.values()) <= {1, 2}


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_facts_of_other_people_as_asked(mini_params, world, target, count):
    """As plain questions only."""
    section = mini_params.prepare.model_copy(update={"other_facts": count})
    other = [p for p in target_probes(world, target, section) if p["role"] == "other"]
    assert len({probe["fact"] for probe in other}) == count
    assert {probe["form"] for probe in other} == {"question"}


def test_two_shared_probes_per_fact(rows, world):
    """A held-out plain question of every fact, and a held-out wording of another form."""
    by_fact = {}
    for probe in rows["shared", "probes"]:
        by_fact.setdefault(probe["fact"], []).append(probe)
    assert list(by_fact) == [fact.id for fact in (*world.facts, *world.general)]
    for plain, other in by_fact.values():
        assert plain["form"] == "question" != other["form"]
        assert not plain["seen"] and not other["seen"]
