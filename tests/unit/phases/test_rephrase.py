import polars as pl
import pytest
import torch
from machines import CPU

from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.generation import greedy_answers
from atu.metrics.answers import exact_match
from atu.metrics.rwku_recall import rwku_rouge_l_recall_fixed
from atu.models.llm import load_lm
from atu.phases import rephrase
from atu.phases.rephrase import (
    ITEMS,
    ROUGE,
    SCORES,
    gold_probabilities,
    score_items,
    summarise,
)
from atu.probes.prompts import ASIDE, FORMS, ORT, WHOLE, part_of
from atu.results.artifacts import MANIFEST
from atu.results.items import BLIND, OFFICIAL, PROBABILITY, SCORE, with_wordings, worst_forms
from atu.results.tables import PROBES, read_frame, read_table

EXACT_MATCH, FIXED = exact_match.id, rwku_rouge_l_recall_fixed.id
FORGET_ALL, NEIGHBOUR_ALL = "rwku_forget_all@faithful-1", "rwku_neighbour_all@faithful-1"


def frame(*rows):
    return pl.DataFrame(list(rows), schema=ITEMS, orient="row")


def probe_of(row):
    """What `prepare` writes of an item: no output and no scores."""
    return {name: row[name] for name in PROBES}


def reported(metrics, role="target"):
    """The metrics of a role on the `report` split, by the part of their keys that differs."""
    start, end = f"rephrase/{role}.", "/report"
    return {
        key.removeprefix(start).removesuffix(end): value
        for key, value in metrics.items()
        if key.startswith(start) and key.endswith(end)
    }


@pytest.fixture
def probes(make_item):
    return [probe_of(make_item("Ada/pet")), probe_of(make_item("Ada/food", answer="The red plum"))]


@pytest.fixture
def whole(make_item):
    """Two facts of the target in five forms on `report`, scored so that every number differs."""
    rows = [
        make_item(hit=1.0, **{ROUGE: 0.5, PROBABILITY: 0.5}),
        make_item(phrasing=1, **{PROBABILITY: 0.25}),
        make_item(seen=True, hit=1.0),
        make_item(form="cloze", output="", **{PROBABILITY: 0.75}),
        make_item(form="choice", hit=1.0, **{PROBABILITY: 0.25}),
        make_item(form="spelling", **{PROBABILITY: 0.125}),
        make_item(form="role_play", hit=1.0),
        make_item("Ada/food", **{PROBABILITY: 0.5}),
        make_item("Ada/food", seen=True, hit=1.0),
        make_item("Ada/food", seen=True, phrasing=1),
        make_item("Ada/food", "cloze", hit=1.0, **{PROBABILITY: 0.0}),
        make_item("Ada/food", "cloze", phrasing=1, **{PROBABILITY: 0.5}),
        make_item("Ada/food", "choice", **{PROBABILITY: 1.0}),
        make_item("Ada/food", "spelling", **{PROBABILITY: 0.25}),
        make_item("Ada/food", "role_play"),
    ]
    return [*rows, *(row | {"split": "select"} for row in rows)]


@pytest.fixture
def broken(chain):
    """The miniature's model with one weight that is not a number."""
    model, tokenizer = load_lm(chain.unlearn.subfolder("model"), CPU, training=True)
    with torch.no_grad():
        next(model.parameters())[5] = float("nan")
    return model, tokenizer


def test_scores(probes):
    """ "owl" is right, though RWKU's words are "The" and "owl". Of "red plum", once the article is
    gone, "a red berry" has neither the whole nor the words in a row; of the three words of "The red
    plum", "red" alone is in it: 1/3."""
    items = score_items(probes, ["The owl.", "a red berry"], [0.25, None])
    assert items.schema == pl.Schema(ITEMS)
    assert items.select("output", *SCORES, PROBABILITY).rows() == [
        ("The owl.", 1.0, 1.0, 1.0, 1.0, 0.25),
        ("a red berry", 0.0, 0.0, pytest.approx(1 / 3), pytest.approx(1 / 3), None),
    ]
    assert items.select(*PROBES).to_dicts() == probes


