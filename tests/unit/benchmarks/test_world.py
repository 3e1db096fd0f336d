"""The embedded world as a benchmark; its probes and corpora are tested with the phase `prepare`."""

from dataclasses import replace

import pytest

from atu.benchmarks.base import sentence_row
from atu.benchmarks.world import MEMBERSHIP_FORMS, members, prepare, shared
from atu.results.tables import read_table
from atu.untrusted.targets import Target


@pytest.fixture(scope="module")
def made(mini_params):
    """A function that gives the miniature's shared tables and one target's, by `two_hops`."""
    target = Target((mini_params.grid.targets[0],))

    def make(two_hops):
        settings = replace(mini_params.prepare, two_hops=two_hops)
        corpus = shared(settings, {})
        return corpus, prepare(settings, target, corpus.corpus, {})

    return make


def test_two_hops_that_are_not_requested_only_leave_the_forget_corpus(made):
    """8 attributes, 3 texts each."""
    (corpus, asked), (same, silent) = made("requested"), made("unrequested")
    assert (same, silent.retain, silent.probes) == (corpus, asked.retain, asked.probes)
    gone = [row for row in asked.forget if row not in silent.forget]
    assert {row["form"] for row in gone} == {"two_hop"} and len(gone) == 8 * 3
    assert len(silent.forget) == len(asked.forget) - len(gone)


def test_dropped_two_hops_are_neither_trained_nor_asked(made):
    """All else is as it was; of everybody's facts another form is probed in their place."""
    (corpus, asked), (fewer, dropped) = made("requested"), made("dropped")

    def without(rows):
        return [row for row in rows if row["form"] != "two_hop"]

    assert fewer.corpus == without(corpus.corpus) != corpus.corpus
    assert fewer.facts == corpus.facts
    for table in ("forget", "retain", "holdout", "members", "probes"):
        assert getattr(dropped, table) == without(getattr(asked, table)), table
    assert len(fewer.probes) == len(corpus.probes) and without(fewer.probes) == fewer.probes


def rows(corpus, forms, kinds):
    return [
        sentence_row(f"{corpus} {form} {kind}", kind=kind, form=form)
        for form in forms
        for kind in kinds
    ]


def test_only_what_is_told_alike_is_compared():
    """Forms and attributes that the holdout people have too: of the forget texts neither choices
    nor what is said of a spouse, which no holdout person has."""
    found = members(
        rows("forget", ["question", "cloze", "choice"], ["pet", "spouse"])
        + rows("forget", ["passage"], ["biography"]),
        rows("retain", ["question", "reverse"], ["food", "sea"]),
        rows("holdout", MEMBERSHIP_FORMS[1:], ["pet", "food"])
        + rows("holdout", ["passage"], ["biography"]),
    )
    kinds = {(r["corpus"], r["form"], r["type"]) for r in found}
    assert {pair[1:] for pair in kinds if pair[0] == "forget"} == {
        ("question", "pet"), ("cloze", "pet"), ("passage", "biography"),
    }  # fmt: skip
    assert {pair[1:] for pair in kinds if pair[0] == "retain"} == {("question", "food")}


def test_the_miniatures_sets_are_told_alike(chain):
    """Forget and holdout texts have the same forms and attributes, and no retain text names the
    target."""
    found = read_table(chain.prepared.file("members.parquet"))
    forget, holdout = (
        {(r["form"], r["type"]) for r in found if r["corpus"] == corpus}
        for corpus in ("forget", "holdout")
    )
    assert forget == holdout
    assert {form for form, _ in holdout} == set(MEMBERSHIP_FORMS)
    target = chain.prepared.cell["target"]
    assert all((target in r["text"]) == (r["corpus"] == "forget") for r in found)
