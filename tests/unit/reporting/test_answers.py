"""Which answers the page shows, chosen by a rule."""

import polars as pl
import pytest

from atu.phases.rephrase import ITEMS
from atu.reporting.answers import COLUMNS, answer_groups, shown_methods
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
    """Four facts, no seen wording; of equals the first form."""
    plain, worst, kept = answer_groups(items, ["none", "ga", "npo"])
    assert [probe["query"] for probe in plain.probes] == [f"{f} as question?" for f in FACTS[:4]]
    assert [probe["form"] for probe in worst.probes] == ["choice", "cloze", "choice", "choice"]
    assert worst.probes[1]["answers"]["ga"] == {"output": "owl", "score": 1.0}
    assert worst.probes[1]["answers"]["npo"]["score"] == 0.0
    assert (len(kept.probes), kept.title, kept.kept) == (1, "Neighbours", True)
    assert not plain.kept and not worst.kept


def test_without_neighbours_others_are_shown_and_without_both_nobody(items):
    others = items.with_columns(role=pl.col("role").replace("neighbour", "other"))
    assert answer_groups(others, ["none", "ga"])[2].title == "Other people"
    alone = items.filter(pl.col("role") == "target")
    assert [group.kept for group in answer_groups(alone, ["ga"])] == [False, False]


def test_who_is_shown():
    """The original, the oracle and ours, then as many as there is room for."""
    methods = ["ga", "none", "npo", "atu", "rmu", "simnpo", "wga", "oracle"]
    assert shown_methods(methods, "atu") == ["none", "oracle", "atu", "ga", "npo", "rmu"]
    assert len(shown_methods(methods, "atu")) == COLUMNS
    assert shown_methods(["ga"], "atu") == ["ga"]