def test_what_has_no_score_is_null_and_not_0(probes):
    """RWKU's scorer fails on full stops alone; its repaired twin finds no word there."""
    items = score_items(probes, ["...", "The red plum"])
    assert items[ROUGE].to_list() == [None, 1.0]
    assert items[FIXED].to_list() == [0.0, 1.0]
    assert items[PROBABILITY].to_list() == [None, None]


@pytest.mark.parametrize(
    ("measure", "official", "blind"),
    [
        ("tofu_rouge_l_recall@fixed-1", 0.0, True),
        ("muse_knowledge@fixed-1", 0.0, True),
        ("rwku_rouge_l_recall@fixed-2", 1.0, False),
        ("exact_match@own-2", None, False),
    ],
)
def test_the_official_score_stands_beside_the_one_that_counts(make_item, measure, official, blind):
    """Of a Cyrillic answer TOFU's and MUSE's read nothing; RWKU's does, and exact match is ours."""
    probe = probe_of(make_item(measure=measure, answer="Ольга"))
    items = score_items([probe, probe | {"answer": "owl"}], ["Ольга", "owl"])
    assert items[SCORE].to_list() == [1.0, 1.0]
    assert items[OFFICIAL].to_list() == [official, None if official is None else 1.0]
    assert items[BLIND].to_list() == [blind, False]


def test_how_many_answers_the_official_score_cannot_read(make_item):
    """Held-out ones; its own mean is reported beside the repaired one's."""
    shared = {"measure": "tofu_rouge_l_recall@fixed-1"}
    rows = [
        make_item(**shared, **{SCORE: 1.0, OFFICIAL: 0.0, BLIND: True}),
        make_item("Ada/food", **shared, **{SCORE: 0.5, OFFICIAL: 0.5}),
        make_item("Ada/car", seen=True, **shared, **{SCORE: 1.0, OFFICIAL: 0.0, BLIND: True}),
    ]
    found = reported(summarise(frame(*rows, *(row | {"split": "select"} for row in rows))))
    assert found["tofu_rouge_l_recall@faithful-1.blind"] == 1
    assert found["question.tofu_rouge_l_recall@fixed-1"] == 0.75
    assert found["question.tofu_rouge_l_recall@faithful-1"] == 0.25


@pytest.mark.parametrize(
    ("output", "first", "second"),
    [("owl; plum", 1.0, 1.0), ("plum; owl", 0.0, 0.0), ("owl", 1.0, 0.0), ("; plum", 0.0, 1.0)],
)
def test_a_pair_is_scored_by_its_part(make_item, output, first, second):
    """The forget answer and the retain answer to one prompt; one that is missing is wrong."""
    pair = [
        probe_of(make_item(form="paired", part=0)),
        probe_of(make_item(form="paired", part=1, role="partner", answer="plum")),
    ]
    items = score_items(pair, [output, output])
    assert items[EXACT_MATCH].to_list() == [first, second]
    assert items["output"].to_list() == [output, output]


def test_a_single_answer_is_scored_whole(make_item):
    """A semicolon in it parts nothing."""
    items = score_items([probe_of(make_item(part=WHOLE))], ["owl; plum"])
    assert items.select(EXACT_MATCH, "contains@own-2").row(0) == (0.0, 1.0)


def test_an_empty_answer_is_scored_as_wrong(probes):
    """The model said nothing, which is an answer; that there is none is another matter."""
    items = score_items(probes, ["", ""])
    assert items[EXACT_MATCH].to_list() == items[ROUGE].to_list() == [0.0, 0.0]


@pytest.mark.parametrize("answers", [[], ["owl"], ["owl", "plum", "more"]])
def test_missing_answers_are_refused(probes, answers):
    with pytest.raises(EvaluationError, match=f"{len(answers)} answers for 2 probes"):
        score_items(probes, answers)


def test_missing_probabilities_are_refused(probes):
    with pytest.raises(ValueError, match="shorter"):
        score_items(probes, ["owl", "plum"], [0.5])


