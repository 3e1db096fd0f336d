"""The measures of TOFU, open-unlearning and MUSE, each worked out by hand."""

import itertools
import math
from math import log

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import hmean, ks_2samp

from atu.errors import EvaluationError
from atu.metrics.membership import auc
from atu.metrics.memorisation import (
    _tiny_p,
    exact_memorisation,
    extraction_strength,
    extraction_strength_fixed,
    muse_priv_leak,
    muse_verbatim,
    open_unlearning_option_probability,
    open_unlearning_tofu_truth_ratio,
    open_unlearning_truth_ratio,
    tofu_forget_quality,
    tofu_forget_truth_ratio,
    tofu_model_utility,
    tofu_option_probability,
    tofu_probability,
    tofu_retain_truth_ratio,
    tofu_truth_ratio,
    tofu_truth_ratio_paper,
)
from atu.metrics.muse_knowledge import (
    muse_knowledge,
    muse_knowledge_fixed,
    open_unlearning_knowledge,
)
from atu.metrics.tofu_recall import tofu_rouge_l_recall

# scipy says so where rounding carries a p-value near 1 above it.
pytestmark = pytest.mark.filterwarnings("ignore:ks_2samp. Exact calculation unsuccessful")

PARAPHRASED = log(2)  # a probability of 1/2
PERTURBED = [log(2), log(8)]  # 1/2 and 1/8
OF_LOSSES = [
    tofu_option_probability,
    open_unlearning_option_probability,
    tofu_truth_ratio,
    tofu_truth_ratio_paper,
    open_unlearning_tofu_truth_ratio,
    open_unlearning_truth_ratio,
]
LOSSES = st.floats(0, 20)
RATIOS = st.lists(st.floats(0, 1e6), min_size=1, max_size=20)
NINE = st.lists(st.floats(0.001, 1), min_size=9, max_size=9)
MATCHES = st.lists(st.booleans(), min_size=1, max_size=20)
SAMPLE = st.lists(st.integers(0, 30), min_size=2, max_size=20)


def apart(first, second):
    """Two samples of the given sizes that do not overlap."""
    return list(range(1, first + 1)), list(range(first + 1, first + second + 1))


def test_probability_is_the_geometric_mean_of_the_tokens():
    """sqrt(1/2 * 1/8) = 1/4."""
    assert tofu_probability(np.log([1 / 2, 1 / 8])) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("correct", "wrong", "expected"),
    [(0.3, [0.1, 0.2], 0.5), (0.2, [0.2, 0.2, 0.2], 0.25), (1e-99, [0.5], 0.0), (0.5, [1e-99], 1)],
)
def test_option_probability(correct, wrong, expected):
    """Probabilities, as their losses."""
    found = tofu_option_probability(-log(correct), [-log(share) for share in wrong])
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("the old clocks", "old tall clock", 2 / 3),
        ("old tall clock and more", "old tall clock", 1.0),
        ("old clock", "the old tall clock tower", 2 / 5),
        ("", "old clock", 0.0),
        (
            "The author's full name is Hsiao Yun-Hwa, a writer.",
            "The author's full name is Hsiao Yun-Hwa.",
            1.0,
        ),
        ("I'm not sure about that.", "The author's full name is Hsiao Yun-Hwa.", 0.0),
        ("Her father was a civil engineer.", "Her father is a civil engineer.", 5 / 6),
    ],
)
def test_rouge_l_recall(answer, gold, expected):
    """The stemmer makes clock of clocks. In the last both have six words and differ in one."""
    assert tofu_rouge_l_recall(answer, gold) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (tofu_truth_ratio, 1 / 2),  # sqrt(1/2 * 1/8) / (1/2)
        (tofu_truth_ratio_paper, 5 / 8),  # (5/16) / (1/2)
        (open_unlearning_truth_ratio, 2 / 3),  # (1/2) / (1/2 + 1/4)
    ],
)
def test_truth_ratio(ratio, expected):
    assert ratio(PARAPHRASED, PERTURBED) == pytest.approx(expected)


def test_truth_ratio_of_a_model_that_prefers_the_falsehood():
    """1/8 for the truth, 1/2 for the falsehood: R = 4, and a fifth of the sum."""
    assert tofu_truth_ratio(log(8), [log(2)]) == pytest.approx(4)
    assert tofu_truth_ratio_paper(log(8), [log(2)]) == pytest.approx(4)
    assert open_unlearning_truth_ratio(log(8), [log(2)]) == pytest.approx(1 / 5)


