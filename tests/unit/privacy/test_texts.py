import math
import zlib

import polars as pl
import pytest
import torch
from torch.nn import functional as F

from atu.benchmarks.base import sentence_row
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.metrics import membership as mia
from atu.metrics import memorisation as memo
from atu.privacy import texts as module
from atu.privacy.texts import (
    ATTACKS,
    MIN_KS,
    VERBATIM,
    Continuation,
    choose_texts,
    continuations,
    corpus_auc,
    first_tokens,
    gradient_norms,
    membership_metrics,
    score_texts,
    text_metrics,
    text_scores,
    verbatim_scores,
)
from atu.results.tables import MEMBERS, write_table

LEAK = memo.muse_priv_leak.id


PASSAGE = {"form": "passage", "prompt": "", "answer": "", "text": "a text about an owl"}
ANSWER = {"form": "question", "prompt": "Who?", "answer": "an owl", "text": "Who? an owl"}


def test_text_scores(tokens):
    """Log-probabilities (-1, -5, -3, -2): mean -2.75, the lower half -4. Standardised with means -2
    and deviations (1, 2, 1, 1) they are (1, -1.5, -1, 0), whose lower half is -1.25."""
    scores = tokens([-1, -5, -3, -2], None, [-2.0] * 4, [1.0, 2.0, 1.0, 1.0])
    assert text_scores(PASSAGE, scores, 0.5, [1.0, 5.0]) == {
        "log_probs": [-1, -5, -3, -2],
        "membership_loss@faithful-1": -2.75,
        "membership_zlib@faithful-1": -2.75 / len(zlib.compress(PASSAGE["text"].encode())),
        "membership_min_k@faithful-1": -4.0,
        "membership_min_k@fixed-1": -4.0,
        "membership_min_k_plus_plus@faithful-1": -1.25,
        "membership_min_k_plus_plus@fixed-1": -1.25,
        "membership_gradient_norm@faithful-2": -3.0,
    }


def test_text_scores_of_an_answer(tokens):
    """The end token's -9 counts in the loss (-18 / 4) and not in the lower third of the others."""
    scores = tokens([-1, -5, -3, -9], None, [-2.0] * 4, [1.0] * 4)
    found = text_scores(ANSWER, scores, 0.34, None)
    assert found["membership_loss@faithful-1"] == -4.5
    assert found["membership_zlib@faithful-1"] == -4.5 / len(zlib.compress(b"an owl"))
    assert found["membership_min_k@fixed-1"] == -5.0
    assert found["membership_min_k_plus_plus@fixed-1"] == -3.0


def test_an_empty_answer_has_no_lowest_tokens(tokens):
    """Only its end token, which the loss has."""
    found = text_scores(ANSWER | {"answer": ""}, tokens([-2.0]), 0.4, None)
    assert found["membership_loss@faithful-1"] == -2.0
    assert {found[name] for name in MIN_KS} == {None}


def test_text_scores_that_are_not_defined(tokens):
    """A fifth of four tokens is none for MUSE and RWKU, the lowest one when repaired; without a
    backward pass there is no norm."""
    found = text_scores(PASSAGE, tokens([-1, -5, -3, -2]), 0.2, None)
    assert found["membership_min_k@faithful-1"] is None
    assert found["membership_min_k_plus_plus@faithful-1"] is None
    assert found["membership_min_k@fixed-1"] == -5.0
    assert found["membership_gradient_norm@faithful-2"] is None


@pytest.mark.filterwarnings("error")
def test_a_ruined_models_text_has_every_score(tokens):
    """Ten thousand nats per token, and no deviation."""
    found = text_scores(PASSAGE, tokens([-1e4] * 5, None, [-1.0] * 5, [0.0] * 5), 0.4, [1e4])
    rest = {name: value for name, value in found.items() if name != "log_probs"}
    assert rest.pop("membership_min_k_plus_plus@faithful-1") is None
    assert all(math.isfinite(value) for value in rest.values())


