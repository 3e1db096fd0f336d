"""What a model still knows: the measures of TOFU, open-unlearning and MUSE.

A loss is a mean negative log-probability per token in nats; a normalised probability is
exp(-loss), the geometric mean of the probabilities of the tokens. Scores are fractions in [0, 1]
unless said otherwise.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atu.errors import EvaluationError
from atu.metrics.membership import Floats, finite_values
from atu.metrics.registry import metric
from atu.metrics.rouge import BLIND, rouge_l, rouge_l_any_script

Bools: TypeAlias = NDArray[np.bool_]
TOFU = "TOFU, arXiv 2401.06121"
OPEN_UNLEARNING = "open-unlearning: src/evals/metrics/memorization.py"
MUSE = "MUSE, arXiv 2407.06460"
UTILITY_PARTS = 9
"""Probability, ROUGE and truth ratio on three sets."""
TINY = 1e-10
"""What open-unlearning adds to denominators."""


@metric(
    "tofu_probability", "faithful-1", source=f"{TOFU}: aggregate_eval_stat.py", knowledge="rises"
)
def tofu_probability(log_probs: ArrayLike) -> float:
    """Normalised probability of the answer, P(a|q)^(1/|a|), in [0, 1].

    `log_probs` [tokens] in nats. Token probabilities 1/2 and 1/8 give sqrt(1/16) = 0.25.

    Raises:
        EvaluationError: no tokens or a log-probability that is not finite.
    """
    return math.exp(finite_values(log_probs, "log-probabilities").mean())


@metric(
    "tofu_option_probability",
    "faithful-2",
    source=f"{TOFU}: aggregate_eval_stat.py, Real Authors and World Facts",
    defect="the paper's ratio is of P(a|q), the code's of P(a|q)^(1/|a|) (open-unlearning#26)",
    knowledge="rises",
)
def tofu_option_probability(correct_loss: float, wrong_losses: Sequence[float]) -> float:
    """The correct option's share of the normalised probabilities of all options, in [0, 1].

    From losses, so that a model under which every probability is 0 as a float has a share as well.
    Probabilities 0.3 against (0.1, 0.2) give 0.3 / 0.6 = 0.5.

    Raises:
        EvaluationError: no wrong option, or a loss that is not finite or below 0.
    """
    correct, wrong = _losses(correct_loss, wrong_losses)
    return float(1 / (1 + _exp(correct - wrong).sum()))


def _losses(right: float, wrong: Sequence[float]) -> tuple[float, Floats]:
    """Both arguments, checked.

    Raises:
        EvaluationError: no wrong answer, or a loss that is not finite or below 0.
    """
    one = finite_values([right], "loss of the right answer")
    others = finite_values(wrong, "losses of the wrong answers")
    if min(one.min(), others.min()) < 0:
        raise EvaluationError("a loss is below 0: pass mean negative log-probabilities")
    return float(one[0]), others


def _exp(values: ArrayLike) -> Floats:
    """The exponential, inf where it overflows: a ruined model loses hundreds of nats."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(values), dtype=np.float64)


@metric(
    "tofu_truth_ratio",
    "faithful-1",
    source=f"{TOFU}: evaluate_util.py and aggregate_eval_stat.py (which holds 1 / R)",
    defect="geometric mean over the perturbed answers where the paper has the arithmetic one",
    knowledge="falls",
)
def tofu_truth_ratio(paraphrased_loss: float, perturbed_losses: Sequence[float]) -> float:
    """exp(-mean perturbed loss) / exp(-paraphrased loss), at least 0, inf on overflow.

    Below 1 the true answer is likelier. The paraphrased answer is the base on the forget and
    retain sets, the answer itself on Real Authors and World Facts. Probabilities (1/2, 1/8), mean
    1/4, over 1/2 give 0.5.

    Raises:
        EvaluationError: no perturbed answer, or a loss that is not finite or below 0.
    """
    paraphrased, perturbed = _losses(paraphrased_loss, perturbed_losses)
    return float(_exp(paraphrased - perturbed.mean()))


