"""Which numbers can be trusted, from made pools: two models, two targets, one unlearned model."""

import itertools

import pytest

from atu.attacks.quantise import FULL
from atu.attacks.relearn import AFTER, BEFORE
from atu.errors import ConfigError
from atu.reporting.meta import UTILITY, has_pools, meta_table
from atu.reporting.robustness import QUANTISED

PAIRS = list(itertools.product(("a", "b"), ("Ada", "Bob")))
EXACT, PROBABILITY = "exact_match@own-2", "tofu_probability@faithful-1"
ASKED = f"rephrase/target.question.{EXACT}"
LIKELY = f"privacy/target.{PROBABILITY}"
BEFORE_AND_AFTER = {
    "relearn": (f"relearn.target.{BEFORE}", f"relearn.target.{AFTER}"),
    "quantise": (f"quantise.target.{FULL}", f"quantise.target.{QUANTISED}"),
}


@pytest.fixture
def pools(store, make_params):
    """A function that gives the table of pools: `knowing` and `ignorant` give per key the number
    of each pair; `unlearned` are the numbers of GA on every pair. The split `select` has a number
    too, which is nobody's."""
    params = make_params(
        "relearn", "quantise", "lens",
        grid={"models": ["a", "b"], "targets": ["Ada", "Bob"], "methods": ["none", "oracle", "ga"]},
    )  # fmt: skip

    def folder(pair, method, numbers, seed=0):
        cell = {"model": pair[0], "target": pair[1], "method": method, "seed": seed}
        for phase in ("rephrase", "privacy", "attack"):
            own = {f"{k}/report": v for k, v in numbers.items() if k.startswith(f"{phase}/")}
            own |= {f"rephrase/target.cloze.{EXACT}/select": 1.0}
            place = f"{phase}/{'/'.join(pair)}/{method}/{seed}"
            yield store(place, phase, cell, metrics=own)

    def table(knowing, ignorant, unlearned=None, more=()):
        found = []
        for number, pair in enumerate(PAIRS):
            for method, pool in (("none", knowing), ("oracle", ignorant)):
                numbers = {k: v[number] if isinstance(v, list) else v for k, v in pool.items()}
                found += folder(pair, method, numbers)
            if unlearned:
                found += folder(pair, "ga", unlearned)
        return {row.key: row for row in meta_table([*found, *more], params)}

    table.folder = folder
    return table


def test_a_number_that_parts_the_pools(pools):
    """The least that knows has more than the most that never did: 1, whatever is drawn."""
    row = pools({ASKED: [0.5, 1, 1, 1]}, {ASKED: [0.4, 0, 0, 0]})[ASKED]
    assert (row.faithfulness, row.low, row.high) == (1, 1, 1) and not row.failed
    assert (row.knowing, row.ignorant, row.unlearned, row.robustness) == (4, 4, 0, None)


def test_whole_models_are_drawn(pools):
    """Model a stands above all oracles for both targets, model b below: 8 of 16 orderings are
    right. With a drawn twice all are, with b twice none."""
    row = pools({ASKED: [1, 1, 0, 0]}, {ASKED: [0.5, 0.5, 0.5, 0.5]})[ASKED]
    assert (row.faithfulness, row.low, row.high) == (0.5, 0, 1) and row.failed


def test_a_number_that_falls_with_knowledge(pools):
    """Familiarity is a loss: the knowing have less."""
    key = "privacy/forget.rwku_familiarity@faithful-1"
    assert pools({key: 10.0}, {key: 300.0})[key].faithfulness == 1
    assert pools({key: 300.0}, {key: 10.0})[key].failed


def test_what_is_no_measure_of_what_the_target_is_known_by(pools):
    """Others' questions, counts, the gap between wordings, a control, and of an attack the further
    metrics of answers, which have no count. What it says of all its answers has none either."""
    key = "attack/lens.target.{}.head_projection@fixed-1"
    attack = {key.format("gold"): 1.0, key.format("control"): 1.0}
    attack |= {f"{name}.n": 2.0 for name in attack}
    attack["attack/lens.target.context_leak@own-1"] = 0.5
    attack[f"attack/relearn.target.{AFTER}.{PROBABILITY}"] = 1.0
    others = {
        f"rephrase/neighbour.question.{EXACT}": 1.0, "rephrase/target.question.n": 1.0,
        f"rephrase/target.question.{EXACT}.seen_gap@own-1": 1.0,
    }  # fmt: skip
    found = pools({ASKED: 1.0} | attack | others, {ASKED: 0.0} | attack | others)
    assert set(found) == {ASKED, key.format("gold"), "attack/lens.target.context_leak@own-1"}


