import dataclasses
import gc
import json
import shutil
import weakref

import pytest
import torch
from machines import CPU

from atu.attacks import relearn
from atu.attacks.base import Result, item
from atu.attacks.relearn import AFTER
from atu.config.load import load_params
from atu.config.sections import Choices, Search, Span
from atu.config.spaces import chosen_settings, search_row
from atu.config.written import EXPERIMENTS, chosen_overlay, yaml_text
from atu.errors import ConfigError, EvaluationError, MethodError, StoppedError, TrainingError
from atu.metrics.recovery import lasting_selection
from atu.models.guards.base import Guard
from atu.models.trainable import All, Layers
from atu.phases import search, unlearn
from atu.results.artifacts import MANIFEST, Artifact
from atu.training.keeper import Trace
from atu.unlearning.engine import Outcome, UnlearnInputs

COST = {"model_steps": 2, "predictor_steps": 1, "tokens": 10}
RATE = Span(low=1e-5, high=1e-3, log=True)


@pytest.fixture
def section(mini_params):
    """Four trials over GA's rate, which is 1e-4 in the file, and its batch size, which is 4."""
    spaces = {"ga": {"learning_rate": RATE, "batch_size": Choices(choices=[2, 4])}}
    targets = mini_params.grid.targets[:1]
    return Search(
        targets=targets,
        finalists=2,
        seed=0,
        trials=4,
        first="settings",
        relearn=None,
        common={},
        spaces=spaces,
    )


@pytest.fixture
def inputs(chain):
    return [UnlearnInputs(chain.full, chain.prepared, None, None)]


@pytest.fixture
def scored(monkeypatch, inputs):
    """Replaces the run of a method by a score of its settings, on further targets by `other`; lists
    what was tried. No model is opened for it."""

    def use(score, other=None):
        tried, first = [], inputs[0]

        def fake(model, tokenizer, settings, section, inputs, seed):
            tried.append((settings, section, seed))
            value = score(settings) if inputs is first else other(settings)
            if isinstance(value, Exception):
                raise value
            return Outcome(Trace(), [], {"selection": value, "step": 1}, {}, COST)

        monkeypatch.setattr(search, "run_method", fake)
        monkeypatch.setattr(search, "open_lm", lambda *_, **__: (None, None))
        monkeypatch.setattr(search, "drop_dead_models", lambda: None)
        return tried

    return use


def about(target, inputs):
    """The folders as if they were another target's."""
    manifest = inputs.prepare.manifest | {"cell": inputs.prepare.cell | {"target": target}}
    return dataclasses.replace(
        inputs, prepare=dataclasses.replace(inputs.prepare, manifest=manifest)
    )


@pytest.fixture
def searched(tmp_path, section, mini_params, inputs):
    """A function that searches on the section's target and on `further`."""

    def run(where="search", further=(), **changes):
        manifest = tmp_path / where / MANIFEST
        chosen = section.model_copy(update={"targets": [*section.targets, *further]} | changes)
        others = [about(target, inputs[0]) for target in further]
        search.run(manifest, chosen, CPU, mini_params.unlearn, "ga", [*inputs, *others])
        return Artifact.open(manifest, "search")

    return run


def test_the_first_trial_has_the_files_own_values(scored, searched, section):
    tried = scored(lambda settings: 0.5)
    searched()
    assert len(tried) == section.trials
    assert (tried[0][0].learning_rate, tried[0][0].batch_size) == (1e-4, 4)
    assert all(1e-5 <= s.learning_rate <= 1e-3 and s.batch_size in (2, 4) for s, *_ in tried)
    assert len({(s.learning_rate, s.batch_size) for s, *_ in tried}) > 1


def test_the_first_trial_is_drawn_too(scored, searched):
    """Red if the file's own values were tried: they may lie outside of what is searched."""
    tried = scored(lambda settings: 0.5)
    rates = Span(low=2e-4, high=1e-3, log=True)
    searched(first="drawn", spaces={"ga": {"learning_rate": rates}})
    assert all(2e-4 <= settings.learning_rate <= 1e-3 for settings, *_ in tried)


