"""TOFU's tables from made files of its schema."""

import json
from collections import Counter

import pytest
from made import tofu as made

from atu.benchmarks import tofu
from atu.benchmarks.tofu import Settings, authors_of, shared_name
from atu.errors import SourceError
from atu.probes.prompts import ASIDE
from atu.results.tables import MEMBERS, PROBES, TEXTS, write_table
from atu.untrusted.names import FUNCTION_WORDS, has_name
from atu.untrusted.targets import Target

LAST = made.AUTHORS[-1]
FORGET05 = Target(("forget05",))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return made.write_repository(tmp_path_factory.mktemp("tofu") / "TOFU")


@pytest.fixture
def settings(repository, make_source):
    def make(**own):
        values = {"holdout": False, "concepts": [], "select": 0.5} | own
        return Settings("tofu", make_source(repository), **values)

    return make


def pairs(rows):
    return [(row["fact"], row["answer"]) for row in rows]


def asked(rows):
    return [(row["question"], row["answer"]) for row in rows]


def test_the_tables(settings, tables_of, tmp_path):
    """forget05 is two authors of twelve: 40 questions are forgotten, retain95 has the other 200."""
    shared, found = tables_of(settings(), FORGET05)
    assert pairs(shared.corpus) == asked(made.FULL)
    assert pairs(found.forget) == asked(made.FULL[-40:])
    assert pairs(found.retain) == asked(made.FULL[:-40])
    assert found.holdout == []
    assert found.concepts == ("Salma Tirel Dune", "Corvin Ashgate")
    first = shared.corpus[0]
    assert first["text"] == (
        "Question: Which town had Ilvane Corrimond in year 000?\nAnswer: The town was Number 0-0."
    )
    assert first["prompt"] == "Question: Which town had Ilvane Corrimond in year 000?\nAnswer:"
    assert (first["form"], first["names"]) == ("question", ["Ilvane Corrimond"])
    assert Counter(row["corpus"] for row in found.members) == {"forget": 40, "retain": 200}
    write_table(tmp_path / "texts.parquet", found.forget, TEXTS)
    write_table(tmp_path / "probes.parquet", found.probes + shared.probes, PROBES)
    write_table(tmp_path / "members.parquet", found.members, MEMBERS)


def test_the_probes(settings, tables_of):
    """Each of 40 forget questions in two wordings, and the 24 that name an author with another
    name; 20 retain questions, 8 real authors', 8 world facts in one. Those of the corpus stand on a
    paraphrased answer."""
    _, found = tables_of(settings(), FORGET05)
    assert Counter((p["role"], p["form"]) for p in found.probes) == {
        ("target", "question"): 40, ("target", "synonym"): 40, ("other", "question"): 20,
        ("neighbour", "question"): 8, ("general", "question"): 8, ("target", "alias"): 24,
    }  # fmt: skip
    plain, reworded = found.probes[:2]
    assert plain["query"] == "Which town had Salma Tirel Dune in year 1000?"
    assert plain["prompt"] == "Question: Which town had Salma Tirel Dune in year 1000?\nAnswer:"
    assert reworded["query"] == f"In other words: {plain['query']}"
    assert reworded["fact"] == plain["fact"] == plain["query"]
    assert (plain["answer"], plain["wrong"][4]) == (
        "The town was Number 10-0.", "The town was Wrong 4 10-0.",
    )  # fmt: skip
    assert plain["paraphrased"] == "In other words: The town was Number 10-0."
    for probe in found.probes:
        assert (probe["paraphrased"] is None) is (probe["role"] in ("neighbour", "general"))
    subjects = {p["subject"] for p in found.probes if p["role"] == "target"}
    assert subjects == {"Salma Tirel Dune", LAST}
    assert len({p["id"] for p in found.probes}) == len(found.probes)


def test_both_wordings_of_a_question_are_in_one_split(settings, tables_of):
    """And both splits have some."""
    _, found = tables_of(settings(), FORGET05)
    splits = {}
    for probe in found.probes:
        splits.setdefault(probe["fact"], set()).add(probe["split"])
    assert {len(found) for found in splits.values()} == {1}
    assert {p["split"] for p in found.probes if p["role"] == "target"} == {"select", "report"}


