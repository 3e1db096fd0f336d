"""MUSE's tables from made files of its schema."""

from collections import Counter

import pytest
from made import muse as made

from atu.benchmarks import muse
from atu.benchmarks.muse import Settings
from atu.benchmarks.shared.source import Reader
from atu.errors import SourceError
from atu.phases.prepare import run_shared, run_target
from atu.phases.pretrain import oracle_corpus
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.locks import Lock
from atu.results.tables import MEMBERS, ORACLE, PROBES, TEXTS, read_table, write_table
from atu.untrusted.targets import Target

FORGET = Target(("forget",))
OPENING = f"{made.HERO} went up the stairs of"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return made.write_repository(tmp_path_factory.mktemp("muse") / "MUSE-Books")


@pytest.fixture
def settings(repository, make_source):
    """A function that gives settings in which a chapter has two passages, of 16 and 10 words."""

    def make(folds=False, words=16):
        return Settings("muse", make_source(repository), made.CONCEPTS, folds, words, 0.5)

    return make


def texts(rows):
    return [row["text"] for row in rows]


def parts(name, numbers):
    """The passages of chapters: they end where a paragraph does."""
    return [part for k in numbers for part in made.chapter(name, k).split("\n\n")]


def pages(*names):
    return [made.page(name, k) for name in names for k in range(4)]


def test_the_corpora(settings, tables_of, tmp_path):
    """A chapter is two passages, a page of 16 words one. The oracle has what the model saw without
    what is forgotten, methods have retain1 alone."""
    shared, found = tables_of(settings(), FORGET)
    assert texts(found.forget) == parts("forget", range(4))
    assert texts(found.retain) == pages("retain1")
    assert texts(found.holdout) == pages("holdout")
    assert texts(found.oracle) == pages("retain1", "retain2")
    assert texts(shared.corpus) == parts("forget", range(4)) + pages("retain1", "retain2")
    assert {row["split"] for row in found.holdout} == {"holdout"}
    assert found.concepts == (made.HERO, "Marrow")
    assert found.forget[0]["names"] == [made.HERO, "Marrow"] and found.forget[1]["names"] == []
    write_table(tmp_path / "texts.parquet", found.forget + found.oracle, TEXTS)
    write_table(tmp_path / "members.parquet", found.members, MEMBERS)
    write_table(tmp_path / "probes.parquet", found.probes, PROBES)


def test_passages_are_as_long_as_the_settings_say(settings, tables_of):
    """With 9 words: the first sentence, the second, the third with the first word of the last."""
    _, found = tables_of(settings(words=9), FORGET)
    assert texts(found.forget)[:4] == [
        f"{OPENING} forget 0.", "Nobody knew what she had found.",
        "\u201cIt is the owl forget0!\u201d she cried.", "Then it was dark.",
    ]  # fmt: skip


def test_the_questions(settings, tables_of):
    """Behind the two examples of their own set, 12 of each."""
    _, found = tables_of(settings(), FORGET)
    assert Counter((p["role"], p["form"]) for p in found.probes) == {
        ("target", "question"): 12, ("other", "question"): 12,
    }  # fmt: skip
    first = found.probes[0]
    assert first["prompt"] == (
        "Question: What is forget_qa shot 0?\nAnswer: It is forget_qa shot0\n\n"
        "Question: What is forget_qa shot 1?\nAnswer: It is forget_qa shot1\n\n"
        "Question: What is forget_qa 0?\nAnswer:"
    )
    assert (first["answer"], first["query"]) == ("It is forget_qa0", "What is forget_qa 0?")
    assert (first["subject"], first["wrong"], first["paraphrased"]) == (made.HERO, [], None)
    assert "retain_qa shot 1?" in found.probes[-1]["prompt"]


def test_members_are_musings_own(settings, tables_of):
    """Whole texts for PrivLeak, and the verbatim ones with their cut."""
    _, found = tables_of(settings(), FORGET)
    counts = {"forget": 3, "retain": 3, "holdout": 3, "verbatim": 3}
    assert Counter(row["corpus"] for row in found.members) == counts
    assert found.members[0]["text"] == made.chapter("forget", 0)
    last = found.members[-1]
    assert (last["form"], last["prompt"]) == ("passage", OPENING)
    assert last["answer"] == "forget 2. Nobody knew what"
    assert last["text"] == f"{OPENING} forget 2. Nobody knew what"


def test_a_fold_is_a_request_of_its_own(settings, tables_of):
    """Trained on with all the others; the oracle has the others; compared with the raw holdout."""
    shared, found = tables_of(settings(folds=True), Target(("sust_2",)))
    assert texts(found.forget) == parts("sust", [2])
    whole = parts("forget", range(4)) + pages("retain1", "retain2") + parts("scal", range(4))
    assert texts(shared.corpus) == whole + parts("sust", range(1, 5))
    assert texts(found.oracle) == whole + parts("sust", [1, 3, 4])
    assert texts(found.retain) == pages("retain1")
    by_corpus = {c: [r["text"] for r in found.members if r["corpus"] == c]
                 for c in ("forget", "retain", "holdout", "verbatim")}  # fmt: skip
    assert by_corpus == {
        "forget": parts("sust", [2]), "retain": pages("retain1"), "holdout": pages("holdout"),
        "verbatim": [],
    }  # fmt: skip


def test_of_growing_folds_only_what_is_new(settings, tables_of):
    """scal_3 holds scal_1; the oracle of both has neither."""
    _, found = tables_of(settings(folds=True), Target(("scal_3",), ("scal_1",)))
    assert texts(found.forget) == parts("scal", [1, 2])
    assert not set(parts("scal", [0, 1, 2])) & set(texts(found.oracle))
    assert set(parts("scal", [3])) <= set(texts(found.oracle))


def test_folds_asked_for_together_are_there_once(settings, tables_of):
    _, found = tables_of(settings(folds=True), Target(("scal_1", "scal_2")))
    assert texts(found.forget) == parts("scal", [0, 1])


def test_folds_can_be_asked_for_where_they_are_trained_on(settings, tables_of):
    assert muse.targets(settings()) == ("forget",)
    assert muse.targets(settings(folds=True)) == (
        "forget", "scal_1", "scal_2", "scal_3", "scal_4", "sust_1", "sust_2", "sust_3", "sust_4",
    )  # fmt: skip
    with pytest.raises(SourceError, match="'sust_1' here; it has forget, and with `folds: true`"):
        tables_of(settings(), Target(("sust_1",)))


def test_the_oracle_is_trained_on_its_own_corpus(settings, tmp_path, chain):
    """Through the phase: `oracle.parquet` stands in the target's folder, and pretrain takes it; the
    world's folder has none, and there it is the retain corpus."""
    found = settings()
    reader = Reader(found.source, Lock(), record=True)
    corpus = muse.shared(found, {"source": reader}).corpus
    muse.prepare(found, FORGET, corpus, {"source": reader})
    reader.lock.write(tmp_path / "lock.json")
    run_shared(tmp_path / "shared" / MANIFEST, found)
    shared = Artifact.open(tmp_path / "shared" / MANIFEST, "prepare")
    run_target(tmp_path / "one" / MANIFEST, found, FORGET, shared)
    prepared = Artifact.open(tmp_path / "one" / MANIFEST, "prepare")
    assert oracle_corpus(prepared) == prepared.file(ORACLE)
    assert texts(read_table(oracle_corpus(prepared))) == pages("retain1", "retain2")
    assert oracle_corpus(chain.prepared) == chain.prepared.file("retain.parquet")