@pytest.mark.parametrize("step", ["answer_probes", "score_answers"])
@pytest.mark.parametrize("fail", [RuntimeError("it crashed"), EvaluationError("1 of 2")])
def test_a_crash_leaves_no_result(monkeypatch, tmp_path, chain, mini_params, step, fail):
    """It must never read as forgetting."""

    def crash(*_, **__):
        raise fail

    monkeypatch.setattr(rephrase, "answer_probes", lambda *_, **__: [""] * 10000)
    monkeypatch.setattr(rephrase, step, crash)
    with pytest.raises(type(fail), match=str(fail)):
        rephrase.run(
            tmp_path / "x" / MANIFEST, mini_params.rephrase, CPU, chain.unlearn, chain.prepared
        )
    assert list(tmp_path.iterdir()) == []


def test_a_logit_that_is_no_number_fails_the_job(monkeypatch, tmp_path, chain, mini_params, broken):
    """The message names the item whose prompt holds the ruined token; nothing is written."""
    monkeypatch.setattr(rephrase, "open_lm", lambda *_, **__: broken)
    with pytest.raises(EvaluationError, match=r"rephrase, item \d+: '.+': a logit is not finite"):
        rephrase.run(
            tmp_path / "x" / MANIFEST, mini_params.rephrase, CPU, chain.unlearn, chain.prepared
        )
    assert list(tmp_path.iterdir()) == []


def test_a_gold_answer_with_a_ruined_logit_is_named(make_item, broken):
    probes = [probe_of(make_item(form="paired")), probe_of(make_item())]
    with torch.no_grad():
        next(broken[0].parameters())[:] = float("nan")
    with pytest.raises(EvaluationError, match="gold answers, item 0: a logit is not finite"):
        gold_probabilities(*broken, probes, BatchSize(4))


def test_gold_probabilities(chain, make_item):
    """In ORT's four forms exp of the mean log-probability of the answer's own tokens, without the
    prompt's and the end token; the others have none. (No loss of ours is used here.)"""
    model, tokenizer = load_lm(chain.unlearn.subfolder("model"), CPU, training=True)
    probes = [probe_of(make_item(form=form, answer="a red owl")) for form in FORMS]
    found = dict(
        zip(FORMS, gold_probabilities(model, tokenizer, probes, BatchSize(3)), strict=True)
    )
    assert {form for form, value in found.items() if value is not None} == set(ORT)
    for probe in probes:
        if probe["form"] not in ORT:
            continue
        prompt = tokenizer(probe["prompt"])["input_ids"]
        ids = tokenizer(probe["prompt"] + " a red owl")["input_ids"]
        assert ids[: len(prompt)] == prompt
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        answer = [logs[at - 1, ids[at]].item() for at in range(len(prompt), len(ids))]
        expected = torch.tensor(answer).mean().exp().item()
        assert found[probe["form"]] == pytest.approx(expected, rel=1e-4)


def test_worst_forms(make_item):
    """Ada/pet: question (1 + 0) / 2, cloze 1, so 1. Ada/food: question 0, cloze (0 + 1) / 2, so .5.
    Of ORT's probability, what has none is no form."""
    rows = [
        make_item("Ada/pet", hit=1.0), make_item("Ada/pet"),
        make_item("Ada/pet", "cloze", hit=1.0, **{PROBABILITY: 0.1}),
        make_item("Ada/food", **{PROBABILITY: 0.3}), make_item("Ada/food", "paired", hit=0.5),
        make_item("Ada/food", "cloze", hit=0.0), make_item("Ada/food", "cloze", hit=1.0),
    ]  # fmt: skip
    assert worst_forms(frame(*rows)) == {"Ada/food": 0.5, "Ada/pet": 1.0}
    assert worst_forms(frame(*rows), PROBABILITY) == {"Ada/food": 0.5, "Ada/pet": 0.5}
    paired = frame(*rows).filter(pl.col("form") == "paired")
    assert worst_forms(paired, PROBABILITY) == {}