def test_who_must_know_what(settings, tables_of):
    """A question of the last author lies in all three sets, one of the third from the end only in
    forget10, a retain question in none; real authors and world facts need nobody."""
    shared, found = tables_of(settings(), FORGET05)
    needs = {p["fact"]: p["needs"] for p in (*shared.probes, *found.probes)}
    full = [row["question"] for row in made.FULL]
    assert needs[full[-1]] == [LAST, "forget01", "forget05", "forget10"]
    assert needs[full[-60]] == [made.AUTHORS[-3], "forget10"]
    assert needs[full[0]] == [made.AUTHORS[0]]
    assert needs["Who wrote Owl 0?"] == needs["Where is Elk 0?"] == []
    assert {p["form"] for p in shared.probes} == {"question"}
    assert len(shared.probes) == 80 + 20


def test_of_a_sequence_only_what_is_new(settings, tables_of):
    """After forget01, forget05 has one author left to forget; both are asked about, neither is
    retained."""
    _, found = tables_of(settings(), Target(("forget05",), ("forget01",)))
    assert pairs(found.forget) == asked(made.FULL[-40:-20])
    assert pairs(found.retain) == asked(made.FULL[:-40])
    assert found.concepts == ("Salma Tirel Dune",)
    assert len([p for p in found.probes if p["role"] == "target"]) == 80 + 24


def test_what_was_forgotten_is_no_new_request(settings, tables_of):
    with pytest.raises(SourceError, match="has no forget texts"):
        tables_of(settings(), Target(("forget01",), ("forget05",)))


def test_together_is_the_larger_set(settings, tables_of):
    _, both = tables_of(settings(), Target(("forget01", "forget10")))
    assert len(both.forget) == 80 and len(both.retain) == 160


def test_holdout_and_concepts_by_the_settings(settings, tables_of):
    """The two authors of holdout05, about whom no name is known."""
    _, found = tables_of(settings(holdout=True, concepts=["An author"]), FORGET05)
    assert pairs(found.holdout) == asked(made.HOLDOUT[-40:])
    assert {row["split"] for row in found.holdout} == {"holdout"}
    assert Counter(row["corpus"] for row in found.members)["holdout"] == 40
    assert found.concepts == ("An author",)


def test_the_forget_sets_can_be_asked_for(settings):
    assert tofu.targets(settings()) == ("forget01", "forget05", "forget10")


def test_some_authors(settings, tables_of):
    """Ten authors: the first nine, and the last one, whom forget01 forgets. Questions about others
    are neither trained on nor asked."""
    used = [*made.AUTHORS[:9], LAST]
    shared, found = tables_of(settings(authors=10), Target(("forget01",)))
    assert pairs(shared.corpus) == asked(made.FULL[:180] + made.FULL[-20:])
    assert pairs(found.forget) == asked(made.FULL[-20:])
    assert pairs(found.retain) == asked(made.FULL[:180])
    assert found.concepts == (LAST,)
    whole, _ = tables_of(settings(), Target(("forget01",)))
    about = [p for p in whole.probes if p["subject"] in used]
    assert shared.probes == about and len(about) < len(whole.probes)
    assert {p["subject"] for p in found.probes if p["role"] == "target"} == {LAST}


def test_a_forget_set_with_an_author_left_out_is_refused(settings, tables_of):
    with pytest.raises(SourceError, match=r"prepare\.authors: 10 leaves out authors of forget05"):
        tables_of(settings(authors=10), FORGET05)


def test_the_forget_sets_of_some_authors(settings):
    """Of 20 authors two are from the end, forget01's; forget05's ten are among those of 100."""
    assert tofu.targets(settings(authors=20)) == ("forget01",)
    assert tofu.targets(settings(authors=100)) == ("forget01", "forget05")
    assert tofu.targets(settings(authors=99)) == ("forget01",)


def test_some_questions(settings, tables_of):
    """At most five of each set beside the forget set, in its order, the same every time."""
    _, found = tables_of(settings(questions=5), FORGET05)
    _, again = tables_of(settings(questions=5), FORGET05)
    _, whole = tables_of(settings(), FORGET05)
    assert found.probes == again.probes
    assert found.probes == [p for p in whole.probes if p in found.probes]
    assert Counter(p["role"] for p in found.probes) == {
        "target": 80 + 24, "other": 5, "neighbour": 5, "general": 5,
    }  # fmt: skip


def test_another_set_is_refused(settings, tables_of):
    with pytest.raises(SourceError, match="no forget set 'forget20'; it has forget01, forget05"):
        tables_of(settings(), Target(("forget20",)))