def test_what_is_common_and_whole_sections_are_searched(scored, searched):
    """A rate that the method's own space leaves alone, and one of two ways to train."""
    tried = scored(lambda settings: float(isinstance(settings.train, Layers)))
    some = {"update": "layers", "layers": [0, 1]}
    train = Choices(choices=[{"update": "all"}, some])
    found = searched(
        trials=6, common={"train": train, "learning_rate": RATE},
        spaces={"ga": {"learning_rate": None}},
    )  # fmt: skip
    assert {type(settings.train) for settings, *_ in tried} == {All, Layers}
    assert {settings.learning_rate for settings, *_ in tried} == {1e-4}
    assert chosen_settings(found, "ga").train == Layers("layers", [0, 1])
    assert {"train": some} in [trial["values"] for trial in found.read_jsonl("trials.jsonl")]


SMALL = """
base: world
experiment: small
search:
  first: drawn
  spaces:
    ga:
      learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
      train: {choices: [{update: all}, {update: layers, layers: [0]}]}
    rmu: {alpha: {low: 1.0, high: 2.0, log: false}}
"""


def test_what_was_chosen_is_an_experiment_that_searches_the_rest(scored, searched, tmp_path):
    """Laid over its base it has the chosen rate, and `train` without the layers of the base's."""
    scored(lambda settings: isinstance(settings.train, All) - settings.learning_rate)
    train = Choices(choices=[{"update": "all"}, {"update": "layers", "layers": [0]}])
    found = searched(first="drawn", spaces={"ga": {"train": train, "learning_rate": RATE}})
    shutil.copy(EXPERIMENTS / "world.yaml", tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    overlay = chosen_overlay(load_params(tmp_path / "small.yaml"), [found])
    (tmp_path / "small_chosen.yaml").write_text(yaml_text(overlay), encoding="utf-8")
    params = load_params(tmp_path / "small_chosen.yaml")
    assert (params.experiment, list(params.search.spaces)) == ("small_chosen", ["rmu"])
    assert params.track.experiment == params.experiment
    assert params.unlearn.methods["ga"].train == All("all")
    assert params.unlearn.methods["ga"].learning_rate == chosen_settings(found, "ga").learning_rate
    with pytest.raises(ConfigError, match="must hold finished searches of one model, not of 0"):
        chosen_overlay(params, [])


def test_the_best_is_chosen_and_costs_are_summed(scored, searched):
    """The smaller the rate, the better: the best of the tried; every trial cost 10 tokens."""
    tried = scored(lambda settings: 1 - settings.learning_rate * 500)
    found = searched()
    best = min(settings.learning_rate for settings, *_ in tried)
    assert chosen_settings(found, "ga").learning_rate == best
    assert found.metrics()["search/score/select"] == pytest.approx(1 - best * 500)
    assert found.metrics()["search/score_first/select"] == pytest.approx(0.95)
    totals = {name: found.metrics()[f"search/{name}/all"] for name in COST}
    assert totals == {"model_steps": 8, "predictor_steps": 4, "tokens": 40}
    assert found.metrics()["search/failed/all"] == 0


def test_of_equals_the_earlier_is_chosen(scored, searched):
    scored(lambda settings: 0.5)
    assert chosen_settings(searched(), "ga").learning_rate == 1e-4


def test_the_same_seed_tries_the_same(scored, searched):
    scored(lambda settings: 0.5)
    first, second = searched("first"), searched("second")
    assert first.digest == second.digest
    assert searched("third", seed=1).digest != first.digest


def test_a_trial_that_diverges_scores_nothing(scored, searched):
    """And is never chosen, although the others score as little; what it had cost counts."""
    scored(lambda s: MethodError("loss nan", COST) if s.learning_rate == 1e-4 else 0.0)
    found = searched()
    assert found.metrics()["search/tokens/all"] == 40
    assert found.metrics()["search/failed/all"] == 1
    assert chosen_settings(found, "ga").learning_rate != 1e-4
    assert found.read_jsonl("trials.jsonl")[0]["error"] == "loss nan"


@pytest.fixture
def fine_tune(mini_params):
    """A fine-tune of two steps."""
    settings = mini_params.attack.attacks["relearn"]
    return dataclasses.replace(settings, steps=2, every=1)


class Unhooked(Guard):
    """A guard that does nothing."""

    kind = "unhooked"

    def _hook(self, model):
        return []


def test_what_comes_back_lowers_the_score(scored, searched, monkeypatch, fine_tune):
    """The first trial's model hides what the others', with a lower selection, have lost: half of
    what was not taught comes back of the target, none of a person nobody knew."""
    chosen = iter([0.9, 0.8, 0.8, 0.7])
    scored(lambda settings: next(chosen))
    back = iter([0.5, 0.0, 0.25, 0.0])

    def tuned(context):
        probe = context.questions("target")[0]
        values = {"target": next(back), "control": 0.0}
        items = [item(probe | {"role": r}, AFTER, "m", v) for r, v in values.items()]
        return Result(items)

    model = torch.nn.Linear(1, 1).requires_grad_(False)
    guard = Unhooked({})
    guard.register_parameter("gain", torch.nn.Parameter(torch.ones(1)))
    guard.attach(model)
    monkeypatch.setattr(search, "open_lm", lambda *_, **__: (model, None))
    monkeypatch.setattr(search, "relearn", tuned)
    found = searched(relearn=fine_tune)
    trials = found.read_jsonl("trials.jsonl")
    assert [(t["selection"], t["relearned"], t["never_known"]) for t in trials] == [
        (0.9, 0.5, 0.0), (0.8, 0.0, 0.0), (0.8, 0.25, 0.0), (0.7, 0.0, 0.0)
    ]  # fmt: skip
    means = [6 / (5 / a + 1 / b) for a, b in ((0.9, 0.5), (0.8, 1.0), (0.8, 0.75), (0.7, 1.0))]
    assert search_row(found)["scores"] == pytest.approx(means)
    assert search_row(found)["trial"] == 2
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"weight", "bias"}, "a guard stays, as where an attack opens the folder"


