"""The embedded world as a benchmark; its probes and corpora are tested with the phase `prepare`."""

from atu.benchmarks.base import sentence_row
from atu.benchmarks.world import MEMBERSHIP_FORMS, members
from atu.results.tables import read_table


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