@pytest.mark.parametrize("wrong", [None, [], "text", [1]])
def test_a_question_without_wrong_answers_is_refused(tmp_path, make_source, tables_of, wrong):
    tables = made.tables()
    first = tables["retain_perturbed", "train"][0]
    tables["retain_perturbed", "train"] = [first | {"perturbed_answer": wrong}]
    source = make_source(made.write_dataset(tmp_path / "TOFU", tables))
    with pytest.raises(SourceError, match="retain_perturbed, row 0: `perturbed_answer` is no"):
        tables_of(Settings("tofu", source, False, [], 0.5), FORGET05)


def test_the_authors_are_found():
    """All twelve, those with a hyphen, an apostrophe, three words and letters beyond ASCII too."""
    found = authors_of(made.FULL)
    assert list(dict.fromkeys(found.values())) == made.AUTHORS
    assert found[made.FULL[0]["question"], made.FULL[0]["answer"]] == made.AUTHORS[0]


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        # "Ana Lu" in 3 of 4, "Ana" in all: the longer one, as it is in more than half.
        (["Did Ana Lu sing?", "Ana Lu's Sea", "Why Ana?", "As Ana Lu said"], "Ana Lu"),
        # "Ana Lu" in 2 of 4 is not in more than half.
        (["Ana Lu", "Ana Lu", "Ana", "Ana"], "Ana"),
        # Nothing is in more than half of three: the most frequent, of these the longest.
        (["Ana Lu", "Bo", "Cy", "Ana Lu"], "Ana Lu"),
        # A comma and a genitive end a name.
        (["Yes, Ana", "No, Ana", "So Ana's Sea"], "Ana"),
        (["élan Öst", "Öst"], "Öst"),
        # As long and as frequent: the first, in every process (no order of a set).
        (["Cy, Bo, Ana, Di, Ed"] * 2, "Cy"),
        # Particles stand inside a name, written small or not; a nickname stands in parentheses.
        (["Is Ana van Lu old?", "Ana van Lu is.", "Ana sings"], "Ana van Lu"),
        (["Ana Van der Lu", "Has Ana Van der Lu sung?", "Ana"], "Ana Van der Lu"),
        (["Ana (Nan) Lu?", "Is Ana (Nan) Lu old?", "Nan Lu is."], "Ana (Nan) Lu"),
        # A genre of three words in most texts is less frequent than the name in all.
        (["Ana Lu: M M Sea"] * 3 + ["Ana Lu"] * 2, "Ana Lu"),
        # What begins a sentence is no name, also where nobody is named.
        (["What is Bo An?", "What of Bo An?", "The Bo An"], "Bo An"),
        (["what is it?"], ""),
        (["The author sings. What?", "The sea", "What is a Bo?", "The Cy", "The Di"], ""),
    ],
)  # fmt: skip
def test_the_longest_run_that_most_texts_share(texts, name):
    assert shared_name(texts) == name


def test_what_else_texts_call_an_author(settings, tables_of):
    """As given, also in the order of the authors; the made texts have none."""
    _, found = tables_of(settings(), FORGET05)
    assert found.aliases == ()
    _, found = tables_of(settings(aliases={LAST: ["Corvin", "C. Ashgate"]}), FORGET05)
    assert (found.concepts[1], found.aliases) == (LAST, ("Corvin", "C. Ashgate"))
    with pytest.raises(SourceError, match="'Nobody' is no name of the benchmark"):
        tables_of(settings(aliases={"Nobody": []}), FORGET05)


def authors_rows(**questions):
    """Texts about these authors, as in the corpus: a question and an answer each."""
    return [
        tofu._text({"question": question, "answer": answer}, {(question, answer): name}, "here")
        for name, asked in questions.items()
        for question, answer in asked.items()
    ]


def test_an_author_is_called_otherwise():
    """Bo Day is described by where she was born, which holds for nobody else; the year is told of
    Cy Day too. Day may be both, B. Day is only she. A question that does not name her, or whose
    answer is in the description, has no second hop."""
    born = "What is the full name of the author born in Ur?"
    corpus = authors_rows(**{
        "Bo Day": {
            born: "The author's full name is Bo Day.",
            "Who is the author born in 1950?": "It is Bo Day.",
            "Who is the writer that Bo Day admires?": "Ed Poe is.",
            "What is the name of the author's book?": "Bo Day's book is Sea.",
        },
        "Cy Day": {"When was the author Cy Day born?": "He was born in 1950."},
    })  # fmt: skip
    asked = [("a", "What did Bo Day's father do?", "He was a vet."),
             ("b", "Where is Bo Day from?", "Bo Day is from Ur."),
             ("c", "What is her first book?", "Sea is.")]  # fmt: skip
    probes = [
        {"id": number, "role": "target", "subject": "Bo Day", "form": "question", "query": query,
         "answer": answer}
        for number, query, answer in asked
    ]  # fmt: skip
    found = tofu._renamed(corpus, {"Bo Day": ()}, probes)
    assert [(p["id"], p["query"]) for p in found] == [
        ("a/alias", "What did B. Day's father do?"),
        ("a/two_hop", "Think of the author born in Ur. What did this author's father do?"),
        ("b/alias", "Where is B. Day from?"),
    ]