def test_a_real_fine_tune_reads_select_questions(searched, fine_tune, monkeypatch):
    """One trial of the miniature; the score is of the two numbers beside it."""
    asked = []
    planned = relearn.planned
    monkeypatch.setattr(
        relearn, "planned", lambda texts: asked.append(texts.probes) or planned(texts)
    )
    (trial,) = searched(trials=1, relearn=fine_tune).read_jsonl("trials.jsonl")
    assert {probe["split"] for probes in asked for probe in probes} == {"select"}
    names = ("selection", "relearned", "never_known")
    assert trial["score"] == lasting_selection(*(trial[name] for name in names))


def test_a_fine_tune_without_questions_is_refused_before_any_trial(scored, searched, fine_tune):
    """More folds than the target has facts."""
    tried = scored(lambda settings: 0.5)
    with pytest.raises(ConfigError, match=r"search\.relearn = 99: .*99 folds.*or set null"):
        searched(relearn=dataclasses.replace(fine_tune, folds=99))
    assert not tried


def test_a_model_that_cannot_be_fine_tuned_scores_nothing(scored, searched, fine_tune, monkeypatch):
    """As one whose unlearning diverges; what it had cost counts."""
    scored(lambda settings: 0.5)
    broken = iter([TrainingError("loss nan"), EvaluationError("answers nothing")])

    def tuned(context):
        if (error := next(broken, None)) is not None:
            raise error
        probe = context.questions("target")[0]
        return Result([item(probe | {"role": r}, AFTER, "m", 0.0) for r in ("target", "control")])

    monkeypatch.setattr(search, "open_lm", lambda *_, **__: (torch.nn.Linear(1, 1), None))
    monkeypatch.setattr(search, "relearn", tuned)
    found = searched(relearn=fine_tune)
    assert [t["error"] for t in found.read_jsonl("trials.jsonl")] == [
        "loss nan", "answers nothing", None, None
    ]  # fmt: skip
    assert (found.metrics()["search/failed/all"], found.metrics()["search/tokens/all"]) == (2, 40)


FURTHER = ("two", "three")


