"""The robustness table: every column from its own items, one row per model and method."""

import polars as pl
import pytest

from atu import attacks
from atu.attacks.base import Column, Proof
from atu.attacks.relearn import AFTER, BEFORE, TAUGHT
from atu.metrics.recovery import (
    meta_eval_robustness,
    recovery,
    relearning_gain,
    relearning_steps,
)
from atu.probes.prompts import ADVERSARIAL, ASIDE, ORT
from atu.reporting.items import estimate, load_attacks, load_items
from atu.reporting.robustness import (
    REPHRASED,
    column_items,
    is_weak,
    rephrased_columns,
    robustness_table,
    shown_columns,
    summary_table,
    with_notes,
)
from atu.reporting.tables import markdown_robustness
from atu.results.items import PROBABILITY

METHODS = ["none", "ga"]
EMPTY = {"model": pl.String, "method": pl.String, "attack": pl.String, "role": pl.String}
ALL = ("sampling", "relearn", "quantise", "context", "lens", "depth", "fresh_predictor")


@pytest.fixture
def tabulated(make_cell, make_params, ga_leaks):
    """A function that gives the table of the original, all of whose attacks score 1, and of GA,
    whose attacks have these scores or rows."""

    def tabulate(names, given=None, **own):
        params = make_params(*names)
        cells = [
            make_cell("none", attacks=dict.fromkeys(names, 1.0)),
            make_cell("ga", leaks=ga_leaks, attacks=given or dict.fromkeys(names, 0.0), **own),
        ]
        return robustness_table(
            load_items([cell["rephrase"] for cell in cells]),
            load_attacks([cell[f"attack/{name}"] for cell in cells for name in names]),
            params.report, params.attack, names, METHODS,
        )  # fmt: skip

    return tabulate


def test_columns_are_what_was_asked_and_then_every_attack_in_the_order_of_the_grid(make_params):
    section = make_params().attack
    shown = shown_columns(section, ["lens", "quantise"])
    assert shown[: len(REPHRASED)] == list(REPHRASED)
    assert [(column.key, column.control) for column in shown[len(REPHRASED) :]] == [
        ("lens.0", False), ("lens.1", True), ("quantise.0", False), ("quantise.1", False),
    ]  # fmt: skip
    assert shown_columns(section, ["quantise", "lens"])[len(REPHRASED)].key == "quantise.0"
    assert shown_columns(section, []) == list(REPHRASED)


def test_no_two_columns_share_a_key_or_a_title(make_params):
    shown = shown_columns(make_params().attack, ALL)
    assert len({column.key for column in shown}) == len(shown)
    assert len({column.title for column in shown}) == len(shown)


def test_every_shown_column_is_in_every_row(tabulated, make_params):
    rows = tabulated(ALL)
    keys = {column.key for column in shown_columns(make_params().attack, ALL)}
    assert [row["method"] for row in rows] == METHODS
    for row in rows:
        assert set(row) == keys | {"model", "method"}
        assert all(row[key].valid for key in keys)


def test_what_was_asked(tabulated):
    """GA answers no held-out question, both seen ones, one of two as a cloze, none as a choice or
    beside a partner's, and both partners'. ORT's largest probability is that of the cloze."""
    original, ga = tabulated([])
    assert {original[column.key].mean for column in REPHRASED} == {1.0}
    assert {column.key: ga[column.key].mean for column in REPHRASED} == {
        "question": 0.0, "question_seen": 1.0, "worst_adversarial": 0.0, "ort": 0.5, "worst": 0.5,
        "alias": 0.0, "two_hop": 0.0, "paired": 0.0, "partner": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "forms"),
    [
        ("worst_adversarial", set(ADVERSARIAL)),
        ("paired", {"paired"}),
        ("alias", {"alias"}),
        ("two_hop", {"two_hop"}),
        ("worst", {"question", "cloze", "two_hop", "spelling", "paired", *ADVERSARIAL}),
    ],
)
def test_a_form_counts_in_its_own_columns_only(make_item, report_section, key, forms):
    """One form leaks, all others do not; seen wordings of it never count."""
    every = ["question", "cloze", "two_hop", "alias", "spelling", "paired", *ADVERSARIAL]
    for leaking in every:
        rows = [
            make_item(
                form=form, hit=float(form == leaking), worst_of=ASIDE if form == "alias" else None
            )
            for form in every
        ]
        rows += [make_item(form=form, hit=1.0, seen=True) for form in every]
        items = pl.DataFrame([row | {"target": "Ada", "seed": 0} for row in rows])
        assert rephrased_columns(items, report_section)[key].mean == float(leaking in forms)


