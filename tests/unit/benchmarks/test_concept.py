"""A concept by name: the written folder's tables, and what is refused of it."""

import json
import re
from dataclasses import replace

import pytest
from made import concept as made

from atu.benchmarks import concept
from atu.benchmarks.base import split_of
from atu.benchmarks.concept import Settings, facts_of, in_both_splits
from atu.benchmarks.shared.source import Reader
from atu.errors import SourceError
from atu.phases.prepare import require_content
from atu.results.locks import Lock
from atu.results.tables import MEMBERS, PROBES, TEXTS, write_table
from atu.untrusted.targets import Target

ONE = Target((made.ANN,))


@pytest.fixture
def prepared(tmp_path, make_source):
    """A function that writes the folder with changes and prepares it."""

    def prepare(target=ONE, **changes):
        settings = Settings(
            "concept", make_source(made.write_folder(tmp_path / "c", **changes)), 0.5
        )
        reader = Reader(settings.source, Lock(), record=True)
        assert concept.shared(settings, {"source": reader}).corpus == []
        return concept.prepare(settings, target, [], {"source": reader})

    return prepare


def test_the_tables_have_the_columns_of_all_benchmarks(prepared, tmp_path):
    found = prepared()
    require_content(found, ONE)
    for name, rows, schema in (("forget", found.forget, TEXTS), ("retain", found.retain, TEXTS),
                               ("members", found.members, MEMBERS),
                               ("probes", found.probes, PROBES)):  # fmt: skip
        write_table(tmp_path / f"{name}.parquet", rows, schema)
    assert found.concepts == (made.ANN,)
    assert [row["text"] for row in found.forget] == made.statements(0)
    assert found.retain[-1]["names"] == [] and found.retain[0]["names"] == [made.PEOPLE[1]]
    assert {row["corpus"] for row in found.members} == {"forget", "retain"}


def test_questions_of_one_answer_are_one_fact_in_one_split(prepared):
    probes = [p for p in prepared().probes if p["role"] == "target"]
    facts = len(made.FACTS)
    assert len(probes) == 2 * facts and len({p["fact"] for p in probes}) == facts
    for probe in probes:
        assert [probe["fact"]] == facts_of([("target", "Ann", probe["answer"].upper() + ".")])
        assert probe["split"] == split_of(probe["fact"], 0.5)
        assert not probe["seen"] and probe["measure"] == "contains@own-2"


def test_a_users_questions_bring_options_and_wrong_answers(prepared):
    """And the measure of all; without them there are none."""
    rows = [row | {"measure": concept.LONG} for row in made.files()["questions.json"]]
    rows[0] |= {"options": ["a", "b"], "wrong": ["b"]}
    first, second, *_ = prepared(**{"questions.json": rows}).probes
    assert (first["options"], first["wrong"], first["measure"]) == (["a", "b"], ["b"], concept.LONG)
    assert (second["options"], second["wrong"]) == ([], [])


def test_two_measures_have_no_mean(prepared):
    rows = made.files()["questions.json"]
    rows[0] |= {"measure": concept.LONG}
    with pytest.raises(SourceError, match=r"has several measures, contains@own-2, rwku_rouge"):
        prepared(**{"questions.json": rows})


def test_what_is_one_fact():
    """The target under any of its names, and an answer within another, as words; a neighbour's
    facts are its own."""
    asked = [("target", "Ann", "curry"), ("target", "Quorn", "Is curry!"), ("target", "Ann", "cur"),
             ("neighbour", "Bo", "the owl"), ("neighbour", "Cy", "owl"),
             ("general", "", "is pumpkin pie"), ("general", "", "pumpkin pie")]  # fmt: skip
    found = facts_of(asked)
    assert found[0] == found[1] != found[2]
    assert found[3] != found[4]
    assert found[5] == found[6] != found[0]
    assert facts_of([]) == []


