"""The privacy table: means with intervals, numbers of whole cells, and AUCs over facts."""

from types import SimpleNamespace

import polars as pl
import pytest

from atu.metrics import membership as mia
from atu.metrics import memorisation as memo
from atu.privacy.texts import ATTACKS
from atu.reporting.privacy import (
    ANSWERS,
    AUCS,
    REFERENCE_AUC,
    SUMMARIES,
    TITLES,
    _drawn,
    _resampled,
    auc_estimates,
    privacy_table,
)

METHODS = ["none", "ga"]
LOSS = mia.membership_loss.id
GRADIENT = mia.membership_gradient_norm.id


@pytest.fixture
def tabulated(make_privacy, report_section):
    """A function that gives the rows from every cell's memory: `{(method, seed): memory}`."""

    def tabulate(memories, methods=METHODS):
        folders = [
            make_privacy(f"privacy/{method}/{seed}", {"method": method, "seed": seed}, memory)
            for (method, seed), memory in memories.items()
        ]
        return privacy_table(folders, report_section, methods)

    return tabulate


def test_every_column_of_every_row(tabulated):
    """The original remembers all, GA a quarter. Texts that score 1 more than any stranger's are
    told apart, those of a quarter more are so in 15 of 16 pairs."""
    rows = tabulated({("none", 0): 1.0, ("ga", 0): 0.25})
    assert [(row["model"], row["method"]) for row in rows] == [("m", "none"), ("m", "ga")]
    for row, memory in zip(rows, (1.0, 0.25), strict=True):
        assert set(TITLES) <= set(row)
        for name in (*ANSWERS, *SUMMARIES, REFERENCE_AUC):
            assert row[name].mean == memory
    assert {rows[0][name].mean for name in AUCS} == {1.0}
    assert rows[1][LOSS].mean == 15 / 16


def test_every_attack_of_the_phase_has_its_column():
    assert set(AUCS) == set(ATTACKS)
    assert len(set(TITLES.values())) == len(TITLES)


def test_only_questions_about_the_target(make_privacy, report_section):
    """Two facts; what is remembered of others, which is as it should be, does not count."""
    answers = [
        {"id": str(i), "fact": str(i), "role": role} | dict.fromkeys(ANSWERS, score)
        for i, (role, score) in enumerate([("target", 0.0), ("target", 0.5), ("other", 1.0)])
    ]
    folder = make_privacy("p", {}, 0.5, **{"answers.parquet": pl.DataFrame(answers)})
    (row,) = privacy_table([folder], report_section, ["none"])
    assert all((row[name].mean, row[name].n) == (0.25, 2) for name in ANSWERS)
    assert row[next(iter(ANSWERS))].low < 0.25 < row[next(iter(ANSWERS))].high


def test_a_question_without_a_score_is_invalid(make_privacy, report_section):
    answers = [
        {"id": str(i), "fact": str(i), "role": "target"} | dict.fromkeys(ANSWERS, score)
        for i, score in enumerate([0.0, None])
    ]
    folder = make_privacy("p", {}, 0.5, **{"answers.parquet": pl.DataFrame(answers)})
    (row,) = privacy_table([folder], report_section, ["none"])
    assert {(row[name].valid, row[name].n, row[name].n_scored) for name in ANSWERS} == {
        (False, 2, 1)
    }


def test_numbers_of_whole_cells_of_one_target_have_no_interval(tabulated):
    """Two seeds, .25 and .75; their n is the number of cells."""
    (row,) = tabulated({("ga", 0): 0.25, ("ga", 1): 0.75}, ["ga"])
    for name in (*SUMMARIES, REFERENCE_AUC):
        found = row[name]
        assert (found.mean, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 2)


def test_a_number_that_a_cell_does_not_have_is_not_valid(make_privacy, report_section):
    """Of two seeds one has no PrivLeak: no mean of the other passes for both."""
    one, other = (make_privacy(f"p/{seed}", {"seed": seed}, 0.5) for seed in (0, 1))
    name = f"forget.{memo.muse_priv_leak.id}"
    less = {key: value for key, value in other.metrics().items() if name not in key}
    lacking = SimpleNamespace(cell=other.cell, file=other.file, metrics=lambda: less)
    found = privacy_table([one, lacking], report_section, ["none"])[0][name]
    assert (found.valid, found.n, found.n_scored) == (False, 2, 1)


def test_texts_that_official_code_cannot_read_are_shown_where_there_are_any(
    make_privacy, report_section
):
    """Two of Ada's answers; no passage, so passages have no line."""
    folder = make_privacy("p", {}, 0.5)
    answers, passages = (name for name in SUMMARIES if name.endswith(".blind"))
    found = folder.metrics() | {f"privacy/{answers}/report": 2, f"privacy/{passages}/report": 0}
    cell = SimpleNamespace(cell=folder.cell, file=folder.file, metrics=lambda: found)
    (row,) = privacy_table([cell], report_section, ["none"])
    assert row[answers].mean == 2
    assert passages not in row


def test_rows_are_of_their_own_method(tabulated):
    """GA's cell changes nothing of the original's row."""
    first = tabulated({("none", 0): 0.5, ("ga", 0): 0.25})[0]
    second = tabulated({("none", 0): 0.5, ("ga", 0): 1.0})[0]
    assert first == second


# Intervals of an AUC


