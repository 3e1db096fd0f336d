"""open-unlearning's evaluation: locuslab/open-unlearning, src/evals/metrics."""

from types import SimpleNamespace

import numpy as np
import torch
from official import REFUSED, check, group_of, negated, of, refusing, untested
from torch import nn

from atu.benchmarks import muse, tofu
from atu.metrics import membership as mia
from atu.metrics import memorisation as memo
from atu.metrics.muse_knowledge import open_unlearning_knowledge
from atu.metrics.tofu_recall import tofu_rouge_l_recall
from atu.privacy.texts import tensor_norms, text_scores
from atu.training.batches import IGNORE

NO_TOKEN = {
    "ou.mia_min_k.end_token_only": REFUSED,
    "ou.mia_min_k_plus_plus.end_token_only": REFUSED,
}
APART = {"ou.privleak.retrained_is_one": REFUSED}
ELSEWHERE = {"ou.rel_diff"}
"""Groups for which nothing here corresponds."""
TOKENWISE = {
    "ou.exact_memorisation": memo.exact_memorisation,
    "ou.extraction_strength": memo.extraction_strength,
}
MIN_KS = {
    "ou.mia_min_k": mia.membership_min_k_fixed,
    "ou.mia_min_k_plus_plus": mia.membership_min_k_plus_plus,
}
EVERY_TOKEN = {"ou.mia_loss": mia.membership_loss, "ou.mia_zlib": mia.membership_zlib}


@of("open_unlearning", *TOKENWISE)
def test_tokenwise(case, scored):
    """Without the end token. The corrected extraction strength is the repaired one."""
    metric = TOKENWISE[group_of(case["id"])]
    if "corrected" in case:
        metric = memo.extraction_strength_fixed
    items = case["inputs"].get("items", [case["inputs"]])
    values = [metric(scores.matches[:-1]) for scores in scored(*items)]
    kept = [value for value in values if value is not None]
    check(case, float(np.mean(kept)) if kept else REFUSED, {})


@of("open_unlearning", "ou.probability")
def test_probability(case, scored):
    found = scored(*case["inputs"]["items"])
    check(case, [memo.tofu_probability(scores.log_probs) for scores in found], {})


@of(
    "open_unlearning", *EVERY_TOKEN, *MIN_KS, "ou.mia_min_k.share_0", "ou.mia_min_k.share_1"
)  # fmt: skip
def test_membership(case, scored):
    """By the columns of `privacy`, of an answer with its end token; its scores are the negative of
    open-unlearning's."""
    (scores,) = scored(case["inputs"])
    row = {"prompt": "Q", "form": "question", "text": "", "answer": case["inputs"]["text"]}
    metric = (EVERY_TOKEN | MIN_KS)[group_of(case["id"])]
    k = case["settings"].get("k", 0.5)
    ours = refusing(lambda: text_scores(row, scores, k, None)[metric.id])
    check(case, negated(ours), NO_TOKEN)


@of("open_unlearning", "ou.mia_reference")
def test_reference(case, scored):
    inputs = case["inputs"]
    ours, theirs = (
        scored(inputs | {"logits": inputs[name]})[0] for name in ("logits", "reference_logits")
    )
    check(case, -mia.membership_reference(ours.log_probs, theirs.log_probs), {})


@of("open_unlearning", "ou.auc_loss", "ou.auc_min_k")
def test_auc(case):
    """open-unlearning leaves the last token out of Min-K."""
    name = "membership_min_k@fixed-1" if "min_k" in case["id"] else "membership_loss@faithful-1"
    row = {"prompt": "Q", "form": "question", "text": "", "answer": "a"}
    sides = [
        [
            text_scores(row, token_scores(logs), case["settings"].get("k", 0.5), None)[name]
            for logs in case["inputs"][f"{side}_token_log_probs"]
        ]
        for side in ("forget", "holdout")
    ]
    scored = [[score for score in side if score is not None] for side in sides]
    check(case, refusing(mia.auc, *scored), {})


def token_scores(logs):
    """Of tokens of these log-probabilities; what else they have does not matter."""
    values = np.array(logs)
    return SimpleNamespace(log_probs=values, mean=values, std=np.ones_like(values))