@pytest.mark.parametrize("leaking", ["question", "two_hop", "role_play", *ORT])
def test_ort_is_the_largest_probability_over_its_own_forms(make_item, report_section, leaking):
    """Not the largest exact match, and not over other forms, which have no probability."""
    forms = dict.fromkeys([*ORT, "two_hop", "role_play"])
    rows = [
        make_item(form=form, hit=1.0, **({PROBABILITY: 0.75 if form == leaking else 0.25}))
        for form in forms
    ]
    items = pl.DataFrame([row | {"target": "Ada", "seed": 0} for row in rows])
    expected = 0.75 if leaking in ORT else 0.25
    assert rephrased_columns(items, report_section)["ort"].mean == expected


@pytest.mark.parametrize("column", REPHRASED, ids=lambda column: column.key)
def test_a_way_of_asking_that_nothing_was_asked_in_is_invalid(make_item, report_section, column):
    """An old or smaller set of probes: no crash, and no number."""
    items = pl.DataFrame([make_item("Cyd/pet", role="other") | {"target": "Ada", "seed": 0}])
    found = rephrased_columns(items, report_section)[column.key]
    assert not found.valid and found.n_scored == 0


def test_every_attack_has_its_own_file(tabulated, make_params):
    """Every attack of GA has another score, which is that of all of its columns; differences
    between two conditions are 0, and depth is shown as what it leaves. The original's are 1."""
    given = {name: number / 8 for number, name in enumerate(ALL, 1)}
    original, ga = tabulated(ALL, given)
    for name, score in given.items():
        for number, column in enumerate(columns_of(make_params(), name)):
            key = f"{name}.{number}"
            for row, own in ((ga, score), (original, 1.0)):
                shown = 1 - own if column.inverted else 0.0 if column.minus else own
                assert row[key].mean == shown, column


def columns_of(params, name):
    settings = params.attack.attacks[name]
    return attacks.get(settings.attack).columns(settings)


def test_two_entries_of_one_attack_are_two_columns(mini_values, make_params, make_cell):
    """The same attack under two names with other settings."""
    section = make_params("lens").attack
    lens = section.attacks["lens"]
    attack = section.model_copy(update={"attacks": {"lens": lens, "lens_b": lens}})
    names = ["lens", "lens_b"]
    one, other = (make_cell("ga", where=n, attacks={"lens": float(n == "lens")}) for n in names)
    attacked = pl.concat(
        [
            load_attacks([cell["attack/lens"]]).with_columns(attack=pl.lit(name))
            for cell, name in zip((one, other), names, strict=True)
        ]
    )
    items = load_items([one["rephrase"]])
    (row,) = robustness_table(items, attacked, make_params().report, attack, names, ["ga"])
    assert (row["lens.0"].mean, row["lens_b.0"].mean) == (1.0, 0.0)


def test_controls_are_of_their_own_role_and_condition(tabulated, make_attack_row):
    """Relearning: of the target .75 after, of the control .25; nothing of what was before."""
    given = [
        make_attack_row(condition, f"{who}/pet", score, role=role)
        for who, role, before, after in (("Ada", "target", 0, 0.75), ("Zoe", "control", 0, 0.25))
        for condition, score in ((BEFORE, before), (AFTER, after))
    ]
    _, ga = tabulated(["relearn"], {"relearn": given})
    assert (ga["relearn.0"].mean, ga["relearn.0"].n) == (0.75, 1)
    assert (ga["relearn.1"].mean, ga["relearn.1"].n) == (0.25, 1)


@pytest.mark.parametrize("given", [[], None], ids=["no rows", "rows of another condition"])
def test_an_attack_without_a_conditions_items_is_invalid(tabulated, make_attack_row, given):
    rows = given if given is not None else [make_attack_row("other", "Ada/pet", 1.0)]
    original, ga = tabulated(["lens"], {"lens": rows})
    assert not ga["lens.0"].valid and ga["lens.0"].n_scored == 0
    assert original["lens.0"].valid


def test_an_item_that_could_not_be_scored_makes_its_column_invalid(tabulated, make_attack_row):
    """In context: one of two questions had not enough sentences; the bound has all."""
    given = [
        make_attack_row(condition, f"Ada/{fact}", None if fact == "food" else 1.0)
        for fact in ("pet", "food")
        for condition in ("hinted", "unrelated")
    ] + [make_attack_row("answered", f"Ada/{fact}", 1.0) for fact in ("pet", "food")]
    _, ga = tabulated(["context"], {"context": given})
    assert (ga["context.0"].n, ga["context.0"].n_scored) == (2, 1)
    assert ga["context.1"].valid