def test_finalists_are_run_on_the_other_targets_and_their_mean_decides(scored, searched):
    """Two of four trials, the best on the first target; of these the one that is worse there. Four
    runs more for any method."""
    on_first, on_others = iter([0.1, 0.8, 0.9, 0.2]), iter([0.7, 0.9, 0.3, 0.2])
    tried = scored(lambda _: next(on_first), lambda _: next(on_others))
    found = searched(further=FURTHER)
    trials, metrics = found.read_jsonl("trials.jsonl"), found.metrics()
    assert len(tried) == 4 + 2 * 2
    scores = [[(run["target"], run["score"]) for run in t["finals"]] for t in trials]
    assert scores == [[], [("two", 0.3), ("three", 0.2)], [("two", 0.7), ("three", 0.9)], []]
    assert search_row(found)["others"] == [[], [0.3, 0.2], [0.7, 0.9], []]
    assert search_row(found)["trial"] == 3
    assert chosen_settings(found, "ga").learning_rate == trials[2]["values"]["learning_rate"]
    assert metrics["search/score/select"] == pytest.approx((0.9 + 0.7 + 0.9) / 3)
    assert (metrics["search/finals/all"], metrics["search/tokens/all"]) == (4, 80)


def test_every_combination_is_tried_once(scored, searched):
    """In the order of the choices, the last key's first; the report does not call it cut short."""
    scored(lambda settings: settings.learning_rate)
    rates, sizes = [1e-4, 1e-3], [2, 4]
    space = {"learning_rate": Choices(choices=rates), "batch_size": Choices(choices=sizes)}
    found = searched(trials=None, first="drawn", spaces={"ga": space})
    assert [trial["values"] for trial in found.read_jsonl("trials.jsonl")] == [
        {"learning_rate": rate, "batch_size": size} for rate in rates for size in sizes
    ]
    assert chosen_settings(found, "ga").learning_rate == 1e-3
    assert search_row(found)["complete"] is True


def test_of_few_trials_that_end_all_are_finalists(scored, searched):
    """One of four, where two are wanted: fewer runs, and it is chosen."""
    lost = MethodError("loss nan", COST)
    on_first = iter([lost, lost, 0.1, lost])
    scored(lambda _: next(on_first), lambda _: 0.5)
    found = searched(further=FURTHER)
    assert search_row(found)["others"] == [[], [], [0.5, 0.5], []]
    assert (search_row(found)["trial"], found.metrics()["search/finals/all"]) == (3, 2)


def test_folders_in_another_order_are_refused(scored, section, mini_params, inputs, tmp_path):
    """Before any trial: a score would stand under another target's name."""
    tried = scored(lambda settings: 0.5)
    mixed = section.model_copy(update={"targets": ["two", *section.targets]})
    with pytest.raises(ConfigError, match=r"--prepare = .*is not about 'two'; give one folder for"):
        search.run(
            tmp_path / MANIFEST, mixed, CPU, mini_params.unlearn, "ga",
            [*inputs, about("two", inputs[0])],
        )  # fmt: skip
    assert tried == []


def test_the_mean_over_targets_outweighs_the_first(scored, searched):
    """Red if the first target's score alone chose."""
    on_first, on_others = iter([0.1, 0.8, 0.9, 0.2]), iter([0.1, 0.1, 0.7, 0.7])
    scored(lambda _: next(on_first), lambda _: next(on_others))
    assert search_row(searched(further=FURTHER))["trial"] == 2


def test_a_finalist_that_diverges_on_a_target_scores_nothing_there(scored, searched):
    on_first = iter([0.1, 0.8, 0.9, 0.2])
    on_others = iter([MethodError("loss nan", COST), 0.9, 0.7, 0.7])
    scored(lambda _: next(on_first), lambda _: next(on_others))
    found = searched(further=FURTHER)
    assert search_row(found)["others"][2] == [0.0, 0.9]
    assert (search_row(found)["trial"], found.metrics()["search/failed/all"]) == (2, 1)


def test_a_stopped_search_goes_on_from_its_last_final(scored, searched):
    """Its trials and the first final are not run again; the folder is the same as of one run."""
    scores, others = [0.1, 0.8, 0.9, 0.2], [0.7, 0.9, 0.3, 0.2]
    on_first, on_others = iter(scores), iter([0.7, StoppedError("now")])
    scored(lambda _: next(on_first), lambda _: next(on_others))
    with pytest.raises(StoppedError, match="on three with trial 3; the runs before it are kept"):
        searched(further=FURTHER)
    rest = iter(others[1:])
    tried = scored(lambda _: pytest.fail("a trial was run again"), lambda _: next(rest))
    found = searched(further=FURTHER)
    assert len(tried) == 3
    on_first, on_others = iter(scores), iter(others)
    scored(lambda _: next(on_first), lambda _: next(on_others))
    assert searched("whole", further=FURTHER).digest == found.digest