def test_a_role_that_one_split_lacks_is_left_out():
    def row(role, split):
        return {"role": role, "split": split}

    kept = [row("target", "report"), row("general", "select"), row("general", "report")]
    assert in_both_splits([*kept, row("neighbour", "select")]) == kept


def changed(name, **change):
    """The file with a change in its second row."""
    rows = made.files()[name]
    return {name: [rows[0], rows[1] | change, *rows[2:]]}


BAD = {
    "no text": (changed("forget.json", text=None), "has no text 'text' but None"),
    "an empty text": (changed("retain.json", text=" "), "empty 'text'"),
    "no subject": (changed("retain.json", about=3), "no text 'about'"),
    "an unknown role": (changed("questions.json", role="oracle"), "role = 'oracle' is unknown"),
    "an unknown form": (changed("questions.json", form="poem"), "form = 'poem' is unknown"),
    "an answer of dots": (changed("questions.json", answer="..."), "no letter to compare"),
    "no prompt": (changed("questions.json", prompt=""), "empty 'prompt'"),
    "options that are none": (changed("questions.json", options="a"), "options = 'a' is no list"),
    "a wrong answer that is none": (changed("questions.json", wrong=[1]), "wrong = [1] is no list"),
    "an unknown measure": (changed("questions.json", measure="x"), "measure = 'x' is unknown"),
    "no names": ({"names.json": []}, "is about nothing"),
    "an empty name": ({"names.json": [{"name": ""}]}, "empty 'name'"),
    "somebody else": ({"names.json": [{"name": "Bo"}]}, "is about Bo, not 'Annabel Quorn'"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_hostile_rows_are_refused(prepared, changes, message):
    with pytest.raises(SourceError, match=re.escape(message)):
        prepared(**changes)


@pytest.mark.parametrize("target", [Target(("Bo",)), Target((made.ANN, "Bo")),
                                    Target((made.ANN,), ("Bo",))])  # fmt: skip
def test_only_the_written_concept_can_be_asked_for(prepared, target):
    with pytest.raises(SourceError, match=r"nothing together or in sequence"):
        prepared(target)


@pytest.fixture
def locked(tmp_path, make_source):
    """A written folder under its lock, and its settings."""
    source = make_source(made.write_folder(tmp_path / "c"))
    source = replace(source, lock=str(tmp_path / "c.lock.json"))
    reader = Reader(source, Lock(), record=True)
    settings = Settings("concept", source, 0.5)
    concept.prepare(settings, ONE, [], {"source": reader})
    reader.lock.write(tmp_path / "c.lock.json")
    return tmp_path / "c", settings


@pytest.mark.parametrize("name", sorted(made.files()))
def test_an_altered_file_is_named(locked, name):
    folder, settings = locked
    rows = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(rows * 2), encoding="utf-8")
    with pytest.raises(SourceError, match=f"'{name}' is altered"):
        concept.prepare(settings, ONE, [], {"source": Reader.open(settings.source)})


@pytest.mark.parametrize("name", sorted(made.files()))
def test_a_missing_file_is_named(locked, name):
    folder, settings = locked
    (folder / name).unlink()
    with pytest.raises(SourceError, match=f"{name}: is missing"):
        concept.prepare(settings, ONE, [], {"source": Reader.open(settings.source)})


def test_a_name_is_the_same_in_every_file_however_it_is_spelled(prepared):
    """In the names, in texts, as a question's subject, and as it is asked for; the texts stay."""
    whole, apart = "Zo\u00eb", "Zoe\u0308"
    questions = made.files()["questions.json"]
    changes = {
        "names.json": [{"name": apart}],
        "forget.json": [{"text": f"{apart} sings.", "about": whole}],
        "questions.json": [questions[0] | {"subject": apart}, *questions[1:]],
    }
    found = prepared(target=Target((whole,)), **changes)
    assert found.concepts == (whole,) and found.probes[0]["subject"] == whole
    assert found.forget[0]["names"] == [whole] and found.forget[0]["text"] == f"{apart} sings."
