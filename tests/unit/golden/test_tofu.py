"""TOFU's evaluation: locuslab/tofu."""

import numpy as np
from official import check, of, refusing, untested

from atu.benchmarks.tofu import STOPS
from atu.metrics import memorisation as memo
from atu.metrics.tofu_recall import tofu_rouge_l_recall

UNDERFLOW = {"tofu.option_probability.underflow": 1.0}
SETS = ("retain", "real_authors", "world_facts")
TRUTH_RATIOS = {"": memo.tofu_truth_ratio, "_paper": memo.tofu_truth_ratio_paper}


def ratios(inputs, ratio):
    """A truth ratio per item."""
    return [
        ratio(right, wrong)
        for right, wrong in zip(
            inputs["paraphrased_losses"], inputs["perturbed_losses"], strict=True
        )
    ]


def version(case):
    """The truth ratio of the code, or of the paper."""
    group = case["id"].split(".")[1]
    return TRUTH_RATIOS["_paper" if group.endswith("_paper") else ""]


@of("tofu", "tofu.rouge_recall")
def test_recall(case, written):
    answer = written(case, STOPS)
    check(case, tofu_rouge_l_recall(answer, case["inputs"]["gold"]), {})


@of("tofu", "tofu.probability")
def test_probability(case, scored):
    inputs = case["inputs"]
    if "losses" in inputs:
        ours = float(np.mean([memo.tofu_probability([-loss]) for loss in inputs["losses"]]))
    else:
        ours = []
        for logits, labels in zip(inputs["logits"], inputs["labels"], strict=True):
            ids = [max(label, 0) for label in labels]
            (scores,) = scored({"input_ids": ids, "labels": labels, "logits": logits})
            ours.append(refusing(memo.tofu_probability, scores.log_probs))
    check(case, ours, {})


@of("tofu", "tofu.option_probability")
def test_option_probability(case):
    inputs = case["inputs"]
    pairs = zip(inputs["correct_losses"], inputs["wrong_losses"], strict=True)
    values = [memo.tofu_option_probability(right, wrong) for right, wrong in pairs]
    check(case, float(np.mean(values)), UNDERFLOW)


@of("tofu", "tofu.truth_ratio")
def test_truth_ratio(case):
    check(case, ratios(case["inputs"], memo.tofu_truth_ratio), {})


@of("tofu", "tofu.truth_ratio_forget", "tofu.truth_ratio_forget_paper")
def test_forget_truth_ratio(case):
    found = ratios(case["inputs"], version(case))
    check(case, refusing(memo.tofu_forget_truth_ratio, found), {})


@of("tofu", "tofu.truth_ratio_retain", "tofu.truth_ratio_retain_paper")
def test_retain_truth_ratio(case):
    found = ratios(case["inputs"], version(case))
    check(case, refusing(memo.tofu_retain_truth_ratio, found), {})


@of("tofu", "tofu.model_utility", "tofu.model_utility_paper")
def test_model_utility(case):
    """Nine parts: of the retain set the probability, of the other sets the share of the options."""
    parts = []
    for name in SETS:
        table = case["inputs"][name]
        right = table["avg_gt_loss"]
        wrong = table["average_perturb_loss"]
        base = table["avg_paraphrased_loss"]
        probabilities = [
            memo.tofu_probability([-right[i]])
            if name == "retain"
            else memo.tofu_option_probability(right[i], wrong[i])
            for i in right
        ]
        found = [version(case)(base[i], wrong[i]) for i in base]
        parts += [
            float(np.mean(probabilities)),
            float(np.mean(list(table["rougeL_recall"].values()))),
            memo.tofu_retain_truth_ratio(found),
        ]
    check(case, memo.tofu_model_utility(parts), {})


@of("tofu", "tofu.forget_quality")
def test_forget_quality(case):
    """Ours is the logarithm of the p-value; the statistic is in it."""
    sides = [ratios(case["inputs"][side], memo.tofu_truth_ratio) for side in case["inputs"]]
    ours = {"p_value": 10 ** memo.tofu_forget_quality(*sides)}
    check(case, ours | {"statistic": case["value"]["statistic"]}, {})


def test_no_case_is_forgotten():
    assert untested("tofu", globals()) == set()
