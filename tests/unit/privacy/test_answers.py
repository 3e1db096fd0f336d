import numpy as np
import polars as pl
import pytest

from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.metrics import memorisation as memo
from atu.metrics.muse_knowledge import muse_knowledge_fixed
from atu.metrics.options import option_accuracy
from atu.metrics.tofu_recall import tofu_rouge_l_recall_fixed
from atu.privacy import answers as module
from atu.privacy.answers import (
    FAITHFUL,
    RATIOS,
    ROLES,
    answer_scores,
    answer_table,
    memorisation_metrics,
)
from atu.probes.prompts import WHOLE

CODE, PAPER, PLUS, SHARE = RATIOS
"""TOFU's ratio by its code and by its paper, and open-unlearning's two."""


def test_answer_scores(tokens):
    """The gold answer's tokens, the end token among them, have 1/2 and 1/8: 1/4 per token. The
    wrong answers have 1/2 and 1/8: their geometric mean is 1/4, their arithmetic mean 5/16. So the
    code's ratio is 1, the paper's 5/4, the share 1/2; of all three options 1/4 : 7/8 = 2/7.

    Without the end token the first of two tokens matches: 1/2, and the last does not: nothing of
    the end is extracted (open-unlearning gives 1/2 for it). "the old clocks" shares old and, with
    the s cut off, clock with "old tall clock": 2/3; without, old alone: F = 1/3.
    """
    right = tokens(np.log([1 / 2, 1 / 8, 1 / 4]), [True, False, True])
    wrong = [tokens(np.log([1 / 2, 1 / 2])), tokens(np.log([1 / 8]))]
    probe = {"output": "the old clocks", "part": WHOLE, "answer": "old tall clock"}
    assert answer_scores(probe, right, right, wrong) == pytest.approx(
        {
            CODE: 1.0,
            PAPER: 5 / 4,
            PLUS: 1.0,
            SHARE: 1 / 2,
            "tofu_probability@faithful-1": 1 / 4,
            "tofu_option_probability@faithful-2": 2 / 7,
            "open_unlearning_option_probability@faithful-1": 2 / 7,
            "option_accuracy@own-1": 0.0,
            "tofu_rouge_l_recall@faithful-1": 2 / 3,
            "tofu_rouge_l_recall@fixed-1": 2 / 3,
            "muse_knowledge@faithful-2": 1 / 3,
            "muse_knowledge@fixed-1": 1 / 3,
            "open_unlearning_knowledge@faithful-1": 2 / 3,
            "exact_memorisation@faithful-1": 1 / 2,
            "extraction_strength@faithful-1": 1 / 2,
            "extraction_strength@fixed-1": 0.0,
            "blind": False,
        }
    )


def test_the_likeliest_answer_is_chosen_without_its_end(tokens):
    """1/2 against 1/4 and 1/2 * 1/8, whatever the ends have. Where the answer was trained word for
    word, its paraphrase stands for it."""
    right = tokens(np.log([1 / 2, 1e-6]))
    wrong = [tokens(np.log([1 / 4, 1 / 2])), tokens(np.log([1 / 2, 1 / 8, 1 / 2]))]
    probe = {"output": "", "part": WHOLE, "answer": "owl"}
    assert answer_scores(probe, right, right, wrong)[option_accuracy.id] == 1.0
    assert answer_scores(probe, right, wrong[0], [right])[option_accuracy.id] == 0.0
    assert answer_scores(probe, right, right, [])[option_accuracy.id] is None


def test_answers_that_the_official_scores_cannot_read(tokens):
    """Of "Ольга" they read nothing, and the repaired ones everything."""
    probe = {"output": "Ольга", "part": WHOLE, "answer": "Ольга"}
    right = tokens([-1.0, -1.0])
    found = answer_scores(probe, right, right, [])
    assert found["tofu_rouge_l_recall@faithful-1"] == found["muse_knowledge@faithful-2"] == 0.0
    assert found["tofu_rouge_l_recall@fixed-1"] == found["muse_knowledge@fixed-1"] == 1.0
    assert found["blind"] is True
    table = pl.DataFrame([{"id": "1", "fact": "f", "role": "target", "answer": "a", "output": "o"}
                          | answer_scores(probe | {"output": text}, right, right, [])
                          for text in ("Ольга", "Olga", "Ольга")])  # fmt: skip
    metrics = memorisation_metrics(table, None)
    assert metrics["target.tofu_rouge_l_recall@faithful-1.blind"] == 3
    plain = table.with_columns(pl.Series("blind", [True, False, False]))
    assert memorisation_metrics(plain, None)["target.muse_knowledge@faithful-2.blind"] == 1