def test_truth_ratio_of_a_ruined_model():
    """Probabilities below 1e-300 keep their ratio in TOFU's; open-unlearning's 1e-10 swallows
    them. exp(1000) has no float."""
    assert tofu_truth_ratio(800.0, [801.0, 801.0]) == pytest.approx(math.exp(-1))
    assert tofu_truth_ratio_paper(800.0, [801.0, 801.0]) == pytest.approx(math.exp(-1))
    assert open_unlearning_truth_ratio(50.0, [50.0]) == pytest.approx(0, abs=1e-6)
    assert tofu_truth_ratio(1000.0, [0.0]) == math.inf
    assert tofu_truth_ratio_paper(1000.0, [0.0]) == math.inf


@given(LOSSES, st.lists(LOSSES, min_size=1, max_size=5))
def test_arithmetic_mean_is_at_least_the_geometric(paraphrased, perturbed):
    geometric = tofu_truth_ratio(paraphrased, perturbed)
    assert tofu_truth_ratio_paper(paraphrased, perturbed) >= geometric * (1 - 1e-9)


@given(LOSSES, LOSSES)
def test_one_perturbed_answer_has_one_mean(paraphrased, perturbed):
    ratio = tofu_truth_ratio(paraphrased, [perturbed])
    assert tofu_truth_ratio_paper(paraphrased, [perturbed]) == pytest.approx(ratio)


@given(st.floats(0, 10), st.lists(st.floats(0, 10), min_size=1, max_size=5))
def test_open_unlearning_ratio_is_tofus_on_another_scale(paraphrased, perturbed):
    """c / (c + w) = 1 / (1 + R) as long as the probabilities are far above 1e-10."""
    ratio = tofu_truth_ratio(paraphrased, perturbed)
    found = open_unlearning_truth_ratio(paraphrased, perturbed)
    assert found == pytest.approx(1 / (1 + ratio), abs=1e-5)


@pytest.mark.parametrize("ratio", OF_LOSSES)
@pytest.mark.parametrize(
    ("paraphrased", "perturbed", "named"),
    [
        (1.0, [], "wrong answers"),
        (float("nan"), [1.0], "right answer"),
        (1.0, [1.0, float("inf")], "wrong answers: value 1 is inf"),
        (-1.0, [1.0], "below 0"),
        (1.0, [1.0, -1.0], "below 0"),
    ],
)
def test_no_truth_ratio(ratio, paraphrased, perturbed, named):
    with pytest.raises(EvaluationError, match=named):
        ratio(paraphrased, perturbed)


def test_forget_truth_ratio():
    """(1/2 + 1/4 + 1) / 3."""
    assert tofu_forget_truth_ratio([0.5, 4.0, 1.0]) == pytest.approx(7 / 12)


def test_retain_truth_ratio():
    """(1/2 + 0 + 3/4) / 3."""
    assert tofu_retain_truth_ratio([0.5, 4.0, 0.25]) == pytest.approx(5 / 12)


def test_ratios_without_bounds():
    assert tofu_forget_truth_ratio([0.0, math.inf]) == 0.0
    assert tofu_retain_truth_ratio([0.0, math.inf]) == 0.5


@given(RATIOS)
def test_aggregates_are_fractions(ratios):
    assert 0 <= tofu_forget_truth_ratio(ratios) <= 1
    assert 0 <= tofu_retain_truth_ratio(ratios) <= 1


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_forget_truth_ratio_of_the_reciprocals(ratios):
    found = tofu_forget_truth_ratio([1 / r for r in ratios])
    assert found == pytest.approx(tofu_forget_truth_ratio(ratios))


@pytest.mark.parametrize("ratios", [[], [0.5, float("nan")], [0.5, -0.1], 0.5])
def test_no_ratios(ratios):
    for aggregate in (tofu_forget_truth_ratio, tofu_retain_truth_ratio):
        with pytest.raises(EvaluationError, match="truth ratio"):
            aggregate(ratios)


def test_model_utility():
    """9 / (8 * 1 + 1 / 0.5) = 0.9; of fewer parts, as open-unlearning may have, 3 / (4 + 2 + 1)."""
    assert tofu_model_utility([1.0] * 8 + [0.5]) == pytest.approx(0.9)
    assert tofu_model_utility([0.25, 0.5, 1.0]) == pytest.approx(3 / 7)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lowest", [0.0, 5e-324])
def test_one_zero_ruins_the_utility(lowest):
    assert tofu_model_utility([1.0] * 8 + [lowest]) == 0.0


