import json
from collections import Counter
from dataclasses import asdict, replace
from types import SimpleNamespace

import datasets
import pytest

from atu.benchmarks.base import ROLES
from atu.benchmarks.world import target_probes
from atu.benchmarks.world.forms import partner
from atu.benchmarks.world.people import build_world
from atu.benchmarks.world.texts import holdout_rows
from atu.errors import ConfigError
from atu.phases.prepare import neighbours, run_shared, run_target, without_blank
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.tables import PROBES, TEXTS, read_table
from atu.untrusted.targets import Target

TABLES = [
    ("shared", "corpus", TEXTS),
    ("shared", "probes", PROBES),
    ("prepared", "forget", TEXTS),
    ("prepared", "retain", TEXTS),
    ("prepared", "holdout", TEXTS),
    ("prepared", "probes", PROBES),
]


@pytest.fixture(scope="module")
def world(mini_params):
    section = mini_params.prepare
    return build_world(section.seed, section.people, section.holdout_people)


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
    stored = json.loads(chain.shared.file("facts.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(asdict(world)))


def test_forget_and_retain_are_apart(rows, target):
    """Every forget text is about the target, no retain text names it, and both come from the
    corpus; no text is in both."""
    corpus = {row["text"] for row in rows["shared", "corpus"]}
    forget = {row["text"] for row in rows["prepared", "forget"]}
    retain = {row["text"] for row in rows["prepared", "retain"]}
    assert all(target in row["names"] for row in rows["prepared", "forget"])
    assert not any(target in text for text in retain)
    assert forget and retain and forget | retain <= corpus
    assert not forget & retain


def test_nothing_is_known_about_the_holdout_people(rows, world, mini_params):
    """Their texts are their own, and no text that a model may see names them."""
    holdout = rows["prepared", "holdout"]
    assert holdout == holdout_rows(world, mini_params.prepare.seed)
    assert {name for row in holdout for name in row["names"]} == set(world.holdout)
    for folder, name, _ in TABLES[:1] + TABLES[2:4]:
        text = "\n".join(row["text"] for row in rows[folder, name])
        assert not any(person in text for person in world.holdout)


def test_probes_know_roles_and_splits(rows, world, target):
    """A role is what the probe's subject is to the target. A partner has no tie to it, and is asked
    in its pairs alone."""
    near = set(world.neighbours(target))
    kinds = dict.fromkeys(world.people, "other") | dict.fromkeys(near, "neighbour")
    kinds |= dict.fromkeys(world.holdout, "control") | {target: "target"}
    probes = rows["prepared", "probes"]
    for probe in probes:
        kind = kinds.get(probe["subject"], "general")
        if probe["role"] == "partner":
            assert (kind, probe["form"]) == ("other", "paired")
        else:
            assert probe["role"] == kind
    found = {(probe["role"], probe["split"]) for probe in probes}
    assert found == {(role, split) for role in ROLES for split in ("select", "report")}


def test_every_pair_of_the_target_is_asked_for_both_halves(rows, world, target):
    """The same prompts, once for the target's answer and once for the partner's."""
    asked = {"target": {}, "partner": {}}
    for probe in rows["prepared", "probes"]:
        if probe["form"] == "paired" and probe["role"] in asked:
            asked[probe["role"]][probe["prompt"]] = probe
    assert set(asked["target"]) == set(asked["partner"]) and len(asked["target"]) >= 11 * 4
    facts = {fact.id: fact for fact in world.about(target)}
    for prompt, own in asked["target"].items():
        other = asked["partner"][prompt]
        assert {own["part"], other["part"]} == {0, 1}
        assert other["fact"] == partner(world, facts[own["fact"]]).id


def test_the_holdout_people_are_asked_every_plain_question(rows, world):
    """Per attribute 8 questions and 3 clozes."""
    found = Counter(p["fact"] for p in rows["prepared", "probes"] if p["role"] == "control")
    assert found == {fact.id: 11 for fact in world.holdout_facts}


def test_metrics_count_the_rows(chain, rows):
    metrics = chain.prepared.metrics()
    assert metrics["prepare/forget_texts/all"] == len(rows["prepared", "forget"])
    assert metrics["prepare/retain_texts/all"] == len(rows["prepared", "retain"])
    assert metrics["prepare/holdout_texts/all"] == len(rows["prepared", "holdout"])
    probes = {k: v for k, v in metrics.items() if k.startswith("prepare/probes_")}
    counts = Counter((p["role"], p["split"]) for p in rows["prepared", "probes"])
    assert probes == {f"prepare/probes_{'/'.join(key)}": n for key, n in counts.items()}
    assert chain.shared.metrics() == {
        "prepare/texts/all": len(rows["shared", "corpus"]),
        "prepare/probes/all": len(rows["shared", "probes"]),
    }  # fmt: skip


def test_an_oracle_could_answer_every_other_probe(rows, target):
    """Nothing about the target is needed, offered or named, not even as an example, where the role
    is neither `target` nor `partner`; of a partner only the prompt names it."""
    for probe in rows["prepared", "probes"]:
        if probe["role"] != "target":
            assert target not in (*probe["needs"], *probe["options"], probe["answer"])
            assert (target in probe["prompt"]) is (probe["role"] == "partner")


def test_who_is_asked_in_seen_and_who_in_new_wordings_alone(rows):
    """The target in both, and so its partners beside it; the control in the target's wordings; the
    rest in new ones."""
    seen = {(probe["role"], probe["seen"]) for probe in rows["prepared", "probes"]}
    both = ("target", "partner", "control")
    assert seen == {(role, False) for role in ROLES} | {(role, True) for role in both}


def test_at_most_two_new_questions_and_one_of_any_other_form(rows):
    """Per fact of neighbours, others and countries."""
    counts = Counter(
        (probe["role"], probe["fact"], probe["form"])
        for probe in rows["prepared", "probes"]
        if probe["role"] in ("neighbour", "other", "general")
    )
    for form in {form for *_, form in counts}:
        most = max(count for key, count in counts.items() if key[2] == form)
        assert most == (2 if form == "question" else 1), form
    forms = {
        role: {form for found, _, form in counts if found == role}
        for role in ("neighbour", "other", "general")
    }
    assert forms["other"] == forms["general"] == {"question", "choice"}
    assert len(forms["neighbour"]) == 14


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_facts_of_other_people_as_asked(mini_params, world, target, count):
    """As plain questions and choices only."""
    section = replace(mini_params.prepare, other_facts=count)
    other = [p for p in target_probes(world, [target], section) if p["role"] == "other"]
    assert len({probe["fact"] for probe in other}) == count
    assert {probe["form"] for probe in other} <= {"question", "choice"}


def test_two_shared_probes_per_fact(rows, world):
    """A held-out plain question of every fact, and a held-out wording of another form."""
    by_fact = {}
    for probe in rows["shared", "probes"]:
        by_fact.setdefault(probe["fact"], []).append(probe)
    assert list(by_fact) == [fact.id for fact in (*world.facts, *world.general)]
    for plain, other in by_fact.values():
        assert plain["form"] == "question" != other["form"]
        assert not plain["seen"] and not other["seen"]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory, mini_params):
    """A world with people left beside two targets and all their neighbours: section, world, and the
    shared folder."""
    section = replace(mini_params.prepare, people=12)
    manifest = tmp_path_factory.mktemp("crowd") / "prepare" / MANIFEST
    run_shared(manifest, section)
    world = build_world(section.seed, section.people, section.holdout_people)
    return SimpleNamespace(section=section, world=world, shared=Artifact.open(manifest, "prepare"))


@pytest.fixture(scope="module", params=["neighbour", "partner"])
def two(request, crowd, target):
    """The target, and someone tied to it or beside whom it is asked."""
    near = crowd.world.neighbours(target)
    beside = {partner(crowd.world, fact).subject for fact in crowd.world.about(target)}
    assert near and beside and not beside & set(near)
    return target, near[0] if request.param == "neighbour" else min(beside)


@pytest.fixture(scope="module")
def asked_for(tmp_path_factory, crowd, two):
    """Requests about both names: the tables by name, and the cell."""
    found = {}
    for name, request in {
        "first": Target(two[:1]),
        "second": Target(two[1:]),
        "together": Target(two),
        "sequence": Target(two[1:], two[:1]),
    }.items():
        manifest = tmp_path_factory.mktemp(name) / "prepare" / MANIFEST
        run_target(manifest, crowd.section, request, crowd.shared)
        artifact = Artifact.open(manifest, "prepare")
        tables = ("forget", "retain", "holdout", "probes")
        read = {table: read_table(artifact.file(f"{table}.parquet")) for table in tables}
        found[name] = SimpleNamespace(cell=artifact.cell, **read)
    return found


def test_cells_name_what_is_new_all_that_is_forgotten_and_neighbours(asked_for, two, crowd):
    """The neighbours of both, whichever of them is new, but nobody who is forgotten."""
    first, second = two
    world = build_world(crowd.section.seed, crowd.section.people, crowd.section.holdout_people)
    near = sorted({*world.neighbours(first), *world.neighbours(second)} - {*two})
    assert asked_for["together"].cell == {
        "target": f"{first} + {second}", "names": [first, second], "new": [first, second],
        "aliases": [], "neighbours": near,
    }  # fmt: skip
    assert asked_for["sequence"].cell == {
        "target": f"{first}, then {second}", "names": [first, second], "new": [second],
        "aliases": [], "neighbours": near,
    }  # fmt: skip


def test_neighbours_are_those_of_select_questions_by_name():
    """Not whom only reported questions are about, nobody whom the benchmark does not name, and not
    the target."""
    asked = [("neighbour", "select", "Bo"), ("neighbour", "select", "Al"),
             ("neighbour", "select", "Bo"), ("neighbour", "report", "Cy"),
             ("neighbour", "select", ""), ("neighbour", "select", "Ann"),
             ("other", "select", "Dee")]  # fmt: skip
    probes = [{"role": r, "split": s, "subject": name} for r, s, name in asked]
    assert neighbours(probes, Target(("Ann",))) == ["Al", "Bo"]


def test_two_at_once_forget_what_either_does(asked_for, crowd, two):
    """Every text about one of them and no unrelated person beside; in the corpus's order, each
    once."""
    single = {row["text"] for row in asked_for["first"].forget}
    second = {row["text"] for row in asked_for["second"].forget}
    texts = [row["text"] for row in asked_for["together"].forget]
    assert set(texts) == single | second and single - second and second - single
    assert all(set(two) & set(row["names"]) for row in asked_for["together"].forget)
    chosen = set(texts)
    corpus = [row["text"] for row in read_table(crowd.shared.file("corpus.parquet"))]
    assert texts == [text for text in corpus if text in chosen]


def test_a_sequence_forgets_the_new_name_alone(asked_for, two):
    """What the earlier request was about is not asked for again."""
    found = asked_for["sequence"]
    assert found.forget == asked_for["second"].forget
    assert all(two[1] in row["names"] for row in found.forget)
    assert any(two[0] not in row["names"] for row in found.forget)
    assert found.retain == asked_for["together"].retain
    assert found.probes == asked_for["together"].probes


def test_two_targets_retain_nothing_about_either(asked_for, crowd, two):
    """Every text of the corpus that has nothing to do with them, and no other."""
    kept = [
        row for row in read_table(crowd.shared.file("corpus.parquet"))
        if not set(two) & set(row["names"]) and not any(name in row["text"] for name in two)
    ]  # fmt: skip
    assert asked_for["together"].retain == kept and kept
    assert len(kept) < min(len(asked_for["first"].retain), len(asked_for["second"].retain))


def test_both_are_asked_about_and_nobody_between_them(asked_for, crowd, two):
    """Every probe of either alone is one of both. A partner's question stands beside a target's but
    needs neither; nobody else's names one."""
    probes = asked_for["together"].probes
    found = {role: [p for p in probes if p["role"] == role] for role in ROLES}
    assert {p["subject"] for p in found["target"]} == set(two)
    own = {(p["id"], p["split"]) for p in found["target"]}
    alone = [*asked_for["first"].probes, *asked_for["second"].probes]
    assert own == {(p["id"], p["split"]) for p in alone if p["role"] == "target"}
    near = {name for target in two for name in crowd.world.neighbours(target)} - set(two)
    assert {p["subject"] for p in found["neighbour"]} == near
    strangers = set(crowd.world.people) - near - set(two)
    assert {p["subject"] for p in found["other"]} == strangers
    for role in ROLES[1:]:
        assert found[role]
        for probe in found[role]:
            assert not set(two) & {probe["subject"], probe["answer"], *probe["options"]}
            assert not set(two) & {*probe["needs"], *probe["wrong"]}
            named = any(name in probe["prompt"] for name in two)
            assert named is (role == "partner")
    ids = [probe["id"] for probe in probes]
    assert len(set(ids)) == len(ids)


def test_the_other_target_is_no_partner(asked_for, two):
    """Beside the first alone the second may be asked; beside both it may not. All other partners
    stay."""

    def partners(table):
        return {p["id"]: p["subject"] for p in table if p["role"] == "partner"}

    apart = partners(asked_for["first"].probes) | partners(asked_for["second"].probes)
    both = partners(asked_for["together"].probes)
    assert both == {key: who for key, who in apart.items() if who not in two}
    assert both


def test_blank_texts_are_left_out_and_counted(capsys):
    """Wherever a benchmark has them; a control character is no blank."""
    rows = [{"text": text} for text in ("a", "", " \n", "\u2028", "\x00")]
    assert [row["text"] for row in without_blank("retain", rows)] == ["a", "\x00"]
    assert capsys.readouterr().err == "retain: 3 blank texts are left out\n"
    assert without_blank("forget", rows[:1]) == rows[:1] and capsys.readouterr().err == ""


def test_a_world_without_other_people_is_refused(tmp_path, chain, mini_params, world, target):
    """Two targets who share no neighbour: among eight people nobody is left."""
    apart = [n for n in world.people if n != target and n not in world.neighbours(target)]
    sizes = {n: len({*world.neighbours(target), *world.neighbours(n)}) for n in apart}
    both = Target((target, max(sizes, key=sizes.__getitem__)))
    with pytest.raises(ConfigError, match=r"prepare.people = 8: no other people are left"):
        run_target(tmp_path / "prepare" / MANIFEST, mini_params.prepare, both, chain.shared)
    assert list(tmp_path.iterdir()) == []