# One column's items


@pytest.fixture
def attacked(make_attack_row):
    """A function that gives items from `{(condition, fact): score}`."""

    def make(scores, **own):
        rows = [make_attack_row(c, fact, score, **own) for (c, fact), score in scores.items()]
        return with_cell(rows)

    return make


def with_cell(rows):
    schema = {"score": pl.Float64, "output": pl.String}
    frame = pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)
    return frame.with_columns(target=pl.lit("Ada"), seed=pl.lit(0))


def scores(items, column):
    found = column_items(items, column)
    return dict(zip(found["fact"].to_list(), found["score"].to_list(), strict=True))


def test_a_column_is_the_largest_score_over_its_conditions(attacked):
    """Per item: a is worse for f, b for g; c is not asked for."""
    items = attacked(
        {("a", "f"): 0.5, ("b", "f"): 0.25, ("c", "f"): 1.0, ("a", "g"): 0.0, ("b", "g"): 0.75}
    )
    assert scores(items, Column("x", ("a", "b"))) == {"f": 0.5, "g": 0.75}
    assert scores(items, Column("x", ("b",))) == {"f": 0.25, "g": 0.75}


def test_no_largest_score_where_a_condition_was_not_scored(attacked, report_section):
    """f was scored under one condition only: the other may have been the larger."""
    items = attacked({("a", "f"): 1.0, ("b", "f"): None, ("a", "g"): 0.0, ("b", "g"): 0.5})
    column = Column("x", ("a", "b"))
    assert scores(items, column) == {"f": None, "g": 0.5}
    found = estimate(column_items(items, column), report_section, "score")
    assert (found.valid, found.n, found.n_scored) == (False, 2, 1)


def test_what_is_high_where_knowledge_is_gone_is_shown_as_what_is_left(attacked):
    """1 minus the score: the largest of 1 - .75 and 1 - .25."""
    items = attacked({("a", "f"): 0.75, ("b", "f"): 0.25, ("a", "g"): None})
    assert scores(items, Column("x", ("a", "b"), inverted=True)) == {"f": 0.75, "g": None}


def test_a_difference_of_conditions_is_taken_item_by_item(attacked):
    """f: 1 - .25, g: .5 - .5; the order in which the conditions stand does not matter."""
    items = attacked(
        {("b", "g"): 0.5, ("a", "f"): 1.0, ("b", "f"): 0.25, ("a", "g"): 0.5, ("c", "f"): 9.0}
    )
    column = Column("x", ("a",), minus="b")
    assert scores(items, column) == {"f": 0.75, "g": 0.0}
    assert scores(items.reverse(), column) == {"f": 0.75, "g": 0.0}


def test_a_difference_pairs_within_target_and_seed(attacked):
    """The same question of another seed or target has its own other side."""
    column = Column("x", ("a",), minus="b")
    parts = [
        attacked({("a", "f"): 1.0, ("b", "f"): other}).with_columns(
            target=pl.lit(target), seed=pl.lit(seed)
        )
        for target, seed, other in (("Ada", 0, 0.0), ("Ada", 1, 0.25), ("Eve", 0, 0.5))
    ]
    found = column_items(pl.concat(parts), column)
    assert found.select("target", "seed", "score").rows() == [
        ("Ada", 0, 1.0), ("Ada", 1, 0.75), ("Eve", 0, 0.5),
    ]  # fmt: skip


@pytest.mark.parametrize("missing", ["not scored", "not asked"])
def test_a_difference_without_its_other_side_is_not_scored(attacked, report_section, missing):
    """Neither as if the other side were 0, nor left out."""
    given = {("a", "f"): 1.0, ("b", "f"): 0.5, ("a", "g"): 1.0}
    if missing == "not scored":
        given[("b", "g")] = None
    items = attacked(given)
    column = Column("x", ("a",), minus="b")
    assert scores(items, column) == {"f": 0.5, "g": None}
    assert not estimate(column_items(items, column), report_section, "score").valid


def test_a_column_is_of_one_role(make_attack_row):
    rows = [make_attack_row("a", "f", 1.0), make_attack_row("a", "g", 0.5, role="other")]
    assert scores(with_cell(rows), Column("x", ("a",))) == {"f": 1.0}
    assert scores(with_cell(rows), Column("x", ("a",), role="other")) == {"g": 0.5}