@given(NINE)
def test_utility_is_between_the_lowest_score_and_the_mean(scores):
    found = tofu_model_utility(scores)
    assert min(scores) * (1 - 1e-9) <= found <= np.mean(scores) * (1 + 1e-9)
    assert found <= 9 * min(scores) * (1 + 1e-9)
    assert found == pytest.approx(hmean(scores))


def test_utility_of_nothing():
    with pytest.raises(EvaluationError, match="parts of the model utility"):
        tofu_model_utility([])


@pytest.mark.parametrize("bad", [-0.1, 1.1, 50.0, float("nan"), float("inf")])
def test_utility_of_no_fraction(bad):
    """50 would be a per cent."""
    with pytest.raises(EvaluationError, match="model utility"):
        tofu_model_utility([0.5] * 8 + [bad])


@pytest.mark.parametrize(
    ("unlearned", "retain", "p"),
    [
        ([1, 2, 3], [4, 5, 6], 2 / 20),  # 2 of C(6, 3) orders
        ([1, 2], [3, 4], 2 / 6),
        ([1, 2], [1, 2], 1.0),
        ([1, 3], [2, 4], 1.0),  # distance 1/2: every order of two and two has that
        ([1, 2], [3, 4, 5], 2 / 10),  # 2 of C(5, 2) orders
    ],
)
def test_forget_quality_by_counting_orders(unlearned, retain, p):
    assert tofu_forget_quality(unlearned, retain) == pytest.approx(math.log10(p))
    assert tofu_forget_quality(retain, unlearned) == pytest.approx(math.log10(p))


def test_forget_quality_recorded():
    """scipy 1.17.1: ks_2samp(range(40), range(20, 60)).pvalue = 6.5768913245274e-05."""
    found = tofu_forget_quality(list(range(40)), list(range(20, 60)))
    assert found == pytest.approx(math.log10(6.5768913245274e-05))


def test_forget_quality_of_identical_samples_is_zero():
    sample = [0.1, 0.7, 0.7, math.inf]
    assert tofu_forget_quality(sample, sample) == 0.0
    assert math.copysign(1, tofu_forget_quality(sample, sample)) == 1


def test_forget_quality_of_400_items():
    """The published extreme, 1.06e-239, is 2 / C(800, 400): no two samples of TOFU do worse."""
    found = tofu_forget_quality(*apart(400, 400))
    assert found == pytest.approx(-238.9732, abs=1e-4)


def test_forget_quality_of_unequal_sizes_stays_exact_within_floats():
    """2 / C(700, 300), where the asymptotic value would be -148.6."""
    expected = math.log10(2) - math.log10(math.comb(700, 300))
    assert tofu_forget_quality(*apart(400, 300)) == pytest.approx(expected)
    assert expected == pytest.approx(-205.791, abs=1e-3)


@pytest.mark.parametrize("size", [600, 1000])
def test_forget_quality_beyond_floats(size):
    """scipy says 0; the exact 2 / C(2n, n) is about 2 sqrt(pi n) / 4^n."""
    first, second = apart(size, size)
    assert ks_2samp(first, second).pvalue == 0
    stirling = math.log10(2 * math.sqrt(math.pi * size)) - size * math.log10(4)
    assert tofu_forget_quality(first, second) == pytest.approx(stirling, abs=1e-3)


def test_forget_quality_of_unequal_sizes_beyond_floats():
    """2 exp(-2 * 700 * 900 / 1600) has the log10 0.30103 - 787.5 * 0.4342945 = -341.7059."""
    first, second = apart(700, 900)
    assert ks_2samp(first, second).pvalue == 0
    assert tofu_forget_quality(first, second) == pytest.approx(-341.7059, abs=1e-4)


@given(st.integers(2, 60), st.data())
def test_tiny_p_of_equal_sizes_is_scipys(size, data):
    """Where scipy has a number the count of paths has the same: all distances from 1/n to 1."""
    shift = data.draw(st.integers(1, size))
    first, second = list(range(size)), list(range(shift, size + shift))
    expected = math.log10(ks_2samp(first, second).pvalue)
    assert _tiny_p(shift / size, size, size) == pytest.approx(expected, abs=1e-9)


def test_tiny_p_of_unequal_sizes_is_no_smaller_than_scipys():
    first, second = apart(100, 150)
    exact = tofu_forget_quality(first, second)
    assert exact < _tiny_p(1.0, 100, 150) < 0.7 * exact


def test_forget_quality_falls_with_the_distance():
    """Also across the border where floats end."""
    found = [tofu_forget_quality(range(600), range(k, 600 + k)) for k in range(0, 601, 20)]
    assert all(a > b or a == b == 0 for a, b in itertools.pairwise(found))
    assert found[-1] < -308 < found[-4]


