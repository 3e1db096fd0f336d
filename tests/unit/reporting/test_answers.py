"""Which answers the page shows, chosen by a rule."""

import polars as pl
import pytest

from atu.phases.rephrase import ITEMS
from atu.reporting.answers import COLUMNS, amid_counts, answer_groups, is_amid, shown_methods
from atu.results.items import SCORE

FACTS = [f"Ada/{number}" for number in range(5)]


@pytest.fixture
def items(make_item):
    """Two methods and the original about five facts: GA answers the second as a cloze, both others
    nothing; the original knows all. One wording stands in the corpus."""

    def row(method, fact, form, role="target", hit=0.0, **own):
        item = make_item(fact, form, hit=hit, role=role, **own)
        return item | {"model": "m", "target": "Ada", "method": method, "seed": 0}

    rows = []
    for method in ("none", "ga", "npo"):
        known = float(method == "none")
        rows.append(row(method, "Ada/seen", "question", seen=True))
        for fact in FACTS:
            rows += [row(method, fact, form, hit=known) for form in ("question", "choice", "cloze")]
        rows.append(row(method, "Bob/0", "question", "neighbour", hit=1.0))
    for item in rows:
        if (item["method"], item["fact"], item["form"]) == ("ga", "Ada/1", "cloze"):
            item |= {"output": "owl", SCORE: 1.0}
    schema = ITEMS | {
        "model": pl.String,
        "target": pl.String,
        "method": pl.String,
        "seed": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_the_first_facts_are_asked_plainly_and_as_they_leak_most(items):
    """Four facts, no seen wording; the fact that leaks stands first, of equals the first form."""
    plain, worst, kept = answer_groups(items, ["none", "ga", "npo"])
    assert [probe["query"] for probe in plain.probes] == [f"{f} as question?" for f in FACTS[:4]]
    assert [probe["form"] for probe in worst.probes] == ["cloze", "choice", "choice", "choice"]
    assert worst.probes[0]["query"] == "Ada/1 as cloze?"
    assert worst.probes[0]["answers"]["ga"] == {"output": "owl", "score": 1.0, "amid": False}
    assert worst.probes[0]["answers"]["npo"]["score"] == 0.0
    assert (len(kept.probes), kept.title, kept.kept) == (1, "Neighbours", True)
    assert not plain.kept and not worst.kept


def test_without_neighbours_others_are_shown_and_without_both_nobody(items):
    others = items.with_columns(role=pl.col("role").replace("neighbour", "other"))
    assert answer_groups(others, ["none", "ga"])[2].title == "Other people"
    alone = items.filter(pl.col("role") == "target")
    assert [group.kept for group in answer_groups(alone, ["ga"])] == [False, False]


@pytest.mark.parametrize(
    ("output", "score", "amid"),
    [("an owl-h-h-h", 0.0, True), ("owl", 1.0, False), ("owls", 0.0, False), ("owl", None, False)],
)
def test_a_right_answer_amid_other_words_has_no_point(output, score, amid):
    """By whole words; what has its point is no such case, and what was not scored says nothing."""
    assert is_amid("owl", output, score) is amid


def test_right_answers_amid_other_words_are_counted(items):
    """About the target in wordings no corpus has: 5 facts in two forms without a choice."""
    choice = items.with_columns(
        options=pl.when(pl.col("form") == "choice")
        .then(pl.lit(["owl", "elk"]))
        .otherwise(pl.col("options")),
        output=pl.when((pl.col("method") == "npo") & (pl.col("fact") != "Ada/0"))
        .then(pl.lit("the owl, of course"))
        .otherwise(pl.col("output")),
    )
    assert amid_counts(choice, ["ga", "npo"]) == {"ga": (0, 10), "npo": (8, 10)}


def test_who_is_shown():
    """The original, the oracle and ours, then as many as there is room for."""
    methods = ["ga", "none", "npo", "atu", "rmu", "simnpo", "wga", "oracle"]
    assert shown_methods(methods, "atu") == ["none", "oracle", "atu", "ga", "npo", "rmu"]
    assert len(shown_methods(methods, "atu")) == COLUMNS
    assert shown_methods(["ga"], "atu") == ["ga"]