def test_what_one_pool_does_not_have_is_not_measured(pools):
    """No oracle has a PrivLeak: it is the reference itself."""
    key = "privacy/forget.muse_priv_leak@faithful-1"
    row = pools({ASKED: 1.0, key: -100.0}, {ASKED: 0.0})[key]
    assert (row.knowing, row.ignorant, row.faithfulness, row.failed) == (4, 0, None, False)


def test_only_pairs_with_both_numbers_count(pools):
    """The second pair's oracle could not be scored: nobody is above its original."""
    missing = {ASKED: [0, 0, 0, 0], LIKELY: [0, 0, 0, 0]}
    found = pools({ASKED: [1, 0, 1, 1], LIKELY: [1, 0, 1, 1]}, missing)
    assert found[ASKED].faithfulness == (3 + 0.5) / 4
    assert found[LIKELY].ignorant == 4


def attacked(metric, relearn, quantise):
    """The numbers of one model before and after both attacks."""
    return {
        f"attack/{place}.{metric}": value
        for name, pair in (("relearn", relearn), ("quantise", quantise))
        for place, value in zip(BEFORE_AND_AFTER[name], pair, strict=True)
    }


KNOWS = {LIKELY: 1.0, UTILITY: 1.0}
NEVER = {LIKELY: 0.0} | attacked(PROBABILITY, (0.0, 0.25), (0.0, 0.0))
FORGOT = {LIKELY: 0.25, UTILITY: 0.9} | attacked(PROBABILITY, (0.25, 0.75), (0.25, 0.5))


def test_robustness_by_hand(pools):
    """R = .25 / .5 and Q = .25 / .5, so .5. Worst forms are not what the attacks ask."""
    worst = f"rephrase/target.worst.{EXACT}"
    found = pools(KNOWS | {worst: 1.0}, NEVER | {worst: 0.0}, FORGOT | {worst: 0.0})
    row = found[LIKELY]
    assert (row.unlearned, row.relearning, row.quantisation) == (4, 0.5, 0.5)
    assert row.robustness == 0.5
    assert (found[worst].unlearned, found[worst].robustness) == (0, None)


def test_a_second_oracle_is_not_unlearned(pools):
    """It never knew, so what an attack moves in it says nothing of what comes back."""
    other = [a for pair in PAIRS for a in pools.folder(pair, "second_oracle", FORGOT)]
    assert pools(KNOWS, NEVER, FORGOT, more=other)[LIKELY].unlearned == 4
    assert pools(KNOWS, NEVER, more=other)[LIKELY].unlearned == 0


@pytest.mark.parametrize(
    "change",
    [{LIKELY: 0.51}, {UTILITY: 0.79}, {UTILITY: 0.8, LIKELY: 0.9}],
    ids=["it knows by this number", "it is ruined", "both bounds"],
)
def test_models_that_say_nothing_of_robustness(pools, change):
    """The threshold between the pools is .5, and utility must be .8 of the original's."""
    row = pools(KNOWS, NEVER, FORGOT | change)[LIKELY]
    assert (row.unlearned, row.relearning, row.quantisation) == (0, None, None)


def test_a_model_at_the_bounds_counts(pools):
    assert pools(KNOWS, NEVER, FORGOT | {LIKELY: 0.5, UTILITY: 0.8})[LIKELY].unlearned == 4


def test_an_attack_that_was_not_run(pools):
    """Quantisation alone: no robustness to relearning, and no harmonic mean."""
    without = {k: v for k, v in FORGOT.items() if "relearn" not in k}
    row = pools(KNOWS, NEVER, without)[LIKELY]
    assert (row.relearning, row.quantisation, row.robustness) == (None, 0.5, None)


def test_seeds_of_the_original_are_one_model(pools):
    """A second seed of unlearning has the same original and oracle: they count once."""
    again = [
        artifact
        for method, value in (("none", 0.0), ("oracle", 1.0))
        for artifact in pools.folder(PAIRS[0], method, {ASKED: value}, seed=1)
    ]
    row = pools({ASKED: 1.0}, {ASKED: 0.0}, more=again)[ASKED]
    assert (row.knowing, row.ignorant, row.faithfulness) == (4, 4, 1)


@pytest.mark.parametrize(
    "grid",
    [
        {"models": ["a"], "targets": ["Ada", "Bob", "Cyd"]},
        {"models": ["a", "b"], "methods": ["none", "ga"]},
        {"models": ["a", "b"], "methods": ["oracle", "ga"]},
    ],
    ids=["three pairs", "no oracle", "no original"],
)
def test_too_few_models_say_nothing(make_params, grid):
    usual = {"targets": ["Ada", "Bob"], "methods": ["none", "oracle", "ga"]}
    params = make_params(grid=usual | grid)
    assert not has_pools(params)
    assert has_pools(make_params(grid=usual | {"models": ["a", "b"]}))
    with pytest.raises(ConfigError, match="the meta-evaluation needs `none` and the oracle of 4"):
        meta_table([], params)