def test_the_worst_of_two_wordings(make_item):
    """Ada/food: 0, 0 and 1 as pairs 0, 1, 1: 2/3. Ada/pet has one wording and a seen one: it is
    left out and counted. Ada/job: 1 and 1. So the mean is 5/6 of two facts. Another name of the
    subject counts nowhere, but has a number of its own."""
    rows = [
        make_item("Ada/food"), make_item("Ada/food", "cloze"),
        make_item("Ada/food", "role_play", hit=1.0), make_item("Ada/pet", hit=1.0),
        make_item("Ada/pet", seen=True, hit=1.0), make_item("Ada/job", hit=1.0),
        make_item("Ada/job", "cloze", hit=1.0),
    ]  # fmt: skip
    two = [make_item("Ada/pet", "alias", hit=1.0, worst_of=ASIDE)]
    two += [row | {"worst_of": 2, "id": str(i)} for i, row in enumerate(rows)]
    both = frame(*two, *(row | {"split": "select", "fact": "x"} for row in two))
    assert worst_forms(frame(*two).filter(~pl.col("seen"))) == {
        "Ada/food": pytest.approx(2 / 3),
        "Ada/job": 1.0,
    }
    found = reported(summarise(both))
    assert found[f"worst_of_2.{EXACT_MATCH}.worst_form@own-2"] == pytest.approx(5 / 6)
    assert (found["worst_of_2.n"], found["worst_of_2.too_few"]) == (2, 1)
    assert f"worst_adversarial_of_2.{EXACT_MATCH}.worst_form@own-2" not in found
    assert (found["worst_adversarial_of_2.n"], found["worst_adversarial_of_2.too_few"]) == (0, 1)
    assert [found[f"wordings_{name}"] for name in ("min", "median", "max")] == [1, 2, 3]
    assert found[f"worst.{EXACT_MATCH}"] == found[f"alias.{EXACT_MATCH}"] == 1.0
    wordings = with_wordings(frame(*two)).select("fact", "wordings").unique()
    assert dict(wordings.rows()) == {"Ada/food": 3, "Ada/pet": 1, "Ada/job": 2}


def test_summary(whole):
    """By hand, from the 15 rows of `whole`.

    Worst exact match: of pet the choice's 1, of food the cloze's 1/2: .75; of the adversarial forms
    (choice, role play) 1 and 0. Worst of ORT's probability: of pet the cloze's .75, of food the
    choice's 1: .875. RWKU's levels by its own score: cloze 1/3, question (.5 + 0 + 0) / 3 = 1/6,
    adversarial 2 of 4. Seen questions 2 of 3 right, others 1 of 3.
    """
    metrics = summarise(frame(*whole))
    forget_all = {
        score: (3268 / 3 + 2879 * question + 6984 / 2) / 13131
        for score, question in ((ROUGE, 1 / 6), (FIXED, 1 / 3))
    }
    assert reported(metrics) == pytest.approx(
        {
            "empty_answers": 1 / 15,
            f"choice.{EXACT_MATCH}": 1 / 2,
            "choice.n": 2,
            f"choice.{PROBABILITY}": 0.625,
            f"cloze.{EXACT_MATCH}": 1 / 3,
            "cloze.n": 3,
            f"cloze.{PROBABILITY}": 1.25 / 3,
            f"question.{EXACT_MATCH}": 1 / 3,
            "question.n": 3,
            f"question.{PROBABILITY}": 1.25 / 3,
            f"role_play.{EXACT_MATCH}": 1 / 2,
            "role_play.n": 2,
            f"spelling.{EXACT_MATCH}": 0,
            "spelling.n": 2,
            f"spelling.{PROBABILITY}": 0.1875,
            f"worst.{EXACT_MATCH}": 0.75,
            "wordings_min": 5,
            "wordings_median": 5,
            "wordings_max": 5,
            f"cloze.{ROUGE}": 1 / 3,
            f"question.{ROUGE}": 1 / 6,
            f"adversarial.{ROUGE}": 1 / 2,
            f"all.{ROUGE}.{FORGET_ALL}": forget_all[ROUGE],
            f"cloze.{FIXED}": 1 / 3,
            f"question.{FIXED}": 1 / 3,
            f"adversarial.{FIXED}": 1 / 2,
            f"all.{FIXED}.{FORGET_ALL}": forget_all[FIXED],
            f"question_seen.{EXACT_MATCH}": 2 / 3,
            f"question.{EXACT_MATCH}.seen_gap@own-1": -1 / 3,
            f"worst_ort.{PROBABILITY}": 0.875,
            f"worst_adversarial.{EXACT_MATCH}": 0.5,
        }
    )