class Bigram(nn.Module):
    """logits = embedding[token] head^T + bias."""

    def __init__(self, embedding, head, bias):
        super().__init__()
        weights = (embedding, head, bias)
        self.embedding, self.head, self.bias = (nn.Parameter(torch.tensor(w)) for w in weights)

    def forward(self, input_ids, use_cache):
        """[batch, seq, vocab]."""
        return SimpleNamespace(logits=self.embedding[input_ids] @ self.head.T + self.bias)


def norms(inputs, ids, p):
    """The norms of one text's gradient: all but the first token are scored, the last is left out
    of the loss."""
    model = Bigram(*(inputs[name] for name in ("embedding", "head", "bias")))
    tokens = torch.tensor([ids])
    labels = tokens.clone()
    labels[0, -1] = IGNORE
    return tensor_norms(model, tokens, labels, float(p))


@of("open_unlearning", "ou.mia_gradnorm")
def test_gradient_norm(case):
    found = norms(case["inputs"], case["inputs"]["token_ids"], case["settings"]["p"])
    check(case, -mia.membership_gradient_norm(found), {})


@of("open_unlearning", "ou.auc_gradnorm")
def test_auc_of_gradient_norms(case):
    """Of the same orientation as every other attack's."""
    sides = [
        [
            mia.membership_gradient_norm(norms(case["inputs"], ids, case["settings"]["p"]))
            for ids in case["inputs"][f"{side}_token_ids"]
        ]
        for side in ("forget", "holdout")
    ]
    check(case, mia.auc(*sides), {})


def ratios(case, ratio):
    """A ratio or share per item."""
    inputs = case["inputs"]
    pairs = zip(inputs["correct_losses"], inputs["wrong_losses"], strict=True)
    return [ratio(right, wrong) for right, wrong in pairs]


@of("open_unlearning", "ou.forget_truth_ratio")
def test_forget_truth_ratio(case):
    found = ratios(case, memo.open_unlearning_tofu_truth_ratio)
    check(case, memo.tofu_forget_truth_ratio(found), {})


@of("open_unlearning", "ou.retain_truth_ratio")
def test_retain_truth_ratio(case):
    found = ratios(case, memo.open_unlearning_tofu_truth_ratio)
    check(case, memo.tofu_retain_truth_ratio(found), {})


@of("open_unlearning", "ou.truth_ratio_prob_mean")
def test_share_of_the_true_answer(case):
    check(case, float(np.mean(ratios(case, memo.open_unlearning_truth_ratio))), {})


@of("open_unlearning", "ou.probability_w_options")
def test_option_probability(case):
    check(case, float(np.mean(ratios(case, memo.open_unlearning_option_probability))), {})


@of("open_unlearning", "ou.forget_quality")
def test_forget_quality(case):
    inputs = case["inputs"]
    ours = memo.tofu_forget_quality(inputs["unlearned"], inputs["retain_model"])
    check(case, 10**ours, {})


@of("open_unlearning", "ou.privleak")
def test_priv_leak(case):
    inputs = case["inputs"]
    reference = inputs["auc_retrained"]
    if reference is None:
        reference = case["settings"]["ref_value"]
    check(case, refusing(memo.muse_priv_leak, inputs["auc"], reference), APART)


@of("open_unlearning", "ou.hm_aggregate")
def test_model_utility(case):
    check(case, memo.tofu_model_utility(case["inputs"]["values"]), {})


@of("open_unlearning", "ou.rouge")
def test_recall_and_knowledge(case, written):
    """TOFU's recall, or MUSE's F measure where the settings name MUSE's stops."""
    if case["settings"]["stopwords"]:
        answer = written(case, muse.STOPS)
        ours = open_unlearning_knowledge(answer, case["inputs"]["gold"])
    else:
        ours = tofu_rouge_l_recall(written(case, tofu.STOPS), case["inputs"]["gold"])
    check(case, ours, {})


def test_no_case_is_forgotten():
    """But those of `ELSEWHERE`."""
    assert untested("open_unlearning", globals()) == ELSEWHERE