@given(SAMPLE, SAMPLE)
def test_forget_quality_is_scipys_and_symmetric(first, second):
    found = tofu_forget_quality(first, second)
    assert found == pytest.approx(math.log10(ks_2samp(first, second).pvalue))
    assert found == pytest.approx(tofu_forget_quality(second, first))
    assert found <= 0


@given(SAMPLE, SAMPLE)
def test_forget_quality_of_the_reciprocal_ratios(first, second):
    """One official script holds R, the other 1/R."""
    turned = tofu_forget_quality([1 / (1 + x) for x in first], [1 / (1 + x) for x in second])
    assert turned == pytest.approx(tofu_forget_quality(first, second))


@pytest.mark.parametrize("retain", [None, [], np.array([])])
def test_forget_quality_needs_a_reference(retain):
    with pytest.raises(EvaluationError, match=r"retain-only \(oracle\) reference"):
        tofu_forget_quality([0.5], retain)


@pytest.mark.parametrize(
    ("unlearned", "retain", "named"),
    [
        ([], [0.5], "unlearned model"),
        ([float("nan")], [0.5], "unlearned model"),
        ([0.5], [float("nan")], "retain-only model"),
        ([0.5], [-1.0], "retain-only model"),
    ],
)
def test_forget_quality_names_the_side(unlearned, retain, named):
    with pytest.raises(EvaluationError, match=named):
        tofu_forget_quality(unlearned, retain)


@pytest.mark.parametrize(
    ("pattern", "memorised", "strength", "fixed"),
    [
        ("1011", 3 / 4, 1 / 2, 1 / 2),
        ("1111", 1.0, 1.0, 1.0),
        ("110", 2 / 3, 1 / 3, 0.0),
        ("001", 1 / 3, 1 / 3, 1 / 3),
        ("0000", 0.0, 1 / 4, 0.0),
        ("1", 1.0, 1.0, 1.0),
        ("0", 0.0, 1.0, 0.0),
        ("", None, 0.0, None),
    ],
)
def test_memorised_tokens(pattern, memorised, strength, fixed):
    """1 is a match. The official loop cannot tell "001" from "110" and calls one wrong token
    extracted; an answer without tokens is 0 there."""
    matches = np.array([c == "1" for c in pattern])
    assert exact_memorisation(matches) == (
        memorised if memorised is None else pytest.approx(memorised)
    )
    assert extraction_strength(matches) == pytest.approx(strength)
    assert extraction_strength_fixed(matches) == (fixed if fixed is None else pytest.approx(fixed))


def official_strength(matches):
    """The loop as the official code words it."""
    k = 0
    for k in range(len(matches)):
        if all(matches[k:]):
            break
    return 1 - k / len(matches)


@given(MATCHES)
def test_extraction_strength_is_the_loops(matches):
    assert extraction_strength(matches) == pytest.approx(official_strength(matches))


@given(MATCHES)
def test_extracted_tokens_are_memorised(matches):
    fixed = extraction_strength_fixed(matches)
    assert fixed <= exact_memorisation(matches)
    assert fixed == (pytest.approx(extraction_strength(matches)) if matches[-1] else 0)


@pytest.mark.parametrize("matches", [[1, 0], [0.5], [[True]], True])
def test_matches_are_booleans(matches):
    for score in (exact_memorisation, extraction_strength, extraction_strength_fixed):
        with pytest.raises(ValueError, match="booleans"):
            score(matches)


@pytest.mark.parametrize(
    ("output", "truth", "expected"),
    [
        ("the old clock", "old tall clock tower", 4 / 7),  # precision 2/3, recall 2/4
        ("the old clocks", "old tall clock tower", 2 / 7),  # no stemmer: only "old"
        ("OLD, tall clock", "old tall clock", 1.0),
        ("", "old tall clock", 0.0),
        (
            "Mr Dursley was the director of a firm called Grunnings",
            "Mr Dursley was director of the firm Grunnings, which made drills",
            2 * 7 / 21,  # mr dursley was director of firm grunnings: 7 of 10 and of 11
        ),
    ],
)
def test_verbatim(output, truth, expected):
    assert muse_verbatim(output, truth) == pytest.approx(expected)


def test_knowledge():
    """ "the cello" for "cello": precision 1/2, recall 1; every line counts, "the cello a harp" is 1
    of 4 words. Only open-unlearning has a stemmer."""
    assert muse_knowledge("the cello", "cello") == pytest.approx(2 / 3)
    assert muse_knowledge("the cello\na harp", "cello") == pytest.approx(2 / 5)
    assert muse_knowledge("cellos", "cello") == 0.0 < open_unlearning_knowledge("cellos", "cello")


