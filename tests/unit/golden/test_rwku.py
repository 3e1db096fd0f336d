"""RWKU's evaluation: jinzhuoran/RWKU, LLaMA-Factory/src/llmtuner/eval."""

import numpy as np
from official import check, of, refusing

from atu.benchmarks.rwku import MEASURE, STOPS
from atu.inference.lm_eval_files import KINDS
from atu.metrics import membership as mia
from atu.metrics.fluency import fluency
from atu.metrics.rwku_recall import rwku_rouge_l_recall
from atu.privacy.texts import text_scores

NAMED_TOKEN = {"rwku.forget_recall.multi_line_named_token": 1.0}
SHARES = (0.2, 0.4, 1.0)


@of("rwku", "rwku.forget_recall", "rwku.neighbour_recall")
def test_recall(case, written):
    answer = written(case, STOPS)
    check(case, rwku_rouge_l_recall(answer, case["inputs"]["gold"]), NAMED_TOKEN)


@of("rwku", "rwku.membership")
def test_membership(case, scored):
    """By the columns of `privacy`, whose Min-K has one share, and by the metrics for others."""
    inputs = case["inputs"]
    (scores,) = scored(inputs)
    row = {"prompt": "", "form": "passage", "answer": "", "text": inputs["text"]}
    columns = {share: text_scores(row, scores, share, None) for share in SHARES}
    plus_plus = mia.membership_min_k_plus_plus_faithful.id
    ours = {
        "loss": columns[1.0][mia.membership_loss.id],
        "zlib": columns[1.0][mia.membership_zlib.id],
    }
    for share in SHARES:
        ours[f"mink_{share}"] = refusing(columns[share].get, mia.membership_min_k.id)
        ours[f"mink++_{share}"] = refusing(columns[share].get, plus_plus)
    check(case, {key: ours[key] for key in case["value"]}, {})


@of("rwku", "rwku.familiarity")
def test_familiarity(case, scored):
    texts = [score.log_probs for score in scored(*case["inputs"]["texts"])]
    check(case, refusing(mia.rwku_familiarity, texts), {})


@of("rwku", "rwku.fluency")
def test_fluency(case):
    inputs = case["inputs"]
    texts = inputs.get("texts", [inputs.get("text")])
    check(case, float(np.mean([fluency(text) for text in texts])), {})


@of("rwku", "rwku.bbh")
def test_bbh(case):
    inputs = case["inputs"]
    check(case, KINDS["bbh"].score({"answer": inputs["gold"]}, inputs["generated"]), {})


@of("rwku", "rwku.triviaqa_f1")
def test_triviaqa(case):
    inputs = case["inputs"]
    ours = KINDS["triviaqa"].score({"aliases": inputs["aliases"]}, inputs["generated"])
    check(case, ours, {})


def test_a_score_for_every_answer_is_the_measure():
    """The faithful score is None for an answer of full stops alone, so a probe's measure is the
    repaired one."""
    assert rwku_rouge_l_recall("...", "a") is None
    assert MEASURE == "rwku_rouge_l_recall@fixed-2"