def test_answers_are_scored_after_their_question(monkeypatch, tokens):
    """With the end token; passages whole and without, also where a prompt says how they begin."""
    asked = []

    def score(model, tokenizer, prompts, answers, *, batch_size, end, label):
        asked.extend((prompt, answer, end) for prompt, answer in zip(prompts, answers, strict=True))
        return [tokens([-float(len(answer))]) for answer in answers]

    monkeypatch.setattr(module, "score_answers", score)
    verbatim = PASSAGE | {"prompt": "a text", "answer": "about an owl"}
    rows = [ANSWER, PASSAGE, ANSWER | {"answer": "elk"}, verbatim]
    found = score_texts(None, None, rows, BatchSize(2))
    assert [scores.loss for scores in found] == [6, 19, 3, 19]
    assert sorted(asked) == sorted(
        [("Who?", "an owl", True), ("Who?", "elk", True), *[("", PASSAGE["text"], False)] * 2]
    )


def test_verbatim_scores(tokens):
    """Of five tokens the last four continue the beginning: three of them match, two at the end.
    "a b" for "a b c" has F 4/5."""
    scores = tokens([-1.0] * 5, [False, True, False, True, True])
    assert verbatim_scores(scores, Continuation("a b", "a b c", 4)) == pytest.approx(
        {
            "muse_verbatim@faithful-2": 0.8,
            "muse_verbatim@fixed-1": 0.8,
            "exact_memorisation@faithful-1": 0.75,
            "extraction_strength@faithful-1": 0.5,
            "extraction_strength@fixed-1": 0.5,
            "blind": False,
        }
    )
    found = verbatim_scores(scores, Continuation("青い川", "青い川", 4))
    assert (found["muse_verbatim@faithful-2"], found["muse_verbatim@fixed-1"]) == (0.0, 1.0)
    assert found["blind"] is True
    assert set(verbatim_scores(scores, None).values()) == {None}


@pytest.fixture
def section(mini_params):
    return mini_params.privacy


@pytest.fixture
def prepared(store):
    """Texts for membership tests by hand: 40 held out, 24 of the forget and 8 of the retain set."""
    rows = [
        sentence_row(f"{corpus} {number}", kind="pet") | {"corpus": corpus}
        for corpus, count in (("forget", 24), ("retain", 8), ("holdout", 40))
        for number in range(count)
    ]
    return store(
        "prepared", "prepare",
        files={"members.parquet": lambda path: write_table(path, rows, MEMBERS)},
    )  # fmt: skip


@pytest.mark.parametrize(("asked", "retain"), [(3, 3), (8, 8), (100, 8)])
def test_as_many_retain_texts_as_asked(prepared, asked, retain):
    """All of the forget and holdout texts, whatever is asked."""
    rows = choose_texts(prepared, asked)
    counts = {c: sum(r["corpus"] == c for r in rows) for c in ("holdout", "forget", "retain")}
    assert counts == {"holdout": 40, "forget": 24, "retain": retain}
    more = {r["text"] for r in choose_texts(prepared, 100)}
    assert {r["text"] for r in rows} <= more


def by_hand(model, tokenizer, text, prompt=""):
    """The norms of the gradient of the mean next-token loss, of what follows the prompt without
    the last token, by autograd alone."""
    ids = tokenizer(text)["input_ids"]
    before = len(tokenizer(prompt)["input_ids"]) if prompt else 1
    end = len(ids) if prompt else len(ids) - 1
    logits = model(torch.tensor([ids])).logits[0]
    loss = F.cross_entropy(logits[before - 1 : end - 1], torch.tensor(ids[before:end]))
    found = torch.autograd.grad(loss, list(model.parameters()))
    return [gradient.norm().item() for gradient in found]


def test_gradient_norms(tiny_lm, byte_tokenizer):
    """Of the first texts of the forget and the holdout set in a fixed order, each alone; of others
    none; and the model is left without gradients."""
    model = tiny_lm(vocab_size=259)
    rows = [
        PASSAGE | {"corpus": corpus, "text": f"{corpus} {i}"}
        for i in range(4)
        for corpus in ("forget", "holdout", "retain")
    ]
    norms = gradient_norms(model, byte_tokenizer, rows, 2)
    chosen = [row for row, norm in zip(rows, norms, strict=True) if norm is not None]
    assert sorted(row["corpus"] for row in chosen) == ["forget"] * 2 + ["holdout"] * 2
    for row, norm in zip(rows, norms, strict=True):
        if norm is not None:
            expected = by_hand(model, byte_tokenizer, row["text"])
            assert norm == pytest.approx(expected, rel=1e-4)
    assert all(p.grad is None for p in model.parameters())
    again = gradient_norms(model, byte_tokenizer, rows[::-1], 2)[::-1]
    assert [n is None for n in again] == [n is None for n in norms]