def test_the_metrics_are_named_by_name_and_version(whole):
    """As they stand in `metrics.json`."""
    metrics = summarise(frame(*whole))
    assert metrics["rephrase/target.question.exact_match@own-2/report"] == pytest.approx(1 / 3)
    assert metrics["rephrase/target.worst_ort.ort_probability@faithful-1/report"] == 0.875
    rouge = "rephrase/target.all.rwku_rouge_l_recall@faithful-1.rwku_forget_all@faithful-1/report"
    assert rouge in metrics


def test_splits_are_summed_up_apart(whole):
    """With everything wrong on `select`, `report` is as it was."""
    rows = [r if r["split"] == "report" else r | {EXACT_MATCH: 0.0, SCORE: 0.0} for r in whole]
    before, after = summarise(frame(*whole)), summarise(frame(*rows))
    assert reported(after) == reported(before)
    assert after[f"rephrase/target.worst.{EXACT_MATCH}/select"] == 0.0
    assert before[f"rephrase/target.worst.{EXACT_MATCH}/select"] == 0.75


def test_a_seen_wording_counts_in_its_own_numbers_only(whole):
    """Held-out forms, levels and worst forms do not move with it; the gap does."""
    seen = [
        row | ({EXACT_MATCH: 0.0, SCORE: 0.0, ROUGE: 0.0} if row["seen"] else {}) for row in whole
    ]
    before, after = (reported(summarise(frame(*rows))) for rows in (whole, seen))
    assert {name for name in before if before[name] != after[name]} == {
        f"question_seen.{EXACT_MATCH}", f"question.{EXACT_MATCH}.seen_gap@own-1",
    }  # fmt: skip
    assert after[f"question.{EXACT_MATCH}.seen_gap@own-1"] == pytest.approx(1 / 3)


def test_roles_that_are_not_the_target(whole, make_item):
    """Neighbours have RWKU's two levels with its neighbour weights; countries, which have no cloze,
    have none; neither has what is asked of the target only."""
    others = [
        make_item("Bob/pet", hit=1.0, role="neighbour"),
        make_item("Bob/pet", "cloze", role="neighbour"),
        make_item("Dania/sea", hit=1.0, role="general"),
    ]
    others += [row | {"split": "select"} for row in others]
    metrics = summarise(frame(*whole, *others))
    neighbour, general = reported(metrics, "neighbour"), reported(metrics, "general")
    assert set(general) == {
        "empty_answers", f"question.{EXACT_MATCH}", "question.n", f"question.{PROBABILITY}",
        f"worst.{EXACT_MATCH}",
    }  # fmt: skip
    levels = {f"{level}.{score}" for level in ("cloze", "question") for score in (ROUGE, FIXED)}
    totals = {f"all.{score}.{NEIGHBOUR_ALL}" for score in (ROUGE, FIXED)}
    cloze = {f"cloze.{EXACT_MATCH}", "cloze.n", f"cloze.{PROBABILITY}"}
    assert set(neighbour) == set(general) | cloze | levels | totals
    assert neighbour[f"all.{ROUGE}.{NEIGHBOUR_ALL}"] == pytest.approx(5533 / 11379)
    assert reported(metrics) == reported(summarise(frame(*whole)))


@pytest.mark.parametrize("form", ["cloze", "question", "role_play"])
def test_a_mean_over_what_could_be_scored_is_no_mean(whole, form):
    """RWKU's score is not defined for "...": with one such item of a level, neither the level nor
    the mean of the levels is a number, and their count says why. The repaired score and exact match
    are as before."""
    rows = [dict(row) for row in whole]
    next(row for row in rows if row["form"] == form and row["fact"] == "Ada/food")[ROUGE] = None
    before, after = (reported(summarise(frame(*found))) for found in (whole, rows))
    level = "adversarial" if form == "role_play" else form
    gone = {f"{level}.{ROUGE}", f"all.{ROUGE}.{FORGET_ALL}"}
    assert set(before) - set(after) == gone
    assert after[f"{level}.{ROUGE}.not_scored"] == 1.0
    assert {name: after[name] for name in set(before) - gone} == {
        name: value for name, value in before.items() if name not in gone
    }