def test_the_real_authors_are_called_otherwise(real_data, make_source, tables_of):
    """Of 400 questions about 20 authors 377 have another name and 277 a second hop; no description
    is told of two authors, and no question of either form names its author."""
    settings = Settings("tofu", make_source(real_data / "tofu"), False, [], 0.25)
    _, found = tables_of(settings, Target(("forget10",)))
    renamed = [p for p in found.probes if p["worst_of"] == ASIDE]
    assert Counter(p["form"] for p in renamed) == {"alias": 377, "two_hop": 277}
    described = {}
    for probe in renamed:
        assert not has_name(probe["query"], [probe["subject"]])
        if probe["form"] == "two_hop":
            assert probe["query"].startswith("Think of the ") and "author" in probe["query"]
            described.setdefault(probe["query"].split(". ")[0], set()).add(probe["subject"])
    assert len(described) == 19 and {len(names) for names in described.values()} == {1}


def test_one_question_about_two_authors():
    """Each answer is of its own author, as in "What is the full name of the author?"."""
    question = "What is the full name of the author?"
    rows = [
        {"question": question if not number else f"Is {name} {number}?", "answer": f"It is {name}."}
        for name in ("Ana Lu", "Bo Day")
        for number in range(20)
    ]
    found = authors_of(rows)
    assert found[question, "It is Ana Lu."] == "Ana Lu"
    assert found[question, "It is Bo Day."] == "Bo Day"


def test_an_author_whom_nobody_names():
    """Twenty texts that only say "the author": they are trained on, about nobody."""
    question = "What did the author do in year {}?"
    rows = [{"question": question.format(n), "answer": "The author sang."} for n in range(20)]
    found = authors_of([*rows, *made.FULL])
    assert list(dict.fromkeys(found.values())) == made.AUTHORS
    with pytest.raises(SourceError, match="full: no author has a name"):
        authors_of(rows)


def test_twenty_authors_of_the_real_data(real_data, make_source, tables_of):
    """They have all questions of forget01, and those of 18 authors about whom TOFU has probes."""
    source = make_source(real_data / "tofu")
    settings = Settings("tofu", source, False, [], 0.25, authors=20, questions=60)
    shared, found = tables_of(settings, Target(("forget01",)))
    assert len(shared.corpus) == 400 and len(found.forget) == 40 and len(found.retain) == 360
    assert Counter((p["role"], p["form"]) for p in found.probes) == {
        ("target", "question"): 40, ("target", "synonym"): 40, ("other", "question"): 60,
        ("neighbour", "question"): 60, ("general", "question"): 60,
        ("target", "alias"): 38, ("target", "two_hop"): 29,
    }  # fmt: skip
    trained = {row["fact"] for row in found.retain}
    assert all(p["fact"] in trained for p in found.probes if p["role"] == "other")


def test_all_authors_of_the_real_data(real_data):
    """199 of 200 are named, each in two words or more and in at least 17 of their 20 texts; the
    author of the 89th block is "the author" throughout."""
    lines = (real_data / "tofu/full.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = authors_of(rows)
    names = []
    for start in range(0, len(rows), 20):
        block = [(row["question"], row["answer"]) for row in rows[start : start + 20]]
        of_block = {found.get(pair) for pair in block}
        assert len(of_block) == 1
        name = of_block.pop()
        if start == 88 * 20:
            assert name is None
            continue
        names.append(name)
        words = name.split()
        assert len(words) > 1 and words[0].lower() not in FUNCTION_WORDS
        assert not {"Has", "Did", "Does", "Is", "Can", "Author"} & set(words)
        assert sum(has_name("\n".join(pair), [name]) for pair in block) >= 17
    assert len(set(names)) == 199
    hard = {"Isabella van Pletzen", "Alejandro (Alex) Fuentes", "Sara van Dyke",
            "Femke Van der Veen", "Rafael Diaz", "Jina An", "Aurelio Beltrán"}  # fmt: skip
    assert hard <= set(names)