def test_a_search_without_a_result_fails(tmp_path, scored, searched):
    scored(lambda settings: MethodError("no answers", COST))
    with pytest.raises(EvaluationError, match="search ga: all trials failed; the last: no answers"):
        searched()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("brief")
def test_a_trial_is_what_unlearning_does(tmp_path, chain, section, mini_params, inputs):
    """One trial with the file's own values, for real: its point is the one that `unlearn` keeps."""
    run = tmp_path / "search" / MANIFEST
    search.run(
        run, section.model_copy(update={"trials": 1}), CPU, mini_params.unlearn, "ga", inputs
    )
    found = Artifact.open(run, "search")
    (trial,) = found.read_jsonl("trials.jsonl")
    out = tmp_path / "unlearn" / MANIFEST
    unlearn.run(out, mini_params.unlearn, CPU, "ga", 0, *inputs)
    metrics = Artifact.open(out, "unlearn").metrics()
    assert trial["point"] == {k: metrics[f"unlearn/{k}/select"] for k in trial["point"]}
    assert trial["tokens"] == metrics["unlearn/tokens/all"]


@pytest.mark.usefixtures("brief")
def test_unlearning_takes_the_chosen_settings(tmp_path, scored, searched, mini_params, inputs):
    """Its manifest shows them and names the search."""
    scored(lambda settings: float(settings.batch_size == 2))
    found = searched()
    out = tmp_path / "unlearn" / MANIFEST
    unlearn.run(out, mini_params.unlearn, CPU, "ga", 0, *inputs, found)
    manifest = Artifact.open(out, "unlearn").manifest
    assert manifest["params"]["methods"]["ga"] == dataclasses.asdict(chosen_settings(found, "ga"))
    assert manifest["params"]["methods"]["ga"]["batch_size"] == 2
    assert manifest["inputs"]["search"] == found.digest


def test_the_table_of_all_searches(tmp_path, scored, searched, section):
    """With every trial's score, that of the one that diverged too, and the best so far."""
    scores = iter([0.25, 0.5, MethodError("loss nan", COST), 0.5])
    scored(lambda settings: next(scores))
    found = searched()
    out = tmp_path / "shared" / MANIFEST
    search.run_shared(out, section, [found])
    (row,) = json.loads(Artifact.open(out, "search").file("search.json").read_text())
    assert (row["method"], row["trials"], row["score"]) == ("ga", 4, 0.5)
    assert row["values"] == found.read_jsonl("trials.jsonl")[1]["values"]
    assert row["scores"] == [0.25, 0.5, 0.0, 0.5]
    assert row["best_so_far"] == [0.25, 0.5, 0.5, 0.5]


def test_no_search_is_an_empty_table(tmp_path, section):
    out = tmp_path / "shared" / MANIFEST
    search.run_shared(out, section, [])
    assert json.loads(Artifact.open(out, "search").file("search.json").read_text()) == []


def test_a_trials_model_is_gone_when_the_next_is_opened(monkeypatch, searched, mini_params):
    """Also one that refers to itself, as a model split over processes does. Red without a
    collection: on a GPU the models of several trials add up."""
    opened, alive, open_lm = [], [], search.open_lm

    def watched(*given, **named):
        alive.append(sum(ref() is not None for ref in opened))
        model, tokenizer = open_lm(*given, **named)
        model.itself = [model]
        opened.append(weakref.ref(model))
        return model, tokenizer

    def fake(*_):
        return Outcome(Trace(), [], {"selection": 0.5, "step": 1}, {}, COST)

    monkeypatch.setattr(search, "open_lm", watched)
    monkeypatch.setattr(search, "run_method", fake)
    gc.disable()
    try:
        searched(trials=3)
    finally:
        gc.enable()
    assert alive == [0, 0, 0]