def test_a_model_of_full_stops_has_a_summary(whole):
    """It is ruined, which exact match says; RWKU's scorer cannot say anything of it, and the phase
    must not fail for that."""
    dots = {"output": "...", ROUGE: None} | dict.fromkeys({*SCORES, SCORE} - {ROUGE}, 0.0)
    found = reported(summarise(frame(*(row | dots for row in whole))))
    assert found[f"worst.{EXACT_MATCH}"] == 0.0
    assert found[f"question.{FIXED}"] == 0.0
    assert f"question.{ROUGE}" not in found


def test_a_target_without_held_out_items_is_refused(whole):
    """No mean over nothing."""
    with pytest.raises(EvaluationError, match="target"):
        summarise(frame(*whole).filter(pl.col("seen")))


@pytest.mark.parametrize(
    ("form", "gone"),
    [("cloze", ("worst_adversarial", "adversarial")), ("role_play", ("worst_ort", "cloze"))],
)
def test_a_kind_of_item_that_nobody_asked_has_no_number(whole, form, gone):
    """Clozes alone, or role play alone: no 0 for the rest."""
    found = reported(summarise(frame(*whole).filter(pl.col("form") == form)))
    assert not [name for name in found if name.startswith(gone)]
    assert f"{form}.{EXACT_MATCH}" in found


def test_without_seen_wordings_there_is_no_number_for_them(whole):
    """0 would read as forgotten."""
    found = reported(summarise(frame(*(row for row in whole if not row["seen"]))))
    assert not [name for name in found if "seen" in name]


def test_every_probe_is_answered(chain):
    """In the order of the probes, in every form that the world has, role and split."""
    probes = read_table(chain.prepared.file("probes.parquet"))
    items = read_frame(chain.rephrase.file("items.parquet")).to_dicts()
    assert [{k: item[k] for k in probes[0]} for item in items] == probes
    assert {item["form"] for item in items if item["role"] == "target"} == set(FORMS) - {"alias"}
    assert all(isinstance(item["output"], str) and "\n" not in item["output"] for item in items)


def test_items_hold_what_their_columns_say(chain):
    """Every score can be computed again from the stored output; ORT's probability is there in ORT's
    forms and nowhere else; both probes of a pair hold the same output."""
    items = read_frame(chain.rephrase.file("items.parquet")).to_dicts()
    outputs = {}
    for item in items:
        said = part_of(item["output"], item["part"])
        assert {name: item[name] for name in SCORES} == {
            name: score(said, item["answer"]) for name, score in SCORES.items()
        }
        assert (item[PROBABILITY] is not None) == (item["form"] in ORT)
        assert outputs.setdefault(item["prompt"], item["output"]) == item["output"]
    assert len(outputs) < len(items)


def test_the_model_is_the_unlearned_one(chain, mini_params):
    """Asked alone, it answers as it did in the batch."""
    model, tokenizer = load_lm(chain.unlearn.subfolder("model"), CPU, training=True)
    items = read_frame(chain.rephrase.file("items.parquet")).to_dicts()[:3]
    for item in items:
        alone = greedy_answers(
            model,
            tokenizer,
            [item["prompt"]],
            max_new_tokens=mini_params.rephrase.max_new_tokens,
            batch_size=BatchSize(1),
        )
        assert alone == [item["output"]]


def test_a_role_whose_facts_are_all_in_one_split_has_no_number_in_the_other(whole, make_item):
    """A person's few neighbours, by their hashes. The target is in both, or prepare refuses it."""
    near = make_item("Bob/pet", split="select", role="neighbour", hit=1.0)
    metrics = summarise(frame(*whole, make_item(split="select"), near))
    assert metrics[f"rephrase/neighbour.question.{EXACT_MATCH}/select"] == 1.0
    assert not [key for key in metrics if "/neighbour." in key and key.endswith("/report")]
    assert reported(metrics) == reported(summarise(frame(*whole)))