@pytest.mark.filterwarnings("error")
def test_a_ruined_model_has_every_number(tokens):
    """Ten thousand nats per token, of right and wrong answers alike, or of one of them."""
    probe = {"output": "", "part": WHOLE, "answer": "owl"}
    ruined, sure = tokens([-1e4, -1e4]), tokens([0.0, 0.0])
    rows = [
        {"id": f"{role}{i}", "fact": "f", "role": role, "answer": "owl", "output": ""}
        | answer_scores(probe, right, right, [wrong, wrong])
        for role in ROLES
        for i, (right, wrong) in enumerate([(ruined, ruined), (ruined, sure), (sure, ruined)])
    ]
    table = pl.DataFrame(rows)
    metrics = memorisation_metrics(table, table)
    assert all(np.isfinite(value) for value in metrics.values())
    name = "target.tofu_option_probability@faithful-2"
    assert metrics[name] == pytest.approx((1 / 3 + 0 + 1) / 3)


def test_answer_scores_of_a_part(tokens):
    """Of "elk; owl" the second answer is "owl"."""
    probe = {"output": "elk; owl", "part": 1, "answer": "owl"}
    right = tokens([-1.0, -1.0])
    found = answer_scores(probe, right, right, [tokens([-1.0])])
    assert found[tofu_rouge_l_recall_fixed.id] == found[muse_knowledge_fixed.id] == 1.0


@pytest.fixture
def scored_by_length(monkeypatch, tokens):
    """Instead of a model: every token of an answer has log-probability minus its length in
    letters. What was asked is kept."""
    asked = []

    def score(model, tokenizer, prompts, answers, *, batch_size, end, label):
        asked.extend(zip(prompts, answers, strict=True))
        assert end
        return [tokens([-float(len(answer))] * 2) for answer in answers]

    monkeypatch.setattr(module, "score_answers", score)
    return asked


def test_only_reported_held_out_questions_are_asked(make_item, scored_by_length):
    """Not those of the `select` split, nor seen ones, other forms, or roles without a set."""
    kept = [make_item(f"{role}/pet", role=role) for role in ROLES]
    banned = [
        make_item("No/1", split="select"), make_item("No/2", seen=True),
        make_item("No/3", "cloze"), make_item("No/4", "paired", part=0),
        make_item("No/5", role="partner"), make_item("No/6", role="control"),
    ]  # fmt: skip
    items = pl.DataFrame([*banned, *kept])
    table = answer_table(None, None, items, BatchSize(2))
    assert table["id"].to_list() == [row["id"] for row in kept]
    assert {prompt for prompt, _ in scored_by_length} == {row["prompt"] for row in kept}
    assert [answer for _, answer in scored_by_length] == ["owl", "elk", "emu"] * len(kept)


def test_every_question_keeps_its_own_answers(make_item, scored_by_length):
    """However many wrong answers each has: right -2, wrong (-3, -3); right -4, wrong -1."""
    items = pl.DataFrame(
        [make_item("a/1", answer="aa", wrong=["bbb", "ccc"], output="aa"),
         make_item("a/2", answer="dddd", wrong=["e"], output="no")]
    )  # fmt: skip
    table = answer_table(None, None, items, BatchSize(2))
    assert table.columns[:5] == ["id", "fact", "role", "answer", "output"]
    assert table[memo.tofu_probability.id].to_list() == pytest.approx(np.exp([-2, -4]))
    assert table[CODE].to_list() == pytest.approx(np.exp([2 - 3, 4 - 1]))
    assert table[tofu_rouge_l_recall_fixed.id].to_list() == [1.0, 0.0]


def test_truth_ratios_stand_on_the_paraphrase(make_item, scored_by_length):
    """Answer -2, paraphrase -5, wrong -3: the ratio is e^(5 - 3), not e^(2 - 3); the probability
    stays the answer's. Without a paraphrase the answer is asked once."""
    items = pl.DataFrame(
        [make_item("a/1", answer="aa", paraphrased="ppppp", wrong=["bbb"]),
         make_item("a/2", answer="cc", paraphrased=None, wrong=["ddd"])]
    )  # fmt: skip
    table = answer_table(None, None, items, BatchSize(2))
    assert [answer for _, answer in scored_by_length] == ["aa", "ppppp", "bbb", "cc", "ddd"]
    assert table[CODE].to_list() == pytest.approx(np.exp([5 - 3, 2 - 3]))
    assert table[memo.tofu_probability.id].to_list() == pytest.approx(np.exp([-2, -2]))


def answers(*rows):
    """A table of `(role, probability, share of options, rouge, ratio)`, the paper's ratio twice and
    open-unlearning's half the code's."""
    names = [
        memo.tofu_probability.id,
        memo.tofu_option_probability.id,
        tofu_rouge_l_recall_fixed.id,
    ]
    return pl.DataFrame(
        [
            {"id": f"q{i}", "fact": f"f{i}", "role": role, "answer": "a", "output": "o"}
            | dict(zip(names, scores, strict=True))
            | {CODE: ratio, PAPER: 2 * ratio, PLUS: ratio, SHARE: ratio / 2, "blind": False}
            for i, (role, *scores, ratio) in enumerate(rows)
        ]
    )


