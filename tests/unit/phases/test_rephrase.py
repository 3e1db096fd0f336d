import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.artifacts import MANIFEST
from atu.data.tables import read_table
from atu.errors import EvaluationError
from atu.phases import rephrase
from atu.phases.rephrase import ITEMS, SCORES, score_items, summarise, worst_form


def frame(*rows):
    return pl.DataFrame(list(rows), schema=ITEMS, orient="row")


@pytest.fixture
def probes(make_item):
    """Two probes as `prepare` writes them: without output and scores."""
    whole = [make_item("Ada/pet"), make_item("Ada/food", answer="The red plum")]
    return [{k: v for k, v in row.items() if k not in (*SCORES, "output")} for row in whole]


def test_scores(probes):
    """ "owl" is right. Of "red plum", once the article is gone, "a red berry" has neither the whole
    nor the words in a row; of the three words of "The red plum", "red" alone is in it: 1/3."""
    items = score_items(probes, ["The owl.", "a red berry"])
    assert items.schema == pl.Schema(ITEMS)
    assert items.select("output", *SCORES).rows() == [
        ("The owl.", 1.0, 1.0, 1.0),
        ("a red berry", 0.0, 0.0, pytest.approx(1 / 3)),
    ]


def test_an_empty_answer_is_scored_as_wrong(probes):
    """The model said nothing, which is an answer; that there is none is another matter."""
    assert score_items(probes, ["", ""])["exact_match"].to_list() == [0.0, 0.0]


@pytest.mark.parametrize("answers", [[], ["owl"], ["owl", "plum", "more"]])
def test_missing_answers_are_refused(probes, answers):
    with pytest.raises(EvaluationError, match=f"{len(answers)} answers for 2 probes"):
        score_items(probes, answers)


@pytest.mark.parametrize(
    "fail", [RuntimeError("generation crashed"), EvaluationError("1 answers for 2 prompts")]
)
def test_a_crash_leaves_no_result(monkeypatch, tmp_path, chain, mini_params, fail):
    """It must never read as forgetting."""

    def crash(*_, **__):
        raise fail

    monkeypatch.setattr(rephrase, "greedy_answers", crash)
    with pytest.raises(type(fail), match=str(fail)):
        rephrase.run(tmp_path / "x" / MANIFEST, mini_params.rephrase, chain.unlearn, chain.prepared)
    assert list(tmp_path.iterdir()) == []


def test_worst_form(make_item):
    """Ada/pet: question (1 + 0) / 2, cloze 1, so 1. Ada/food: question 0, cloze (0 + 1) / 2, so .5.
    Phrasings of one form are averaged; the worst is taken over forms, not over phrasings."""
    rows = [
        make_item("Ada/pet", hit=1.0), make_item("Ada/pet", hit=0.0),
        make_item("Ada/pet", "cloze", hit=1.0),
        make_item("Ada/food", hit=0.0),
        make_item("Ada/food", "cloze", hit=0.0), make_item("Ada/food", "cloze", hit=1.0),
    ]  # fmt: skip
    found = worst_form(frame(*rows)).select("fact", "exact_match").rows()
    assert found == [("Ada/food", 0.5), ("Ada/pet", 1.0)]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0, 1)), min_size=1)
)
def test_the_worst_form_is_never_below_the_mean(rows):
    """Per fact, the largest of the forms' means is at least the mean of all its items."""
    items = pl.DataFrame(rows, schema=["fact", "form", "exact_match"], orient="row")
    means = items.group_by("fact").agg(pl.col("exact_match").mean()).sort("fact")
    worst = worst_form(items)
    assert worst["fact"].to_list() == means["fact"].to_list()
    assert (worst["exact_match"] - means["exact_match"]).min() >= -1e-12


def test_summary(make_item):
    """On `report`: of two held-out questions one is right, the cloze is wrong, the seen question
    right. The worst form of the one fact is the question's 1/2; one of 4 outputs is empty. On
    `select` everything is wrong."""
    rows = [
        make_item(hit=1.0, phrasing=0), make_item(hit=0.0, phrasing=1),
        make_item(form="cloze", output=""), make_item(seen=True, hit=1.0),
        make_item(split="select"),
    ]  # fmt: skip
    metrics = summarise(frame(*rows))
    assert {k: v for k, v in metrics.items() if k.endswith("/report")} == {
        "rephrase/target_question_exact_match/report": 0.5,
        "rephrase/target_question_n/report": 2.0,
        "rephrase/target_cloze_exact_match/report": 0.0,
        "rephrase/target_cloze_n/report": 1.0,
        "rephrase/target_question_contains/report": 0.5,
        "rephrase/target_question_rouge_l_recall/report": 0.5,
        "rephrase/target_question_seen_exact_match/report": 1.0,
        "rephrase/target_worst_form_exact_match/report": 0.5,
        "rephrase/target_empty_answers/report": 0.25,
    }
    assert metrics["rephrase/target_question_exact_match/select"] == 0.0


@pytest.mark.parametrize("own", [{"split": "select"}, {"form": "cloze"}, {"seen": True}])
def test_a_role_without_held_out_questions_is_refused(make_item, own):
    """No mean over nothing: the `report` split lacks plain held-out questions in all three."""
    rows = [make_item(split="select"), make_item(**own)]
    with pytest.raises(EvaluationError, match="no items to average"):
        summarise(frame(*rows))


def test_every_probe_is_answered(chain):
    """In the order of the probes, in every form and both splits."""
    probes = read_table(chain.prepared.file("probes.parquet"))
    items = read_table(chain.rephrase.file("items.parquet"))
    assert [{k: item[k] for k in probes[0]} for item in items] == probes
    assert {item["form"] for item in items} == {
        "question", "cloze", "reverse", "choice", "two_hop",
    }  # fmt: skip
    assert all(isinstance(item["output"], str) and "\n" not in item["output"] for item in items)