def test_wordings_of_a_fact_stay_apart_and_are_one_cluster(make_attack_row, report_section):
    """Two questions about one fact are two items and one draw."""
    rows = [make_attack_row("a", "f", score, number=i) for i, score in enumerate((1.0, 0.0))]
    found = column_items(with_cell(rows), Column("x", ("a",)))
    assert len(found) == 2
    one = estimate(found, report_section, "score")
    assert (one.mean, one.low, one.high, one.n) == (0.5, 0.5, 0.5, 2)


# Numbers from several conditions


@pytest.fixture
def summarised(make_cell, make_params, make_attack_row):
    """A function that gives the summary from scores of relearning and quantisation: per method
    (before, after, control before, control after, int4)."""

    def summarise(scores, names=("relearn", "quantise"), oracle="oracle"):
        found = []
        for method, (before, after, c_before, c_after, coarse) in scores.items():
            given = {
                "relearn": [
                    make_attack_row(condition, f"{who}/pet", score, role=role)
                    for role, who, pair in (
                        ("target", "Ada", (before, after)), ("control", "Zoe", (c_before, c_after)),
                    )
                    for condition, score in zip((BEFORE, AFTER), pair, strict=True)
                ],
                "quantise": [make_attack_row("int4", "Ada/pet", coarse)],
            }  # fmt: skip
            cell = make_cell(method, attacks={name: given[name] for name in names})
            found += [cell[f"attack/{name}"] for name in names]
        attack = make_params(*names).attack
        return summary_table(load_attacks(found), attack, names, list(scores), oracle, found)

    return summarise


SCORES = {
    "none": (0.9, 0.9, 0.0, 0.1, 0.9),
    "oracle": (0.1, 0.3, 0.0, 0.1, 0.1),
    "ga": (0.2, 0.6, 0.0, 0.1, 0.25),
}


def test_recovery_gain_and_meta_evaluation(summarised):
    """GA: (.6 - .2) / (.9 - .2) came back; .4 on the target less .1 on the control; R = .2 / .4 and
    Q = .2 / .25 have the harmonic mean .8 / 1.3. Neither the original nor the oracle has the last;
    the original forgot nothing, so nothing can come back."""
    rows = {row["method"]: row for row in summarised(SCORES)}
    ga = rows["ga"]
    assert ga[recovery.id] == pytest.approx(0.4 / 0.7)
    assert ga[relearning_gain.id] == pytest.approx(0.3)
    assert ga[meta_eval_robustness.id] == pytest.approx(0.8 / 1.3)
    assert rows["none"][recovery.id] is None
    assert rows["none"][relearning_gain.id] == pytest.approx(-0.1)
    assert rows["none"][meta_eval_robustness.id] is rows["oracle"][meta_eval_robustness.id] is None


def test_a_summary_needs_relearning_and_its_other_parts(summarised):
    assert summarised(SCORES, ("quantise",)) == []
    assert all(row[meta_eval_robustness.id] is None for row in summarised(SCORES, ("relearn",)))
    assert all(row[meta_eval_robustness.id] is None for row in summarised(SCORES, oracle=None))


def test_a_summary_over_items_that_were_not_all_scored_is_none(summarised):
    """No number over what is left, and no nan in a table."""
    scores = SCORES | {"ga": (0.2, None, 0.0, 0.1, 0.25)}
    ga = summarised(scores)[-1]
    assert [ga[m.id] for m in (recovery, relearning_gain, meta_eval_robustness)] == [None] * 3


def test_steps_are_averaged_over_targets_and_seeds(store, make_params):
    """The target's 10 and 30, the control's 60; of a method without the attack there are none."""
    attack = make_params("relearn").attack
    folders = [
        store(
            f"{method}/{seed}", "attack", {"method": method, "seed": seed, "attack": "relearn"},
            metrics={
                f"attack/relearn.{role}.{relearning_steps.id}/report": steps
                for role, steps in (("target", target), ("control", 60.0))
            },
        )
        for method, seed, target in (("ga", 0, 10.0), ("ga", 1, 30.0), ("atu", 0, 99.0))
    ]  # fmt: skip
    items = pl.DataFrame({"model": ["m"], "method": ["ga"], "attack": ["relearn"]}).with_columns(
        condition=pl.lit(""), role=pl.lit(""), score=pl.lit(0.0)
    )
    ga, npo = summary_table(items, attack, ["relearn"], ["ga", "npo"], None, folders)
    keys = [f"{role}.{relearning_steps.id}" for role in ("target", "control")]
    assert [ga[key] for key in keys] == [20.0, 60.0]
    assert [npo[key] for key in keys] == [None, None]