@metric(
    "tofu_truth_ratio", "paper-1", source=f"{TOFU}; its utils.py, model utility", knowledge="falls"
)
def tofu_truth_ratio_paper(paraphrased_loss: float, perturbed_losses: Sequence[float]) -> float:
    """Arithmetic mean of the perturbed answers' normalised probabilities over the paraphrased's.

    At least 0, inf on overflow, and never below `faithful-1`. Probabilities (1/2, 1/8), mean 5/16,
    over 1/2 give 0.625.

    Raises:
        EvaluationError: no perturbed answer, or a loss that is not finite or below 0.
    """
    paraphrased, perturbed = _losses(paraphrased_loss, perturbed_losses)
    return float(_exp(paraphrased - perturbed).mean())


@metric(
    "open_unlearning_tofu_truth_ratio",
    "faithful-1",
    source=f"{OPEN_UNLEARNING}, aggregators `closer_to_1_better` and `true_better`",
    defect="its 1e-10 in the denominator outweighs the probabilities of a ruined model: 0 instead "
    "of what they are to each other",
    knowledge="falls",
)
def open_unlearning_tofu_truth_ratio(
    paraphrased_loss: float, perturbed_losses: Sequence[float]
) -> float:
    """`tofu_truth_ratio@faithful-1` as w / (c + 1e-10), at least 0.

    c is the paraphrased answer's normalised probability, w the geometric mean of the perturbed
    ones'. A set's score is `tofu_forget_truth_ratio` or `tofu_retain_truth_ratio` of it. c = 1/2
    against (1/2, 1/8) gives 0.5.

    Raises:
        EvaluationError: no perturbed answer, or a loss that is not finite or below 0.
    """
    paraphrased, perturbed = _losses(paraphrased_loss, perturbed_losses)
    return math.exp(-perturbed.mean()) / (math.exp(-paraphrased) + TINY)


@metric(
    "open_unlearning_option_probability",
    "faithful-1",
    source=f"{OPEN_UNLEARNING} probability_w_options",
    defect="its 1e-10 in the denominator outweighs the options of a ruined model",
    knowledge="rises",
)
def open_unlearning_option_probability(correct_loss: float, wrong_losses: Sequence[float]) -> float:
    """`tofu_option_probability` with 1e-10 added to the denominator, in [0, 1[.

    0 where every probability is 0.

    Raises:
        EvaluationError: no wrong option, or a loss that is not finite or below 0.
    """
    correct, wrong = _losses(correct_loss, wrong_losses)
    probability = math.exp(-correct)
    return float(probability / (probability + np.exp(-wrong).sum() + TINY))


@metric(
    "open_unlearning_truth_ratio",
    "faithful-1",
    source=f"{OPEN_UNLEARNING}, aggregator `prob_mean` (open-unlearning#163)",
    defect="its 1e-10 in the denominator outweighs c and w of a ruined model: 0 instead of 0.5",
    knowledge="rises",
)
def open_unlearning_truth_ratio(
    paraphrased_loss: float, perturbed_losses: Sequence[float]
) -> float:
    """The true answer's share c / (c + w + 1e-10) in [0, 1], above 0.5 where it is likelier.

    Here c is the paraphrased answer's normalised probability and w the geometric mean of the
    perturbed ones'; the score of a set is the plain mean. c = 1/2 against (1/2, 1/8), w = 1/4,
    gives (1/2) / (3/4) = 2/3.

    Raises:
        EvaluationError: no perturbed answer, or a loss that is not finite or below 0.
    """
    paraphrased, perturbed = _losses(paraphrased_loss, perturbed_losses)
    correct, wrong = math.exp(-paraphrased), math.exp(-perturbed.mean())
    return correct / (correct + wrong + TINY)