def test_a_split_word_is_joined_where_it_is_decoded():
    """ "do n't" is decoded as "don't", words don and t: all of "don't" and none of the 2 of "do
    n't". MUSE's gold answer is not decoded, open-unlearning's is."""
    for knowledge in (muse_knowledge, muse_knowledge_fixed, open_unlearning_knowledge):
        assert knowledge("do n't", "don't") == 1.0
    assert muse_knowledge("do n't", "do n't") == muse_knowledge_fixed("do n't", "do n't") < 1.0
    assert open_unlearning_knowledge("do n't", "do n't") == 1.0


@given(LOSSES, st.lists(LOSSES, min_size=1, max_size=3))
def test_open_unlearnings_ratio_is_tofus_where_answers_are_likely(right, wrong):
    """Its 1e-10 weighs nothing beside a probability of e^-9."""
    found = open_unlearning_tofu_truth_ratio(right, wrong)
    if right < 9:
        assert found == pytest.approx(tofu_truth_ratio(right, wrong), rel=1e-5)
    assert found <= tofu_truth_ratio(right, wrong) * (1 + 1e-9)


def test_open_unlearnings_option_probability():
    """Three options of 1e-10 and the 1e-10 of the denominator: 1/4."""
    tiny = -log(1e-10)
    assert open_unlearning_option_probability(0.0, [0.0]) == pytest.approx(0.5)
    assert open_unlearning_option_probability(tiny, [tiny, tiny]) == pytest.approx(1 / 4)
    assert open_unlearning_option_probability(1e4, [1e4]) == 0.0


@pytest.mark.parametrize(
    ("unlearned", "retrained", "expected"),
    [
        (1.0, 0.5, -100),  # untouched: forget texts are told apart
        (0.75, 0.5, -50),
        (0.5, 0.5, 0),
        (0.25, 0.5, 50),
        (0.0, 0.5, 100),  # over-unlearned: forget texts are the least likely
        (0.6, 0.2, -50),  # (0.4 - 0.8) / 0.8
        (0.2, 0.6, 100),  # (0.8 - 0.4) / 0.4
        (1.0, 1 - 0.4772, -100),  # MUSE News
        (0.0, 1 - 0.4772, 109.556),  # 1 / 0.4772 - 1
        (0.0, 1 - 0.5393, 85.426),  # MUSE Books: 1 / 0.5393 - 1
    ],
)
def test_priv_leak(unlearned, retrained, expected):
    assert muse_priv_leak(unlearned, retrained) == pytest.approx(expected, abs=1e-3)


def test_priv_leak_from_scores():
    """Orientation from Min-K scores on: forget texts as members of `auc`, and MUSE's own AUC, which
    labels forget 0 and holdout 1 and ranks by minus the negated score."""
    forget, holdout = [-0.1, -0.2, -0.3], [-3.0, -4.0, -5.0]
    assert muse_priv_leak(auc(forget, holdout), 0.5) == pytest.approx(-100)
    assert muse_priv_leak(auc(holdout, forget), 0.5) == pytest.approx(100)
    own = np.mean([h > f for f in forget for h in holdout])
    assert (own - 0.5) / 0.5 * 100 == muse_priv_leak(auc(forget, holdout), 0.5)


@given(st.floats(0, 1), st.floats(0, 0.99))
def test_priv_leak_has_the_sign_of_the_difference(unlearned, retrained):
    assume(abs(unlearned - retrained) > 1e-9)
    found = muse_priv_leak(unlearned, retrained)
    assert found >= -100
    assert (found > 0) == (unlearned < retrained)


def test_priv_leak_has_no_default_reference():
    with pytest.raises(EvaluationError, match=r"retain-only \(retrained\) reference"):
        muse_priv_leak(0.5, None)


def test_priv_leak_of_a_reference_that_divides_by_zero():
    with pytest.raises(EvaluationError, match="divides by zero"):
        muse_priv_leak(0.5, 1.0)


@pytest.mark.parametrize("bad", [-0.1, 1.1, 52.0, float("nan")])
def test_priv_leak_of_no_auc(bad):
    with pytest.raises(EvaluationError, match="unlearned AUC"):
        muse_priv_leak(bad, 0.5)
    with pytest.raises(EvaluationError, match="retrained AUC"):
        muse_priv_leak(0.5, bad)


@pytest.mark.parametrize("values", [[], [float("nan")], [-float("inf")]])
def test_no_probability(values):
    with pytest.raises(EvaluationError, match="log-probabilities"):
        tofu_probability(values)