def test_the_gradient_of_an_answer(tiny_lm, byte_tokenizer):
    """Is of its own tokens, without the question and the end."""
    model = tiny_lm(vocab_size=259)
    (norms,) = gradient_norms(model, byte_tokenizer, [ANSWER | {"corpus": "forget"}], 1)
    expected = by_hand(model, byte_tokenizer, ANSWER["text"], ANSWER["prompt"])
    assert norms == pytest.approx(expected, rel=1e-4)


def test_a_text_of_one_token_has_no_gradient(tiny_lm, byte_tokenizer):
    """It is the last one, which the loss leaves out."""
    rows = [PASSAGE | {"corpus": "forget", "text": "a"}]
    assert gradient_norms(tiny_lm(vocab_size=259), byte_tokenizer, rows, 1) == [None]


def test_a_gradient_that_is_no_number_is_refused(tiny_lm, byte_tokenizer):
    model = tiny_lm(vocab_size=259)
    with torch.no_grad():
        next(model.parameters())[:] = float("inf")
    rows = [PASSAGE | {"corpus": "forget", "text": "an owl"}]
    with pytest.raises(EvaluationError, match="gradient of 'an owl' is not finite"):
        gradient_norms(model, byte_tokenizer, rows, 1)


@pytest.mark.parametrize(
    ("share", "starts", "truths"),
    [
        (0.5, ["a b", "青い", "a"], ["c d", "川2", "y"]),
        (0.75, ["a b\nc", "青い川", "a"], ["d", "2", "y"]),
        (0.01, ["a", "青", "a"], ["b\nc d", "い川2", "y"]),
    ],
)
def test_passages_are_continued(monkeypatch, byte_tokenizer, section, share, starts, truths):
    """From that share of their words, at least one; the rest is the truth, and its bytes are the
    passage's last. A passage of one word has no continuation."""
    asked = []

    def answer(model, tokenizer, prompts, *, max_new_tokens, templated, **how):
        asked.extend(prompts)
        assert max_new_tokens == section.verbatim_tokens and not templated
        assert not how.get("stops")
        return ["they do n't"] * len(prompts)

    monkeypatch.setattr(module, "greedy_answers", answer)
    texts = ["a b\nc d", "青い川2", "a y", "word"]
    rows = [PASSAGE | {"text": text} for text in texts] + [ANSWER]
    section = section.model_copy(update={"verbatim_prompt": share, "verbatim_tokens": 128})
    found = continuations(None, byte_tokenizer, rows, section, BatchSize(1))
    assert asked == starts
    assert found[3:] == [None, None]
    for text, start, truth, one in zip(texts, starts, truths, found, strict=False):
        rest = text.removeprefix(start)
        assert one == Continuation("they don't", truth, len(rest.encode()))
        assert rest.strip() == truth


def test_the_benchmark_says_where_a_passage_begins(monkeypatch, byte_tokenizer, section):
    """MUSE's: however long; nothing behind it is no continuation."""
    monkeypatch.setattr(module, "greedy_answers", lambda *a, **_: ["x"] * len(a[2]))
    rows = [PASSAGE | {"prompt": "a text about an", "answer": "owl"},
            PASSAGE | {"prompt": PASSAGE["text"], "answer": ""}]  # fmt: skip
    found = continuations(None, byte_tokenizer, rows, section, BatchSize(1))
    assert found == [Continuation("x", "owl", len(" owl")), None]


def test_only_as_much_of_the_truth_counts_as_may_be_written(byte_tokenizer):
    """Of "b c d e" 3 bytes behind the token that begins a text: "b c"."""
    assert first_tokens(byte_tokenizer, "b c d e", 4) == "b c"


def texts(*rows):
    """A table of `(corpus, form, log-probabilities, score of every attack)`; the official
    verbatim score can read passages whose score is below 2."""
    memorised = (*VERBATIM, *memo.TOKENWISE)
    return pl.DataFrame(
        [
            {"corpus": corpus, "form": form, "text": f"t{i}", "log_probs": logs}
            | dict.fromkeys((*ATTACKS, mia.membership_min_k.id), score)
            | dict.fromkeys(memorised, score / 10 if form == "passage" else None)
            | {"blind": score >= 2 if form == "passage" else None}
            for i, (corpus, form, logs, score) in enumerate(rows)
        ],
        infer_schema_length=None,
    )