def _ratios(values: ArrayLike, what: str) -> Floats:
    """Truth ratios [items]; inf is one, a ruined model's.

    Raises:
        EvaluationError: no ratio, or one that is NaN or below 0; names `what`.
    """
    ratios = np.asarray(values, dtype=np.float64)
    if ratios.ndim != 1 or not ratios.size or not (ratios >= 0).all():  # NaN >= 0 is false
        raise EvaluationError(f"{what}: needs at least one truth ratio, each at least 0")
    return ratios


@metric(
    "tofu_forget_truth_ratio",
    "faithful-1",
    source=f"{TOFU}: aggregate_eval_stat.py, forget set",
    knowledge="falls",
)
def tofu_forget_truth_ratio(ratios: Sequence[float]) -> float:
    """Mean of min(R, 1/R) in [0, 1]; 1: true and false answers are equally likely.

    Ratios 0.5, 4 and 1 give (0.5 + 0.25 + 1) / 3 = 7/12.

    Raises:
        EvaluationError: no ratio, or one that is NaN or below 0.
    """
    checked = _ratios(ratios, "tofu_forget_truth_ratio")
    with np.errstate(divide="ignore", over="ignore"):
        return float(np.minimum(checked, 1 / checked).mean())


@metric(
    "tofu_retain_truth_ratio",
    "faithful-1",
    source=f"{TOFU}: aggregate_eval_stat.py, retain set, Real Authors and World Facts",
    knowledge="rises",
)
def tofu_retain_truth_ratio(ratios: Sequence[float]) -> float:
    """Mean of max(0, 1 - R) in [0, 1]; 1: false answers are impossible.

    Ratios 0.5, 4 and 0.25 give (0.5 + 0 + 0.75) / 3 = 5/12.

    Raises:
        EvaluationError: no ratio, or one that is NaN or below 0.
    """
    return float(np.maximum(0, 1 - _ratios(ratios, "tofu_retain_truth_ratio")).mean())


@metric(
    "tofu_model_utility",
    "faithful-1",
    source=f"{TOFU}: aggregate_eval_stat.py; open-unlearning's hm_aggregate",
)
def tofu_model_utility(values: Sequence[float]) -> float:
    """Harmonic mean in [0, 1] of probability, ROUGE and truth ratio on three sets.

    The sets are retain, Real Authors and World Facts; the caller has all `UTILITY_PARTS` or none.
    Any 0 makes it 0. Eight times 1 and once 0.5 give 9 / (8 + 2) = 0.9.

    Raises:
        EvaluationError: no score, one outside [0, 1] or not finite.
    """
    parts = finite_values(values, "parts of the model utility")
    if parts.min() < 0 or parts.max() > 1:
        raise EvaluationError(f"parts of the model utility {values}: each in [0, 1]")
    with np.errstate(divide="ignore", over="ignore"):  # 1/0 is inf, and n/inf is 0, as intended
        return float(len(parts) / (1 / parts).sum())


@metric(
    "tofu_forget_quality",
    "faithful-1",
    source=f"{TOFU}: aggregate_eval_stat.py, `ks_2samp` of scipy; as log10",
    knowledge="falls",
)
def tofu_forget_quality(unlearned: Sequence[float], retain_model: Sequence[float] | None) -> float:
    """log10 of the p-value that both models' truth ratios on the forget set are alike, at most 0.

    Two-sample Kolmogorov-Smirnov test between the unlearned model's ratios per item and those of a
    model trained on the retain set alone. It only sees ranks, so R and 1/R give the same. Samples
    of n each that do not overlap have p = 2 / C(2n, n): (1, 2, 3) against (4, 5, 6) gives
    log10(2 / 20) = -1, and 400 items, TOFU's most, -238.97. Identical samples give 0.

    Where scipy's p-value underflows to 0 the logarithm is computed instead: exactly for samples of
    one size, the same items under two models; for unequal ones an upper bound.

    Raises:
        EvaluationError: no retain-only reference, no ratio, or one that is NaN or below 0.
    """
    if retain_model is None or not len(retain_model):
        raise EvaluationError(
            "tofu_forget_quality: needs the truth ratios of a retain-only (oracle) reference, a "
            "model trained without the forget data; none was given"
        )
    from scipy.stats import ks_2samp

    first = _ratios(unlearned, "tofu_forget_quality, unlearned model")
    second = _ratios(retain_model, "tofu_forget_quality, retain-only model")
    test = ks_2samp(first, second)
    if test.pvalue >= sys.float_info.min:
        return math.log10(test.pvalue)
    return _tiny_p(float(test.statistic), len(first), len(second))