ANSWERS = [
    ("target", 0.1, 0.3, 0.0, 0.5), ("target", 0.2, 0.3, 0.0, 4.0), ("target", 0.3, 0.3, 0.6, 1.0),
    ("other", 0.5, 0.1, 1.0, 0.5), ("other", 0.7, 0.1, 0.0, 0.25),
    ("neighbour", 0.9, 0.4, 0.8, 0.25),
    ("general", 0.9, 0.5, 1.0, 0.5),
]  # fmt: skip


def test_memorisation_by_hand():
    """Model utility is the harmonic mean of nine numbers: of other people the probability .6, ROUGE
    .5 and 1 - R = (.5 + .75) / 2; of neighbours and countries the share of the options (.4, .5) in
    place of the probability, ROUGE (.8, 1) and 1 - R (.75, .5). Their inverses add up to 15.35.

    Forget quality sees ranks: against ratios that all lie above ours p = 2 / C(6, 3) = 1/10.
    """
    table = answers(*ANSWERS)
    reference = table.with_columns(pl.col(CODE) + 10).reverse()
    metrics = memorisation_metrics(table, reference)
    assert metrics[f"all.{memo.tofu_model_utility.id}"] == pytest.approx(9 / 15.35)
    assert metrics[f"target.{CODE}.{memo.tofu_forget_quality.id}"] == pytest.approx(-1)
    assert metrics[f"target.{PAPER}.{memo.tofu_forget_quality.id}"] == 0.0
    assert metrics[f"target.{SHARE}.{memo.tofu_forget_quality.id}"] == 0.0
    retain = memo.tofu_retain_truth_ratio.id
    sets = {
        "target": (3, 0.2, 0.3, 0.2, memo.tofu_forget_truth_ratio.id, 7 / 12, 11 / 12),
        "other": (2, 0.6, 0.1, 0.5, retain, 0.625, 0.1875),
        "neighbour": (1, 0.9, 0.4, 0.8, retain, 0.75, 0.125),
        "general": (1, 0.9, 0.5, 1.0, retain, 0.5, 0.25),
    }
    expected = {}
    for role, (count, probability, option, rouge, name, ratio, share) in sets.items():
        expected |= {
            f"{role}.n": count,
            f"{role}.{memo.tofu_probability.id}": probability,
            f"{role}.{memo.tofu_option_probability.id}": option,
            f"{role}.{tofu_rouge_l_recall_fixed.id}": rouge,
            f"{role}.{name}": ratio,
            f"{role}.{PLUS}.{name}": ratio,
            f"{role}.{SHARE}": share,
        } | {f"{role}.{faithful}.blind": 0 for faithful in FAITHFUL}
    rest = {k: v for k, v in metrics.items() if "forget_quality" not in k and "all." not in k}
    assert rest == pytest.approx(expected)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_the_benchmark_does_not_have_has_no_numbers(role):
    """There are nine numbers or there is no model utility."""
    table = answers(*(row for row in ANSWERS if row[0] != role))
    found = memorisation_metrics(table, table)
    assert not any(name.startswith(f"{role}.") for name in found)
    assert any(name.startswith("all.") for name in found) is (role == "target")
    assert "all.tofu_model_utility@faithful-1" in memorisation_metrics(*[answers(*ANSWERS)] * 2)


def test_without_wrong_answers_there_is_no_truth_ratio(tokens):
    """Of a benchmark that has none: null for the question, and no mean."""
    probe = {"output": "owl", "part": WHOLE, "answer": "owl"}
    right = tokens([-1.0, -1.0])
    scores = answer_scores(probe, right, right, [])
    assert [scores[name] for name in RATIOS] == [None] * 4
    assert scores[memo.tofu_option_probability.id] is None
    assert scores[memo.tofu_probability.id] == pytest.approx(np.exp(-1))


def test_the_order_of_the_references_questions_does_not_matter():
    table = answers(*ANSWERS)
    assert memorisation_metrics(table, table.reverse()) == memorisation_metrics(table, table)


def test_other_questions_about_the_target_are_refused():
    """Those about anybody else are not compared."""
    table = answers(*ANSWERS)
    renamed = table.with_columns(
        pl.when(pl.col("role") == "other").then(pl.lit("x")).otherwise("id").alias("id")
    )
    assert memorisation_metrics(table, renamed) == memorisation_metrics(table, table)
    with pytest.raises(EvaluationError, match="other questions"):
        memorisation_metrics(table, table.tail(-1))