def texts(forget, holdout, seed=0, column=LOSS):
    """Texts from their scores by fact: `[[scores of a fact], ...]` of both sides."""
    return pl.DataFrame(
        [
            {"target": "Ada", "seed": seed, "corpus": corpus, "fact": f"{corpus}{i}", column: score}
            for corpus, facts in (("forget", forget), ("holdout", holdout))
            for i, fact in enumerate(facts)
            for score in fact
        ],
        schema_overrides={column: pl.Float64},
    )


def auc_estimate(table, score, section):
    return auc_estimates(table, [score], section)[score]


def test_scores_that_are_apart_have_an_exact_auc(report_section):
    """Whatever is drawn, all members are above all others: 1 with no width. The other way round 0,
    and .5 where all are the same."""
    high, low, same = [[3.0, 2.0], [4.0]], [[1.0], [0.0, -1.0]], [[1.0, 1.0], [1.0]]
    for sides, expected in (((high, low), 1.0), ((low, high), 0.0), ((same, same), 0.5)):
        found = auc_estimate(texts(*sides), LOSS, report_section)
        assert (found.mean, found.low, found.high) == (expected,) * 3
        assert found.n == 6


def test_the_point_is_the_auc_of_all_texts(report_section):
    """Of the 4 pairs one is the wrong way round and one a tie: 2.5 / 4."""
    found = auc_estimate(texts([[1.0], [3.0]], [[1.0], [2.0]]), LOSS, report_section)
    assert found.mean == 0.625
    assert found.low < 0.625 < found.high


def test_a_resample_has_the_auc_of_its_texts(report_section):
    """Facts of several texts, with ties: every resample by all pairs of the texts drawn."""
    sides = [[[0.1, 0.4], [0.4], [0.9, 0.2, 0.3]], [[0.4, 0.3], [0.2], [0.8]]]
    counts = _drawn(0, 50, "loss", 3, 3)
    assert all((side.sum(axis=1) == 3).all() for side in counts)
    by_hand = []
    for drawn in zip(*counts, strict=True):
        texts = [
            [score for fact, times in zip(side, each, strict=True) for score in fact * times]
            for side, each in zip(sides, drawn, strict=True)
        ]
        by_hand.append(mia.auc(*texts))
    assert _resampled(sides, counts) == pytest.approx(by_hand)


@pytest.mark.parametrize("swapped", [False, True])
def test_both_sides_are_drawn(report_section, swapped):
    """One side varies between facts, the other does not: whichever it is, the interval is wide,
    from 0 (only its lower fact drawn) to 1."""
    varied, fixed = [[0.0], [2.0]], [[1.0], [1.0]]
    sides = (fixed, varied) if swapped else (varied, fixed)
    found = auc_estimate(texts(*sides), LOSS, report_section)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("swapped", [False, True])
def test_facts_are_drawn_and_not_their_wordings(report_section, swapped):
    """One fact per side with wordings far apart: nothing to draw, no width."""
    sides = ([[0.0, 2.0, 4.0]], [[1.0, 3.0]])
    found = auc_estimate(texts(*(sides[::-1] if swapped else sides)), LOSS, report_section)
    assert found.low == found.mean == found.high == 0.5


def test_texts_of_other_corpora_do_not_count(report_section):
    own = texts([[1.0], [3.0]], [[1.0], [2.0]])
    more = own.with_columns(corpus=pl.lit("retain"), score=9.0).select(own.columns)
    both = pl.concat([own, more])
    assert auc_estimate(both, LOSS, report_section) == auc_estimate(own, LOSS, report_section)


def test_seeds_are_averaged_and_not_mixed(report_section):
    """Seed 0 tells the sides apart and seed 1 does so the wrong way round: (1 + 0) / 2. Mixed, the
    scores of seed 1, which are larger, would make it something else."""
    both = pl.concat([texts([[2.0]], [[1.0]]), texts([[10.0]], [[20.0]], seed=1)])
    found = auc_estimate(both, LOSS, report_section)
    assert (found.mean, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 4)


def test_of_several_targets_these_are_drawn(report_section):
    """One is told apart, the other the wrong way round: 1, .5 or 0, though no fact of either
    varies. Of a whole cell's number likewise."""
    both = pl.concat([
        texts([[2.0]], [[1.0]]),
        texts([[1.0]], [[2.0]]).with_columns(target=pl.lit("Eve")),
    ])  # fmt: skip
    found = auc_estimate(both, LOSS, report_section)
    assert (found.mean, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 4)


def test_numbers_of_whole_cells_have_an_interval_over_targets(make_privacy, report_section):
    cells = [make_privacy(f"p/{t}", {"target": t}, x) for t, x in (("Ada", 0.25), ("Eve", 0.75))]
    row = privacy_table(cells, report_section, ["none"])[0]
    for name in (*SUMMARIES, REFERENCE_AUC):
        assert (row[name].mean, row[name].low, row[name].high, row[name].n) == (0.5, 0.25, 0.75, 2)


def test_texts_that_were_not_chosen_for_a_score_are_not_counted(report_section):
    """Gradient norms are taken of some texts only: 2 of these 4."""
    part = texts([[1.0, None]], [[0.0, None]], column=GRADIENT)
    found = auc_estimate(part, GRADIENT, report_section)
    assert (found.mean, found.n, found.valid) == (1.0, 2, True)


def test_the_same_texts_give_the_same_interval(report_section):
    table = texts([[1.0], [3.0], [0.5]], [[1.0], [2.0]])
    assert auc_estimate(table, LOSS, report_section) == auc_estimate(table, LOSS, report_section)