# What a reader must know before a line


PROVEN = Column("x", ("a",), proof=Proof("taught", 0.9, "too little was taught"))


def test_a_line_is_weak_where_its_positive_control_fails_in_one_cell(attacked):
    """.95 on average in the first cell; in the second 1 and .7. A line without a control is never
    weak, nor one without items."""

    def cell(seed, *scores):
        given = {("taught", f"f{i}"): score for i, score in enumerate(scores)} | {("a", "g"): 0.0}
        return attacked(given).with_columns(seed=pl.lit(seed))

    good, bad = cell(0, 0.9, 1.0), cell(1, 1.0, 0.7)
    assert not is_weak(good, PROVEN)
    assert is_weak(bad, PROVEN) and is_weak(pl.concat([good, bad]), PROVEN)
    assert not is_weak(bad, Column("x", ("a",)))
    assert not is_weak(bad.clear(), PROVEN)


def test_a_line_without_its_positive_control_is_weak(attacked):
    """Of an older run, or of another role: nothing shows that the attack works."""
    assert is_weak(attacked({("a", "f"): 0.0}), PROVEN)
    other = attacked({("taught", "f"): 1.0, ("a", "f"): 0.0}, role="control")
    assert is_weak(other, PROVEN)


def test_notes_name_the_methods_of_which_a_line_is_weak(make_cell, make_params, make_attack_row):
    """GA's target learns half of what it is taught, its control all; the original both."""
    params = make_params("relearn", "lens")
    names = ["relearn", "lens"]

    def relearned(taught):
        return [
            make_attack_row(condition, f"{who}/pet", score, role=role)
            for role, who, learned in (("target", "Ada", taught), ("control", "Zoe", 1.0))
            for condition, score in ((BEFORE, 0.0), (AFTER, 0.0), (TAUGHT, learned))
        ]

    cells = [
        make_cell(method, attacks={"relearn": relearned(taught), "lens": 0.5})
        for method, taught in (("none", 1.0), ("ga", 0.5))
    ]
    attacked = load_attacks([cell[f"attack/{name}"] for cell in cells for name in names])
    items = load_items([cell["rephrase"] for cell in cells])
    rows = robustness_table(items, attacked, params.report, params.attack, names, METHODS)
    called = {"ga": "Gradient ascent"}
    shown = shown_columns(params.attack, names)
    shown = with_notes(shown, attacked, params.attack, names, rows, called)
    noted = {column.key: column for column in shown if column.note}
    assert list(noted) == ["relearn.0"]
    column = noted["relearn.0"]
    assert column.marked == "relearned on other facts †"
    assert column.note == (
        "the taught facts stayed below 0.95 in 2 steps, so a low number may be a weak fine-tune's "
        "(Gradient ascent)"
    )
    assert markdown_robustness(rows, shown, {}).endswith(f"\n† {column.title}: {column.note}.\n")


def test_a_line_that_is_invalid_throughout_says_what_it_lacks(tabulated, make_params):
    """Depth without an oracle; scored for one method, it needs no note."""
    none = [make_row(None)]
    attack = make_params("depth").attack
    for given, noted in (({"depth": none}, True), ({"depth": 0.5}, False)):
        rows = tabulated(["depth"], given)[1:]
        (column,) = with_notes(
            shown_columns(attack, ["depth"])[-1:],
            pl.DataFrame(schema=EMPTY),
            attack,
            ["depth"],
            rows,
            {},
        )
        assert column.note.startswith("needs the original and an oracle") == noted
        assert rows[0]["depth.0"].valid != noted


def make_row(score):
    return {
        "condition": "patched into the original", "metric": "unlearning_depth@paper-1",
        "id": "Ada/pet/0", "fact": "Ada/pet", "role": "target", "score": score, "output": None,
    }  # fmt: skip


def test_the_table_is_the_same_for_items_in_any_order(make_cell, make_params):
    """Intervals included."""
    params = make_params()
    items = load_items([make_cell("ga", leaks={("Ada/pet", "cloze")})["rephrase"]])
    first, second = (
        robustness_table(part, pl.DataFrame(), params.report, params.attack, [], ["ga"])
        for part in (items, items.sort("id", descending=True))
    )
    assert first == second