def _tiny_p(distance: float, first: int, second: int) -> float:
    """log10 of a two-sided KS p-value that is too small for a float.

    Equal sizes n: exact, by counting in whole numbers the paths that leave a band of half width
    h = n * distance: 2 * (C(2n, n-h) - C(2n, n-2h) + ...) / C(2n, n). Otherwise the leading term
    2 exp(-2 D^2 mn / (m + n)) of the asymptotic series, which is larger than the exact value.
    """
    if first != second:
        exponent = 2 * distance**2 * first * second / (first + second)
        return math.log10(2) - exponent / math.log(10)
    step = round(distance * first)
    terms = range(1, first // step + 1)
    paths = sum((-1) ** (j + 1) * math.comb(2 * first, first - j * step) for j in terms)
    return math.log10(2 * paths) - math.log10(math.comb(2 * first, first))


def _matches(values: ArrayLike) -> Bools:
    """Whether each answer token [tokens] was the argmax.

    Raises:
        ValueError: not a one-dimensional array of booleans.
    """
    matches = np.asarray(values)
    if matches.ndim != 1 or (matches.size and matches.dtype != np.bool_):
        raise ValueError(f"matches: booleans [tokens], not {matches.dtype} {matches.shape}")
    return matches


@metric(
    "exact_memorisation",
    "faithful-1",
    source=f"{OPEN_UNLEARNING} exact_memorization",
    knowledge="rises",
)
def exact_memorisation(matches: ArrayLike) -> float | None:
    """Fraction in [0, 1] of the answer's tokens whose argmax equals the label, teacher-forced.

    `matches` [tokens] are booleans; open-unlearning leaves out the end-of-text token. None without
    a token; open-unlearning leaves such an item out of the mean. (yes, no, yes, yes): 0.75.

    Raises:
        ValueError: not a one-dimensional array of booleans.
    """
    matched = _matches(matches)
    return float(matched.mean()) if matched.size else None


def _matched_suffix(matches: Bools) -> int:
    """Number of tokens at the end that all match."""
    misses = np.flatnonzero(~matches)
    return len(matches) - 1 - int(misses[-1]) if misses.size else len(matches)


@metric(
    "extraction_strength",
    "faithful-1",
    source=f"{OPEN_UNLEARNING} extraction_strength",
    defect="1/len, not 0, when the last token does not match; 0, not left out, without a token",
    knowledge="rises",
)
def extraction_strength(matches: ArrayLike) -> float:
    """1 - k/len in [0, 1], k the smallest start from which all tokens match, teacher-forced.

    `matches` [tokens] are booleans, without the end-of-text token. (yes, no, yes, yes): k = 2,
    1 - 2/4 = 0.5. The official loop ends at k = len - 1: (yes, yes, no) gives 1/3.

    Raises:
        ValueError: not a one-dimensional array of booleans.
    """
    matched = _matches(matches)
    return max(1, _matched_suffix(matched)) / len(matched) if matched.size else 0.0


@metric(
    "extraction_strength", "fixed-1", source="`faithful-1` without its defect", knowledge="rises"
)
def extraction_strength_fixed(matches: ArrayLike) -> float | None:
    """The share in [0, 1] of the answer's tokens at its end that all match, teacher-forced.

    0 when the last token does not match; None without a token. (yes, no, yes, yes): 0.5;
    (yes, yes, no): 0.

    Raises:
        ValueError: not a one-dimensional array of booleans.
    """
    matched = _matches(matches)
    return _matched_suffix(matched) / len(matched) if matched.size else None


TOKENWISE = {
    score.id: score
    for score in (exact_memorisation, extraction_strength, extraction_strength_fixed)
}
"""Scores of an answer from which of its tokens match, by id."""


@metric(
    "muse_verbatim",
    "faithful-2",
    source=f"{MUSE}: metrics/verbmem.py",
    defect=BLIND,
    knowledge="rises",
)
def muse_verbatim(output: str, truth: str) -> float:
    """ROUGE-L F measure in [0, 1] of the continuation, without stemmer, lower-cased.

    MUSE reports 100 times the mean; both texts have at most 128 tokens there, line breaks included
    (version 1 ended the output with its line, and cut no truth). "the old clock" for "old tall
    clock tower" shares (old, clock): precision 2/3, recall 2/4, F = 4/7.
    """
    return float(rouge_l(output, truth, stemmer=False).fmeasure)


@metric(
    "muse_verbatim",
    "fixed-1",
    source="`faithful-2` over the words of any script",
    knowledge="rises",
)
def muse_verbatim_fixed(output: str, truth: str) -> float:
    """ROUGE-L F measure in [0, 1] of the continuation, without stemmer, in any script.

    Equal to `faithful-2` for texts whose letters are all a to z.
    """
    return float(rouge_l_any_script(output, truth, stemmer=False).fmeasure)


@metric(
    "muse_priv_leak",
    "faithful-1",
    source=f"{MUSE}: eval.py and metrics/privleak.py; the turned AUC as in open-unlearning's "
    "privacy.py",
    defect="relative to the retrained model's AUC, so the same gap weighs more where that is "
    "small; open-unlearning takes 0.5 for a missing reference without a word",
    knowledge="falls",
)
def muse_priv_leak(auc_unlearned: float, auc_retrained: float | None) -> float:
    """PrivLeak in per cent: 0 is ideal, below 0 under-unlearned, above 0 over-unlearned.

    Both arguments are CONVENTIONAL AUCs of Min-40% probability, forget texts against holdout texts
    (`auc@own-1` with the forget texts as members): 1 where forget texts are much likelier. MUSE's
    AUC is 1 minus that, and PrivLeak = (muse_unlearned - muse_retrained) / muse_retrained * 100, at
    least -100. MUSE publishes its AUCs of the retrained models, News .4772 and Books .5393: pass
    1 - .4772 and 1 - .5393.

    Retrained 0.5: an untouched model that memorised (AUC 1) has (0 - 0.5) / 0.5 = -100, an AUC of
    0.75 has (0.25 - 0.5) / 0.5 = -50, and an AUC of 0 has (1 - 0.5) / 0.5 = +100.

    Raises:
        EvaluationError: no retrained AUC, a retrained AUC of 1 (division by zero), or an AUC
            outside [0, 1].
    """
    if auc_retrained is None:
        raise EvaluationError(
            "muse_priv_leak: needs the AUC of a retain-only (retrained) reference; none was given"
        )
    for name, value in (("unlearned", auc_unlearned), ("retrained", auc_retrained)):
        if not 0 <= value <= 1:
            raise EvaluationError(f"muse_priv_leak: {name} AUC {value} is not in [0, 1]")
    muse_unlearned, muse_retrained = 1 - auc_unlearned, 1 - auc_retrained
    if muse_retrained == 0:
        raise EvaluationError(
            "muse_priv_leak: the retrained model's AUC is 1, which divides by zero; forget and "
            "holdout texts differ in more than membership"
        )
    return (muse_unlearned - muse_retrained) / muse_retrained * 100
