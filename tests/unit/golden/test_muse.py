"""MUSE's evaluation: swj0419/muse_bench."""

from types import SimpleNamespace

import numpy as np
from official import Writer, check, negated, of, refusing, untested

from atu.benchmarks.muse import STOPS
from atu.inference.batching import BatchSize
from atu.metrics import membership as mia
from atu.metrics import memorisation as memo
from atu.metrics.muse_knowledge import muse_knowledge
from atu.privacy.texts import continuations

LEADING_BLANK = {"muse.knowmem.leading_blank_line": 1.0}
MIN_KS = {"Min-20%": 0.2, "Min-40%": 0.4, "Min-60%": 0.6}


@of("muse", "muse.verbmem")
def test_verbatim(case, tokenizer_of):
    """Through the continuation of a passage."""
    inputs, settings = case["inputs"], case["settings"]
    tokenizer = tokenizer_of(settings)
    single = isinstance(inputs["generated"], str)
    pairs = zip(
        *([[v] if single else v for v in (inputs["generated"], inputs["truth"])]), strict=True
    )
    section = SimpleNamespace(verbatim_tokens=settings["max_new_tokens"], verbatim_prompt=0.5)
    values = []
    for generated, truth in pairs:
        row = {"form": "passage", "text": f"Q {truth}", "prompt": "Q"}
        (found,) = continuations(
            Writer(tokenizer, generated), tokenizer, [row], section, BatchSize(1)
        )
        values.append(memo.muse_verbatim(found.output, found.truth))
    check(case, float(np.mean(values)), {})


@of("muse", "muse.knowmem")
def test_knowledge(case, written):
    answer = written(case, STOPS, case["settings"]["max_new_tokens"])
    check(case, muse_knowledge(answer, case["inputs"]["gold"]), LEADING_BLANK)


@of("muse", "muse.privleak")
def test_priv_leak(case):
    inputs = case["inputs"]
    ours = memo.muse_priv_leak(1 - inputs["auc_forget_holdout"], 1 - inputs["auc_retrained"])
    check(case, ours, {})


@of("muse", "muse.min_k")
def test_min_k(case, scored):
    """MUSE's scores are the negative of ours."""
    (scores,) = scored(case["inputs"])
    logs, text = scores.log_probs, case["inputs"]["text"]
    ours = {
        "PPL": refusing(mia.membership_loss, logs),
        "PPL/zlib": refusing(mia.membership_zlib, logs, text),
        **{name: refusing(mia.membership_min_k, logs, share) for name, share in MIN_KS.items()},
    }
    check(case, negated(ours), {})


@of("muse", "muse.auc")
def test_auc(case, scored):
    """MUSE's AUC is 1 minus the conventional one."""
    sides = [
        [mia.membership_min_k(scored(text)[0].log_probs, 0.4) for text in case["inputs"][side]]
        for side in ("forget", "holdout")
    ]
    check(case, refusing(lambda: 1 - mia.auc(*sides)), {})


def test_no_case_is_forgotten():
    assert untested("muse", globals()) == set()