TEXT_ROWS = [
    ("holdout", "passage", [-1.0], 2.0), ("holdout", "question", [-9.0], 1.0),
    ("forget", "passage", [-1.0, -3.0], 3.0), ("forget", "question", [-4.0], 1.0),
    ("retain", "passage", [-8.0], 9.0), ("retain", "question", [-6.0], 9.0),
]  # fmt: skip


def test_membership_by_hand():
    """Forget (3, 1) beside holdout (2, 1): 2.5 of 4 pairs, .625, by every attack. The reference's
    own (1, 2) beside (2, 1) has .5, so PrivLeak is (.375 - .5) / .5 * 100 = -25.

    Of the means (-2, -4) and (-1, -9) minus the reference's (-5, -5) and (-5, -9), (3, 1) beside
    (4, 0): two of four.
    """
    ours = texts(*TEXT_ROWS)
    theirs = texts(
        ("holdout", "passage", [-5.0], 2.0), ("holdout", "question", [-9.0], 1.0),
        ("forget", "passage", [-5.0], 1.0), ("forget", "question", [-4.0, -6.0], 2.0),
        ("retain", "passage", [-1.0], 0.0), ("retain", "question", [-1.0], 0.0),
    )  # fmt: skip
    assert membership_metrics(ours, theirs) == pytest.approx(
        {f"forget.{name}.auc@own-1": 0.625 for name in ATTACKS}
        | {
            "forget.membership_reference@faithful-1.auc@own-1": 0.5,
            "forget.muse_priv_leak@faithful-1": -25.0,
        }
    )


def test_beside_an_oracle_that_tells_all_texts_apart_there_is_no_priv_leak():
    """It is relative to 1 minus the oracle's AUC, and that AUC is 1. The AUCs stand."""
    apart = texts(("holdout", "passage", [-9.0], 1.0), ("forget", "passage", [-1.0], 2.0))
    found = membership_metrics(apart, apart)
    assert f"forget.{LEAK}" not in found
    assert found["forget.membership_min_k@fixed-1.auc@own-1"] == 1.0


def test_priv_leak_is_of_min_k():
    """The column of the repaired Min-K on either side; no other moves it."""
    ours, theirs = texts(*TEXT_ROWS), texts(*TEXT_ROWS)
    before = membership_metrics(ours, theirs)[f"forget.{LEAK}"]
    for name in (*ATTACKS, mia.membership_min_k.id):
        turned = membership_metrics(ours.with_columns(-pl.col(name)), theirs)
        assert (turned[f"forget.{LEAK}"] != before) == (name == mia.membership_min_k_fixed.id)


def test_an_auc_is_over_what_has_the_score():
    """Some texts have no gradient norm: forget 3 beside holdout 1 and 4. Retain is left out."""
    name = mia.membership_gradient_norm.id
    rows = [("forget", 3.0), ("forget", None), ("holdout", 1.0), ("holdout", 4.0), ("retain", 0.0)]
    table = pl.DataFrame([{"corpus": corpus, name: score} for corpus, score in rows])
    assert corpus_auc(table, name) == 0.5
    with pytest.raises(EvaluationError, match="scores of members"):
        corpus_auc(table.filter(pl.col("corpus") != "forget"), name)


def test_memorised_passages_by_hand():
    """Of the forget passages alone. Familiarity is 100 times the mean over texts of the mean loss,
    in whatever form: (2 + 4) / 2 and (8 + 6) / 2."""
    rows = [*TEXT_ROWS, ("forget", "passage", [-3.0], 1.0)]
    found = text_metrics(texts(*rows))
    assert found == pytest.approx(
        {
            **{f"passage.{name}": 0.2 for name in (*VERBATIM, *memo.TOKENWISE)},
            f"passage.{memo.muse_verbatim.id}.blind": 1,
            "passage.n": 2,
            f"forget.{mia.rwku_familiarity.id}": 300.0,
            f"retain.{mia.rwku_familiarity.id}": 700.0,
        }
    )
