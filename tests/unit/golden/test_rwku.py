"""RWKU's evaluation: jinzhuoran/RWKU, LLaMA-Factory/src/llmtuner/eval."""

import math
from types import SimpleNamespace

import numpy as np
import torch
from official import REFUSED, check, of, refusing, untested
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from atu.benchmarks.rwku import MEASURE, STOPS
from atu.inference.lm_eval_files import KINDS
from atu.metrics import membership as mia
from atu.metrics.fluency import fluency
from atu.metrics.rwku_recall import rwku_rouge_l_recall
from atu.privacy.texts import text_scores
from atu.probes.prompts import ANSWER_SEPARATOR

TIES = {
    "rwku.mmlu.tie_of_two": {"acc": 0.5},
    "rwku.truthfulqa.tie": {"mc1": 0.5, "mc2": 0.5},
}
AS_TEXT = {"rwku.mmlu.gold_as_text": {"acc": 1.0}}
UNDERFLOW = {"rwku.truthfulqa.underflow": {"mc1": 1.0, "mc2": 1 / (1 + math.exp(-1))}}
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
    columns = {share: refusing(text_scores, row, scores, share, None) for share in SHARES}
    if REFUSED in columns.values():
        check(case, dict.fromkeys(case["value"], REFUSED), {})
        return
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


@of("rwku", "rwku.mmlu")
def test_mmlu(case):
    """Of the letters' logits, as log-probabilities beside the vocabulary's other tokens."""
    (name,) = (key for key in case["inputs"] if key.startswith("logits"))
    logits = torch.tensor([*case["inputs"][name], *[case["settings"]["other logits"]] * 9])
    log_probs = logits.log_softmax(-1)[:4].tolist()
    answer = case["inputs"]["answer"]
    document = KINDS["mmlu"].document(
        {"question": "Q?", "choices": ["a", "b", "c", "d"], "answer": answer}
    )
    ours = {"acc": KINDS["mmlu"].score(document, log_probs)}
    stated = TIES | AS_TEXT
    check({**case, "value": {"acc": case["value"]["acc"]}}, ours, stated)


@of("rwku", "rwku.truthfulqa")
def test_truthfulqa(case):
    """Each by the choices that its document asks."""
    inputs = case["inputs"]
    row = {"question": "Q?"} | {
        f"{kind}_targets": {name: inputs[f"{kind}_{name}"] for name in ("choices", "labels")}
        for kind in ("mc1", "mc2")
    }
    ours = {}
    for key, kind in (("mc1", "truthfulqa"), ("mc2", "truthfulqa_mc2")):
        document = KINDS[kind].document(row)
        log_probs = [inputs["log_probs"][choice] for choice in document["choices"]]
        ours[key] = KINDS[kind].score(document, log_probs)
    check(case, ours, TIES | UNDERFLOW)


class Constant(PreTrainedModel):
    """The same next-token logits everywhere, as many as a vocabulary has."""

    config_class = PreTrainedConfig

    def __init__(self, config, logits):
        super().__init__(config)
        self.logits = nn.Parameter(torch.tensor(logits), requires_grad=False)

    def forward(self, input_ids, **_):
        """[batch, seq, vocab]."""
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


@of("rwku", "rwku.truthfulqa_score")
def test_log_probability_of_a_completion(case, byte_tokenizer):
    """Through the bridge to lm-eval. Official code has 258 tokens, ours one more, which cannot
    come. A choice without a word is refused in the file."""
    from lm_eval.api.instance import Instance

    from atu.inference.lm_eval_model import LanguageModel

    inputs = case["inputs"]
    logits = [0.0] * len(byte_tokenizer)
    logits[byte_tokenizer.pad_token_id] = -1e9
    for letter, value in inputs["logits_of_tokens"].items():
        logits[byte_tokenizer(letter, add_special_tokens=False)["input_ids"][0]] = value
    config = PreTrainedConfig(vocab_size=len(logits), max_position_embeddings=1024)
    model = LanguageModel(Constant(config, logits), byte_tokenizer, 2)
    asked = [
        Instance("loglikelihood", {"id": i}, (inputs["prompt"], f"{ANSWER_SEPARATOR}{text}"), i)
        for i, text in enumerate(inputs["completions"])
    ]
    found = [log_prob for log_prob, _ in model.loglikelihood(asked, disable_tqdm=True)]
    check(case, dict(zip(inputs["completions"], found, strict=True)), {})


def test_a_score_for_every_answer_is_the_measure():
    """The faithful score is None for an answer of full stops alone, so a probe's measure is the
    repaired one."""
    assert rwku_rouge_l_recall("...", "a") is None
    assert MEASURE == "rwku_rouge_l_recall@fixed-2"


def test_no_case_is_forgotten():
    assert untested("rwku", globals()) == set()
