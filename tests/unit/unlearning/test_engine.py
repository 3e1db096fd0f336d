"""The engine that runs a method: its context, its stages, its points and the one that is kept."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from machines import CPU
from made.retain import NO_RETAIN

from atu import methods
from atu.alignment.loop import AlignmentData, cache_hidden_states
from atu.errors import ConfigError, MethodError
from atu.inference import probing
from atu.methods.atu import predicted_cosine
from atu.methods.base import Method, Retain, done
from atu.models.llm import decoder_layers, load_lm, parameters_below
from atu.models.trainable import BelowHook, Layers, Lora
from atu.phases import align
from atu.probes.chance import chances
from atu.probes.prompts import ASIDE, WHOLE
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.tables import read_table
from atu.training.batches import BatchStream, collate
from atu.training.likelihood import sequence_nll
from atu.training.means import masked_mean
from atu.unlearning import engine as unlearning
from atu.unlearning import trajectory
from atu.unlearning.engine import UnlearnInputs, make_context, run_method
from atu.unlearning.trajectory import ANSWER_TOKENS, Observer, select_probes

NLL = Retain(**NO_RETAIN | {"nll": 1.0})
IDS = torch.tensor([[1, 5, 6, 7, 8]])


@pytest.fixture
def inputs(chain):
    return UnlearnInputs(chain.full, chain.prepared, chain.embed, chain.align)


@pytest.fixture(scope="session")
def two_layers(tmp_path_factory, chain, mini_params):
    """The miniature's alignment at hook layers 1 and 2."""
    manifest = tmp_path_factory.mktemp("two_layers") / "align" / MANIFEST
    section = mini_params.align.model_copy(update={"hook_layers": [1, 2]})
    align.run(manifest, section, CPU, 0, chain.full, chain.embed, chain.prepared)
    return Artifact.open(manifest, "align")


@pytest.fixture
def settings(mini_params):
    """A function that changes a method's settings."""

    def change(name, **own):
        return dataclasses.replace(mini_params.unlearn.methods[name], **own)

    return change


@pytest.fixture
def context(settings, inputs):
    """A function that gives a method's context on the miniature, and the method."""

    def make(name, compat=False, given=inputs, **own):
        values = settings(name, **own)
        method = methods.get(values.loss)
        model, tokenizer = load_lm(given.pretrain.subfolder("model"), CPU, training=True)
        return make_context(model, tokenizer, method, values, given, compat, 0), method

    return make


@pytest.fixture
def run(settings, inputs, mini_params):
    """A function that runs a method on the miniature; the outcome and the model."""

    def run(name, seed=0, keep="last", compat=False, given=inputs, **own):
        model, tokenizer = load_lm(given.pretrain.subfolder("model"), CPU, training=True)
        section = mini_params.unlearn.model_copy(update={"keep": keep, "reference_compat": compat})
        outcome = run_method(model, tokenizer, settings(name, **own), section, given, seed)
        return outcome, model

    return run


@pytest.fixture
def points(monkeypatch):
    """A function that sets what the trajectory finds at every step, `{step: leakage}` and
    `{step: selection}`; what it returns fills with the model's logits at every point.
    """

    def given(leaks=(), selections=()):
        logits = {}

        def observe(self, step, facts):
            logits[step] = logits_of(self.context.model)
            leaked, chosen = dict(leaks).get(step, 1.0), dict(selections).get(step, 0.0)
            point = {"step": step, "score_target": leaked, "selection": chosen}
            return point | facts

        monkeypatch.setattr(Observer, "__call__", observe)
        return logits

    return given


@pytest.fixture
def asked(monkeypatch):
    """Every call for answers: its prompts, how long they may be, and whether with dropout."""
    calls = []
    original = probing.greedy_answers

    def spy(model, tokenizer, prompts, eval_mode=True, **options):
        calls.append(
            SimpleNamespace(
                prompts=prompts,
                limit=options["max_new_tokens"],
                dropout=model.training and not eval_mode,
            )
        )
        return original(model, tokenizer, prompts, eval_mode=eval_mode, **options)

    monkeypatch.setattr(probing, "greedy_answers", spy)
    return calls


@pytest.fixture
def own_method(monkeypatch):
    """A function that puts a method with these stages in the place of GA's."""

    def put(stages, **own):
        method = Method(methods.get("ga").settings, stages=stages, **own)
        monkeypatch.setattr(unlearning.methods, "get", lambda _: method)

    return put


@torch.no_grad()
def logits_of(model):
    """Without dropout; the mode is left as it is."""
    training = model.training
    logits = model.eval()(input_ids=IDS).logits
    model.train(training)
    return logits


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def steps_of(trajectory):
    return [point["step"] for point in trajectory]


class TestProbes:
    """What is asked on the way, of the `select` split only."""

    def test_a_run_asks_no_other_probes(self, chain, run, asked):
        """All that the method sees of the probes is what is asked here: nothing of the `report`
        split, and at every point the same."""
        outcome, _ = run("ga", stop_below=None)
        rows = read_table(chain.prepared.file("probes.parquet"))
        allowed = {p["prompt"] for p in rows if p["split"] == "select" and not p["seen"]}
        report = {p["prompt"] for p in rows if p["split"] == "report"}
        seen = {prompt for call in asked for prompt in call.prompts}
        assert seen and seen <= allowed and not seen & report
        per_point = len(asked) // len(outcome.trajectory)
        assert [c.prompts for c in asked] == [c.prompts for c in asked[:per_point]] * 3

    @pytest.mark.parametrize("per_role", [1, 4])
    def test_as_many_questions_of_every_role(self, chain, per_role):
        """More only add to those there were."""
        questions = [p for p in select_probes(chain.prepared, per_role) if p["form"] == "question"]
        expected = [role for role in trajectory.ROLES for _ in range(per_role)]
        assert [p["role"] for p in questions] == expected
        more = {p["id"] for p in select_probes(chain.prepared, per_role + 1)}
        assert {p["id"] for p in questions} < more
        assert trajectory.ROLES == ("target", "neighbour", "other", "general")

    def test_every_probe_has_its_chance(self, chain):
        """By the `select` split alone: one of four options, or as often as others share an
        answer."""
        rows = read_table(chain.prepared.file("probes.parquet"))
        known = [row for row in rows if row["split"] == "select"]
        chosen = select_probes(chain.prepared, 4)
        assert [row["chance"] for row in chosen] == chances(chosen, known)
        assert {row["chance"] for row in chosen if row["form"] == "choice"} == {0.25}

    def test_every_other_form_of_the_target(self, chain):
        """All of them, held out and of the `select` split, whatever the number of questions, and
        all retain questions beside it; of other roles none."""
        rows = read_table(chain.prepared.file("probes.parquet"))
        expected = {
            p["id"]
            for p in rows
            if p["role"] in ("target", "partner")
            and (p["split"], p["seen"]) == ("select", False)
            and p["form"] != "question"
        }
        assert any(p["id"] in expected for p in rows if p["role"] == "partner")
        for per_role in (1, 3):
            chosen = select_probes(chain.prepared, per_role)
            others = [p["id"] for p in chosen if p["form"] != "question"]
            assert len(others) == len(set(others)) and set(others) == expected
        forms = {p["form"] for p in chosen}
        assert forms >= {"cloze", "choice", "spelling", "two_hop", "paired", "reverse"}

    def test_what_stands_aside_is_not_asked_on_the_way(self, chain, monkeypatch):
        """Neither as a plain question nor in another form: no point of a trajectory counts it."""
        rows = read_table(chain.prepared.file("probes.parquet"))
        aside = [row | {"worst_of": ASIDE} for row in rows if row["role"] == "target"]
        monkeypatch.setattr(trajectory, "read_table", lambda _: aside)
        assert select_probes(chain.prepared, 3) == []


def probe(role, fact, form="question", answer="owl", part=WHOLE, chance=0.0):
    """A probe whose prompt names all there is to it, and what guessing scores at it."""
    prompt = f"{role}/{fact}/{form}/{answer}"
    return {
        "role": role, "fact": fact, "form": form, "prompt": prompt, "answer": answer, "part": part,
        "measure": "exact_match@own-2", "stops": ["\n"], "worst_of": None, "chance": chance,
    }  # fmt: skip


PROBES = [
    probe("target", "pet"),
    probe("target", "food"),
    probe("target", "pet", "cloze"),
    probe("target", "pet", "spelling", "b-u-d-g-e-r-i-g-a-r"),
    probe("target", "job", "cloze"),
    probe("neighbour", "pet"),
    probe("neighbour", "food", answer="a shepherd's pie with leeks"),
    probe("other", "pet"),
    probe("general", "flag"),
    probe("general", "sea"),
]


def losses(value):
    """The scores of one text of two tokens with this mean loss."""
    return SimpleNamespace(log_probs=np.array([0.5 - value, -0.5 - value]))


@pytest.fixture
def observer(monkeypatch, byte_tokenizer):
    """A function that gives an observer of `probes`, whose model answers `right` numbers rightly
    and is asked in `calls`; a retain text's loss is the number of calls so far."""

    def make(right, probes=PROBES):
        known = {probes[i]["prompt"]: probes[i]["answer"] for i in right}

        def answers(model, tokenizer, prompts, max_new_tokens, **options):
            calls.append((max_new_tokens, list(prompts)))
            return [known.get(prompt, "elk") for prompt in prompts]

        calls = []
        monkeypatch.setattr(probing, "greedy_answers", answers)
        context = SimpleNamespace(
            model=None, tokenizer=byte_tokenizer, reference_compat=False, predictors={},
            retain=SimpleNamespace(texts=[], pad_id=0),
        )  # fmt: skip
        monkeypatch.setattr(trajectory, "score_encoded", lambda *_: [losses(len(calls))])
        return Observer(context, probes), calls, known

    return make


class TestObserver:
    """One point, worked out from what is answered."""

    def test_a_point(self, observer):
        """Rightly answered: the target's pet as a question and as spelled out, its job as a cloze;
        the neighbour's food; one of two general facts. Plain questions: target 1/2, neighbour 1/2,
        other 0, general 1/2. Worst forms: pet 1, food 0, job 1, mean 2/3. Against itself everything
        but what was never known is kept: 4 / (1/.5 + 1/(1/3) + 1 + 1) = 4/7."""
        observe, _, _ = observer([0, 3, 4, 6, 8])
        assert observe(7, {"threshold": 0.25}) == {
            "step": 7,
            "threshold": 0.25,
            "score_target": 0.5,
            "score_neighbour": 0.5,
            "score_other": 0.0,
            "score_general": 0.5,
            "worst_form_target": pytest.approx(2 / 3),
            "chance_target": 0.0,
            "chance_worst_form": 0.0,
            "selection": pytest.approx(4 / 7),
        }

    def test_retain_questions_beside_the_targets(self, observer):
        """Of two one is answered rightly at first and none then, and the target's questions are
        forgotten: near it is the neighbour's food, kept, and half is lost: 3 / (1 + 1 + 1 / .5)
        with general facts, and with forgetting in both ways 4 / (4 + 1)."""
        beside = [probe("partner", fact, "paired") for fact in ("pet", "food")]
        observe, _, known = observer([0, 3, 4, 6, 8, 10], PROBES + beside)
        assert observe(0, {})["score_partner"] == 0.5
        for number in (0, 3, 4, 10):
            del known[(PROBES + beside)[number]["prompt"]]
        point = observe(1, {})
        assert (point["score_partner"], point["worst_form_target"]) == (0.0, 0.0)
        assert point["selection"] == pytest.approx(4 / (3 + 2))

    def test_a_point_no_better_than_guessing_has_forgotten_all(self, observer):
        """Guessing gives .25 of the plain questions (.5 and 0) and, in the worst form, .5 of pet, 0
        of food and 1 of job: .5. First all is known. Then of the target the job alone, 1/3 in the
        worst form, and everything else as before: 1. At last half of the plain questions too, and
        2/3: 5 / (1 / (.5/.75) + 1 / ((1/3) / .5) + 3) = 5/6."""
        guessed = [0.5, 0.0, 0.25, 0.0, 1.0]
        probes = [
            row | {"chance": value} for row, value in zip(PROBES, guessed + [0.0] * 5, strict=True)
        ]
        observe, _, known = observer(range(len(probes)), probes)
        observe(0, {})
        forgotten = {probes[i]["prompt"]: known.pop(probes[i]["prompt"]) for i in range(4)}
        point = observe(1, {})
        assert (point["chance_target"], point["chance_worst_form"]) == (0.25, 0.5)
        assert (point["score_target"], point["selection"]) == (0.0, 1.0)
        known |= dict([next(iter(forgotten.items()))])
        assert observe(2, {})["selection"] == pytest.approx(5 / 6)

    def test_the_worst_of_two_wordings(self, observer):
        """Of pet 3 wordings, 2 right: every pair has one, 1; food 0 and job 1 have one wording,
        which counts: (1 + 0 + 1) / 3."""
        two = [probe | {"worst_of": 2} for probe in PROBES]
        observe, _, _ = observer([0, 3, 4], two)
        assert observe(0, {})["worst_form_target"] == pytest.approx(2 / 3)
        observe, _, _ = observer([0, 4], two)
        assert observe(0, {})["worst_form_target"] == pytest.approx((2 / 3 + 0 + 1) / 3)

    def test_selection_is_against_the_first_point(self, observer):
        """First everything is known. Then the target's food and nothing else of it, one of two
        neighbours, the other, and both general facts: leakage 1/2 and 1/3, kept 1/2, 1 and 1: 5 /
        (2 + 1.5 + 2 + 1 + 1) = 2/3. Kept is of the first point also at the third."""
        observe, _, known = observer(range(len(PROBES)))
        assert observe(0, {})["selection"] == 0.0
        for number in (0, 2, 3, 4, 6):
            del known[PROBES[number]["prompt"]]
        assert observe(1, {})["selection"] == pytest.approx(2 / 3)
        assert observe(2, {})["selection"] == pytest.approx(2 / 3)

    def test_long_answers_are_asked_apart(self, observer):
        """A token per byte and 2: of the long ones the 27 bytes of the pie take most, 29; "owl"
        takes 5 and gets 16. Every answer is scored at its own probe."""
        observe, calls, _ = observer([3, 7])
        point = observe(0, {})
        long = [3, 6]
        short = [i for i in range(len(PROBES)) if i not in long]
        assert calls == [
            (ANSWER_TOKENS, [PROBES[i]["prompt"] for i in short]),
            (29, [PROBES[i]["prompt"] for i in long]),
        ]
        assert (point["score_other"], point["score_neighbour"]) == (1.0, 0.0)
        assert point["worst_form_target"] == pytest.approx(1 / 3)

    @pytest.mark.parametrize(
        ("length", "limit"), [(14, ANSWER_TOKENS), (15, ANSWER_TOKENS + 1), (20, 22)]
    )
    def test_where_long_begins(self, observer, length, limit):
        """14 bytes take 16 tokens: what the tokenizer puts before every text is in no answer. A
        group in which there is nothing is not asked."""
        observe, calls, _ = observer([0], [probe("target", "pet", answer="x" * length)])
        assert observe(0, {})["score_target"] == 1.0
        assert [call[0] for call in calls] == [limit]

    def test_only_its_part_of_an_answer_counts(self, observer, monkeypatch):
        """Of a pair the second."""
        observe, _, _ = observer([], [probe("target", "pet", part=1)])
        for answer, expected in (("elk; owl", 1.0), ("owl; elk", 0.0)):
            monkeypatch.setattr(probing, "greedy_answers", lambda *_, a=answer, **__: [a])
            assert observe(0, {})["score_target"] == expected

    def test_a_target_without_plain_questions_is_asked_in_all_forms(self, observer):
        """As of WMDP: of three clozes and choices one is answered, 1/3; that the neighbour is asked
        plainly does not matter."""
        asked = [probe("target", kind, form) for kind, form in
                 (("pet", "cloze"), ("food", "choice"), ("job", "choice"))]  # fmt: skip
        observe, _, _ = observer([1, 3], [*asked, probe("neighbour", "pet")])
        point = observe(0, {})
        assert point["score_target"] == pytest.approx(1 / 3)
        assert "retain_loss" not in point

    @pytest.mark.parametrize("asked", [[], [probe("neighbour", "pet")]])
    def test_where_nothing_known_is_asked_texts_say_what_is_kept(self, observer, asked):
        """Nobody's pet is known but the target's. Loss 1 at first, then 2: forgotten, but a
        token's likelihood is 1/e of before: 3 / (1 + 1 + e). What is answered later changes nothing
        of that."""
        observe, _, known = observer([0], [probe("target", "pet"), *asked])
        assert observe(0, {})["retain_loss"] == 1.0
        known.clear()
        known.update({row["prompt"]: row["answer"] for row in asked})
        point = observe(1, {})
        assert (point["score_target"], point["retain_loss"]) == (0.0, 2.0)
        assert point["selection"] == pytest.approx(3 / (2 + math.e))

    def test_the_loss_of_retain_texts(self, context):
        """As the mean over all scored tokens of at most 64 texts, each alone."""
        made, _ = context("ga")
        texts = made.retain.texts[: trajectory.RETAIN_TEXTS]
        found = Observer(made, [])._retain_loss()
        total, count = 0.0, 0
        for text in texts:
            batch = collate([text], made.tokenizer.pad_token_id)
            with torch.no_grad():
                logits = made.model(input_ids=batch.input_ids).logits
            nll, number = sequence_nll(logits, batch.labels)
            total, count = total + nll.item(), count + number.item()
        assert found == pytest.approx(total / count, rel=1e-5)

    def test_concept_cosine(self, chain, context, inputs, two_layers):
        """The mean over layers, over the real tokens of the target's plain questions: each prompt
        alone, without padding, weighted by its length."""
        given = dataclasses.replace(inputs, align=two_layers)
        made, _ = context("atu", given=given)
        probes = select_probes(chain.prepared, 3)
        found = Observer(made, probes)._mean_cosine()
        questions = [p for p in probes if (p["role"], p["form"]) == ("target", "question")]
        cosines = []
        for row in questions:
            batch = made.tokenizer(row["prompt"], return_tensors="pt")
            with torch.no_grad():
                cosines.append(predicted_cosine(made, SimpleNamespace(**batch)))
        assert len({c.shape for c in cosines}) > 1 and cosines[0].shape[0] == 2
        assert found == pytest.approx(torch.cat(cosines, dim=2).mean().item(), abs=1e-5)
        assert all(p.requires_grad for p in made.model.parameters())


@pytest.mark.parametrize(
    ("stop_below", "leaks", "steps"),
    [
        (0.5, {2: 0.5}, [0, 2]),
        (0.5, {2: 0.51}, [0, 2, 4]),
        (0.5, {0: 0.0}, [0, 2, 4]),
        (0.0, {2: 0.0}, [0, 2]),
        (0.0, {2: 0.01}, [0, 2, 4]),
        (None, {0: 0.0, 2: 0.0}, [0, 2, 4]),
    ],
)
def test_stop_below(run, points, stop_below, leaks, steps):
    """4 steps with points at 2 and 4: the first point whose leakage is at most `stop_below` is the
    last; null stops nowhere. The point before training stops nothing."""
    points(leaks)
    outcome, _ = run("ga", stop_below=stop_below)
    assert steps_of(outcome.trajectory) == steps
    assert outcome.kept == outcome.trajectory[-1]
    metrics = outcome.metrics()
    assert metrics["unlearn/model_steps/all"] == metrics["unlearn/step/select"] == steps[-1]


class TestKeep:
    """6 steps with points at 2, 4 and 6: which of them the model is left at."""

    @pytest.mark.parametrize(
        ("keep", "selections", "kept"),
        [
            ("best", {2: 0.3, 4: 0.5, 6: 0.4}, 4),
            ("best", {2: 0.5, 4: 0.5, 6: 0.4}, 4),
            ("best", {0: 0.9, 2: 0.2, 4: 0.1, 6: 0.1}, 2),
            ("best", {}, 6),
            ("last", {2: 0.3, 4: 0.5, 6: 0.4}, 6),
            ("last", {0: 0.9}, 6),
        ],
    )
    def test_the_model_is_left_at_the_kept_point(self, run, points, keep, selections, kept):
        """`best` is the highest score, the later of equals, and never the point before the first
        step. The trajectory and the cost are those of the whole run."""
        logits = points(selections=selections)
        outcome, model = run("ga", keep=keep, steps=6, evaluations=3, stop_below=None)
        assert outcome.kept["step"] == outcome.metrics()["unlearn/step/select"] == kept
        assert outcome.kept["selection"] == selections.get(kept, 0.0)
        same = {step: torch.equal(logits_of(model), found) for step, found in logits.items()}
        assert same == {step: step == kept for step in (0, 2, 4, 6)}
        assert steps_of(outcome.trajectory) == [0, 2, 4, 6]
        assert outcome.metrics()["unlearn/model_steps/all"] == 6

    def test_stopping_ends_the_choice(self, run, points):
        """At 4; the better point 6 is never reached, and of 2 and 4 the first is better."""
        points({4: 0.0}, {2: 0.4, 4: 0.2, 6: 0.9})
        outcome, _ = run("ga", keep="best", steps=6, evaluations=3, stop_below=0.0)
        assert steps_of(outcome.trajectory) == [0, 2, 4]
        assert outcome.kept["step"] == 2

    @pytest.mark.parametrize("keep", ["best", "last"])
    def test_a_method_without_steps_keeps_what_there_was(self, run, points, keep):
        logits = points(selections={0: 0.5})
        outcome, model = run("none", keep=keep)
        assert outcome.kept == outcome.trajectory[0] and len(outcome.trajectory) == 1
        assert torch.equal(logits_of(model), logits[0])

    @pytest.mark.parametrize(("keep", "kept"), [("best", 2), ("last", 4)])
    def test_adapters_are_merged_at_the_kept_point(self, run, points, keep, kept):
        """The model's logits are those that the adapted model had there, to rounding; no adapter is
        left and everything is trainable again."""
        logits = points(selections={2: 0.5})
        train = Lora("lora", rank=2, alpha=4)
        _, model = run("ga", keep=keep, train=train, learning_rate=0.05, stop_below=None)
        close = {
            step: torch.allclose(logits_of(model), found, atol=1e-4)
            for step, found in logits.items()
        }
        assert close == {step: step == kept for step in (0, 2, 4)}
        assert not any("lora" in name for name, _ in model.named_modules())
        assert all(p.requires_grad for p in model.parameters())


class TestTrained:
    """What the settings say is updated, and nothing else."""

    def changed(self, model, inputs):
        before = load_lm(inputs.pretrain.subfolder("model"), CPU, training=True)[0]
        own = dict(model.named_parameters())
        return {n for n, p in before.named_parameters() if not torch.equal(p, own[n])}

    def test_chosen_layers(self, run, points, inputs):
        points()
        _, model = run("ga", train=Layers("layers", [1]))
        layer = {f"model.layers.1.{n}" for n, _ in decoder_layers(model)[1].named_parameters()}
        assert self.changed(model, inputs) == layer

    @pytest.mark.parametrize("both", [False, True])
    def test_below_the_highest_hook_layer(self, run, points, inputs, two_layers, both):
        """Layer 2 in both cases, alone or with layer 1; the retain term reaches all layers, but
        those above and the head are not updated."""
        points()
        given = dataclasses.replace(inputs, align=two_layers) if both else inputs
        term, updated = NLL, BelowHook("below_hook")
        _, model = run("atu", given=given, retain=term, train=updated)
        below = {id(p) for p in parameters_below(model, 2)}
        expected = {name for name, p in model.named_parameters() if id(p) in below}
        assert self.changed(model, inputs) == expected

    def test_below_the_hook_without_a_predictor(self, run):
        with pytest.raises(ConfigError, match="only methods with a predictor"):
            run("ga", train=BelowHook("below_hook"))


class TestAtu:
    """Rounds and re-alignment."""

    def test_rounds_and_realignment_alternate(self, run, points, settings):
        """4 steps over 2 quantiles: 2 and 2, with 2 predictor steps in between, which are no steps
        of the model and no point of the trajectory."""
        points()
        outcome, _ = run("atu")
        assert [(r["stage"], r["part"], r["step"]) for r in outcome.trace.rows] == [
            ("round 1", "model", 1), ("round 1", "model", 2),
            ("re-align 1, layer 2", "predictor 2", 1), ("re-align 1, layer 2", "predictor 2", 2),
            ("round 2", "model", 1), ("round 2", "model", 2),
        ]  # fmt: skip
        assert steps_of(outcome.trajectory) == [0, 2, 4]
        metrics = outcome.metrics()
        assert [p["threshold"] for p in outcome.trajectory[1:]] == [
            pytest.approx(metrics[f"unlearn/cosine_quantile_{share}.layer_2/forget"])
            for share in settings("atu").quantiles
        ]
        assert metrics["unlearn/realignments/forget"] == 1
        assert metrics["unlearn/model_steps/all"] == 4
        assert metrics["unlearn/predictor_steps/all"] == 2

    @pytest.mark.parametrize(("count", "steps"), [(1, [0, 4]), (2, [0, 2, 4]), (3, [0, 2, 3, 4])])
    def test_steps_count_whether_they_are_observed_or_not(self, run, points, count, steps):
        """Two rounds of 2 steps: a point fewer than rounds, as many, and one inside a round."""
        points()
        outcome, _ = run("atu", evaluations=count)
        assert steps_of(outcome.trajectory) == steps
        assert outcome.metrics()["unlearn/model_steps/all"] == 4

    def test_every_layers_predictor_is_aligned_again(self, run, points, inputs, two_layers):
        """3 rounds, so twice, for 2 steps each; all of that is one re-alignment. 3 x 2 steps of the
        model and 2 x 2 x 2 of predictors."""
        points()
        given = dataclasses.replace(inputs, align=two_layers)
        outcome, _ = run("atu", given=given, quantiles=[0.9, 0.6, 0.3], steps=6)
        stages = list(dict.fromkeys(row["stage"] for row in outcome.trace.rows))
        assert stages == [
            "round 1", "re-align 1, layer 1", "re-align 1, layer 2",
            "round 2", "re-align 2, layer 1", "re-align 2, layer 2", "round 3",
        ]  # fmt: skip
        metrics = outcome.metrics()
        assert metrics["unlearn/realignments/forget"] == 2
        assert metrics["unlearn/model_steps/all"] == 6
        assert metrics["unlearn/predictor_steps/all"] == 8

    def test_a_predictor_is_trained_in_its_own_stage_alone(self, context, inputs, two_layers):
        """On the states of its layer as they are then: while one is trained all else is frozen, and
        afterwards it is too."""
        given = dataclasses.replace(inputs, align=two_layers)
        made, _ = context("atu", given=given)
        predictors = made.predictors

        def trained():
            return [
                layer
                for layer, predictor in predictors.items()
                if predictor.training and all(p.requires_grad for p in predictor.parameters())
            ]

        def frozen(layer):
            own = predictors[layer]
            return not own.training and not any(p.requires_grad for p in own.parameters())

        assert frozen(1) and frozen(2)
        seen = []
        for stage in made.realign(5):
            layer = int(stage.name[-1])
            assert (stage.steps, stage.part, stage.evaluate) == (5, f"predictor {layer}", False)
            assert [id(p) for p in stage.parameters] == [
                id(p) for p in predictors[layer].parameters()
            ]
            assert trained() == [layer] and frozen(3 - layer)
            seen.append(layer)
        assert seen == [1, 2] and frozen(1) and frozen(2)

    def test_one_pass_gives_the_states_of_all_layers(
        self, monkeypatch, context, inputs, two_layers
    ):
        """When the first batch asks for them; a run that resumes behind the first layer's stage
        computes the second's alone."""
        made, _ = context("atu", given=dataclasses.replace(inputs, align=two_layers))
        data = AlignmentData.load(inputs.embed.file("embeddings.safetensors"))
        alone = {layer: cache_hidden_states(made.model, data, layer) for layer in (1, 2)}
        passes, states_of, cache = [], [], unlearning.cache_states_at

        def counted(model, data, layers):
            passes.append(layers)
            return cache(model, data, layers)

        def step(predictor, data, states, *rest):
            states_of.append(states)
            return None, None

        monkeypatch.setattr(unlearning, "cache_states_at", counted)
        monkeypatch.setattr(unlearning, "alignment_step", step)
        list(made.realign(1))
        assert passes == []
        for layer, states in zip((1, 2), states_of, strict=True):
            assert all(map(torch.equal, states(), alone[layer]))
        assert passes == [[1, 2]]
        list(made.realign(1))
        assert all(map(torch.equal, states_of[3](), alone[2]))
        assert passes == [[1, 2], [2]]

    @pytest.mark.parametrize("missing", ["embed", "align"])
    def test_the_predictor_is_needed(self, settings, inputs, missing):
        given = dataclasses.replace(inputs, **{missing: None})
        with pytest.raises(ConfigError, match="--method = 'mine': needs --embed and --align"):
            unlearning.require_inputs("mine", settings("atu"), given)
        assert unlearning.require_inputs("mine", settings("ga"), given) is methods.get("ga")


class TestCost:
    """Tokens that training read."""

    @pytest.mark.parametrize(
        ("name", "own", "batches"),
        [
            ("ga", {}, 4),
            ("ga", {"retain": NLL}, 8),
            ("atu", {"retain": NLL}, 12),
        ],
    )
    def test_tokens(self, monkeypatch, run, points, name, own, batches):
        """The ones of every batch's attention mask: 4 steps, each with a forget and, where there is
        a retain term, a retain batch; ATU's with one of neighbours' texts too. Neither measuring
        thresholds nor alignment is counted, nor the longest batches, which train nothing."""
        points()
        read, original = [], BatchStream.__next__

        def spy(self):
            batch = original(self)
            if self._held is None:
                read.append(int(batch.attention_mask.sum()))
            return batch

        monkeypatch.setattr(BatchStream, "__next__", spy)
        outcome, _ = run(name, **own)
        assert len(read) == batches
        assert outcome.cost["tokens"] == outcome.metrics()["unlearn/tokens/all"] == sum(read)

    def test_nothing_is_read_where_nothing_is_trained(self, run, points):
        points()
        outcome, _ = run("none")
        assert outcome.cost["tokens"] == 0 and outcome.trace.rows == []
        assert outcome.metrics() == {
            "unlearn/step/select": 0,
            "unlearn/score_target/select": 1.0,
            "unlearn/selection/select": 0.0,
            "unlearn/model_steps/all": 0,
            "unlearn/predictor_steps/all": 0,
            "unlearn/tokens/all": 0,
        }

    def test_a_methods_own_streams_count(self, run, points, own_method):
        """One text of a prompt's 3 tokens, a space with the answer's, and what surrounds them: as
        long as its encoding, read twice."""
        points()
        lengths = []

        def stages(context):
            stream = context.stream("further", [context.encode("a b c", "d")], batch_size=2)
            lengths.append(len(context.encode("a b c", "d").ids))
            next(stream)
            yield done("looked")

        own_method(stages)
        outcome, _ = run("ga")
        assert outcome.cost["tokens"] == 2 * lengths[0] > 0


class TestTheLongestBatch:
    """What does not fit fails at the first step."""

    @pytest.mark.parametrize("name", ["atu", "ga"])
    def test_it_changes_nothing(self, monkeypatch, run, points, name):
        """Against a run without: every step, every point and the cost; in both of ATU's rounds, and
        between them in the alignment, which reads more than streams and is left out."""
        points()
        outcome, _ = run(name, retain=NLL)
        monkeypatch.setattr(unlearning, "_fullest", lambda *_: None)
        plain, _ = run(name, retain=NLL)
        assert outcome.trace.rows == plain.trace.rows
        assert (outcome.trajectory, outcome.cost) == (plain.trajectory, plain.cost)

    def test_it_follows_the_first_step_of_a_part(self, monkeypatch, run, points):
        """Of 4 steps in 2 stretches, after the first; it is the longest of the 3 that follow."""
        points()
        read, original = [], BatchStream.__next__

        def spy(self):
            batch = original(self)
            read.append((self._held is not None, batch.input_ids.shape[1]))
            return batch

        monkeypatch.setattr(BatchStream, "__next__", spy)
        run("ga")
        assert [held for held, _ in read] == [False, True, False, False, False]
        assert read[1][1] == max(length for _, length in read[2:])


class TestEdits:
    """Methods that change the model between stages."""

    def test_an_edit_is_a_point_without_steps(self, run, points, own_method, inputs):
        """0 steps and nothing traced; the point is measured on the edited model, which is kept."""
        logits = points(selections={0: 0.9})

        def stages(context):
            with torch.no_grad():
                context.model.get_input_embeddings().weight.mul_(2)
            yield done("doubled")

        own_method(stages)
        outcome, model = run("ga", keep="best")
        assert steps_of(outcome.trajectory) == [0, 0] and outcome.trace.rows == []
        assert outcome.kept is outcome.trajectory[1]
        assert torch.equal(logits_of(model), logits[0])
        before = (
            load_lm(inputs.pretrain.subfolder("model"), CPU, training=True)[0]
            .get_input_embeddings()
            .weight
        )
        assert torch.equal(model.get_input_embeddings().weight, 2 * before)

    def test_a_stage_without_steps_takes_no_loss(self):
        with pytest.raises(AssertionError, match="doubled has no steps"):
            done("doubled").loss()


class TestSubject:
    """ATU at the tokens of the subject's names, on the miniature, of whose texts most hold one."""

    def test_the_share_of_texts_that_name_it_is_in_the_metrics(self, run):
        """Of the miniature's 244 forget texts 24 lead to it over two hops."""
        outcome, _ = run("atu", positions="subject", width=1)
        metrics = outcome.metrics()
        assert metrics["unlearn/subject_texts/forget"] == pytest.approx(220 / 244)
        assert metrics["unlearn/subject_empty_batches/forget"] == 0.0

    def test_a_subject_that_texts_do_not_name_is_refused_before_anything_is_measured(
        self, monkeypatch, run, inputs
    ):
        """Not after a first point and the steps before it. The cell's names are looked for, and an
        alias that the texts have mends it."""
        cell = inputs.prepare.cell
        name = cell["new"][0]
        monkeypatch.setattr(unlearning, "Observer", lambda *_: pytest.fail("it was measured"))
        monkeypatch.setitem(cell, "new", ["Nobody"])
        with pytest.raises(ConfigError, match=r"0\.0% of the \d+ forget texts name 'Nobody', at"):
            run("atu", positions="subject")
        monkeypatch.setitem(cell, "aliases", [name])
        with pytest.raises(pytest.fail.Exception, match="it was measured"):
            run("atu", positions="subject")


class TestContext:
    """Corpora, reference and names."""

    @pytest.mark.parametrize("prompted", [False, True])
    def test_rows_are_the_streams_texts(self, chain, context, own_method, prompted):
        """Row i is text i, of both corpora; a method that wants prompts gets only the forget texts
        that have one, and all retain texts."""
        own_method(lambda ctx: iter([]), prompted=prompted)
        made, _ = context("ga")
        tables = {
            name: read_table(chain.prepared.file(f"{name}.parquet"))
            for name in ("forget", "retain")
        }
        assert {bool(row["prompt"]) for row in tables["forget"]} == {True, False}
        if prompted:
            tables["forget"] = [row for row in tables["forget"] if row["prompt"]]
        assert made.rows == tables
        for name, stream in (("forget", made.forget), ("retain", made.retain)):
            texts = made.tokenizer.batch_decode(
                [text.ids for text in stream.texts], skip_special_tokens=True
            )
            assert texts == [row["text"] for row in tables[name]]
        assert made.streams == [made.forget, made.retain]
        assert made.subjects == [chain.prepared.cell["target"]]

    def test_a_method_of_questions_needs_a_text_with_one(self, context, own_method, monkeypatch):
        """As RWKU's, whose texts are passages alone."""
        own_method(lambda ctx: iter([]), prompted=True)

        def passages(path):
            return [row | {"prompt": ""} for row in read_table(path)]

        monkeypatch.setattr(unlearning, "read_table", passages)
        with pytest.raises(ConfigError, match="loss = 'ga': trains on questions, and no forget"):
            context("ga")

    def test_texts_about_neighbours_are_drawn_as_often_as_asked(self, chain, context, monkeypatch):
        """At least half of every batch, of four texts two; refused where no text names one."""
        near = set(chain.prepared.cell["neighbours"])
        made, _ = context("ga", retain=Retain(**NO_RETAIN | {"nll": 1.0, "neighbours": 0.5}))
        for _ in range(9):
            named = [near & {*made.rows["retain"][i]["names"]} for i in next(made.retain).numbers]
            assert len(named) == 4 and all(named[:2])
        monkeypatch.setitem(chain.prepared.cell, "neighbours", ["Nobody"])
        with pytest.raises(ConfigError, match=r"retain.neighbours = 0\.5: none of the \d+ retain"):
            context("ga", retain=Retain(**NO_RETAIN | {"nll": 1.0, "neighbours": 0.5}))
        context("ga", retain=Retain(**NO_RETAIN | {"nll": 1.0}))

    @pytest.mark.parametrize(("kl", "expected"), [(0.0, False), (1.0, True)])
    def test_the_original_is_kept_beside_where_it_is_needed(self, context, kl, expected):
        made, _ = context("ga", retain=Retain(**NO_RETAIN | {"nll": 1.0, "kl": kl}))
        assert (made.reference is not None) is expected
        if expected:
            assert not any(p.requires_grad for p in made.reference.parameters())
            assert torch.equal(weights_of(made.reference), weights_of(made.model))

    def test_predictors_and_concept(self, chain, context, inputs, two_layers):
        """Of every layer that `align` kept, frozen; none for a method that needs none."""
        given = dataclasses.replace(inputs, align=two_layers)
        made, _ = context("atu", given=given)
        assert list(made.predictors) == [1, 2]
        data = AlignmentData.load(chain.embed.file("embeddings.safetensors"))
        assert torch.equal(made.concept, data.concept)
        assert torch.equal(made.answers, data.answers)
        plain, _ = context("ga", given=given)
        assert (plain.predictors, plain.concept, plain.realign) == ({}, None, None)


def test_the_seed_decides_the_result(run, points):
    """Also what is drawn for adapters; nothing drawn before matters."""
    points()
    for own in ({}, {"train": Lora("lora", rank=1, alpha=1)}):
        first = weights_of(run("ga", **own)[1])
        torch.rand(3)
        assert torch.equal(weights_of(run("ga", **own)[1]), first)
        assert not torch.equal(weights_of(run("ga", seed=1, **own)[1]), first)


def test_a_diverging_run_is_refused(run):
    """The first step of this size takes the weights out of what a float can hold."""
    with pytest.raises(
        MethodError, match=r"stretch 1: .* at step 2; lower the learning rate"
    ) as found:
        run("ga", learning_rate=1e38, optimizer="sgd")
    cost = found.value.cost
    assert (cost["model_steps"], cost["predictor_steps"]) == (1, 0) and cost["tokens"] > 0


class TestReferenceCompat:
    """What `unlearn.reference_compat` switches, one by one; each test sees both behaviours."""

    @pytest.mark.parametrize("compat", [False, True])
    def test_pads_in_the_hinge(self, context, compat):
        """At threshold -1 every cosine is above: the loss is the mean of cos + 1, over real tokens
        here, over pads too in the reference."""
        push = {
            "quantiles": [],
            "thresholds": [-1.0],
            "answers": 0.0,
            "stranger": 0.0,
            "visits": False,
            "restored": 0.0,
        }
        made, method = context("atu", compat, **push)
        batch = next(made.forget)
        assert not batch.attention_mask.all()
        made.forget = iter([batch])
        similarity = predicted_cosine(made, batch)
        real = masked_mean(similarity[0] + 1, batch.attention_mask).item()
        padded = (similarity + 1).mean().item()
        assert real != pytest.approx(padded)
        value = next(method.plan(made)).loss()[1]["forget"]
        assert value == pytest.approx(padded if compat else real)

    @pytest.mark.parametrize("stream", ["forget", "retain"])
    def test_double_shift(self, context, stream):
        """The forget labels are shifted by one more; the retain labels never are."""
        batches = [next(getattr(context("ga", compat)[0], stream)) for compat in (False, True)]
        plain, compat = batches
        assert torch.equal(plain.input_ids, compat.input_ids)
        if stream == "retain":
            assert torch.equal(plain.labels, compat.labels)
        else:
            assert torch.equal(plain.labels[:, 1:], compat.labels[:, :-1])
            assert not torch.equal(plain.labels, compat.labels)

    @pytest.mark.parametrize(("compat", "kept"), [(False, True), (True, False)])
    def test_fresh_optimizers_per_stage(
        self, monkeypatch, run, points, inputs, two_layers, compat, kept
    ):
        """Whether AdamW remembers earlier steps when a stage begins: later rounds go on where the
        one before stopped, and so does every layer's own predictor; in the reference every stage
        starts anew."""
        points()
        remembered = {}
        original = unlearning.run_steps

        def spy(label, steps, loss, optimizers, **options):
            remembered[label] = any(optimizer.state for optimizer in optimizers)
            original(label, steps, loss, optimizers, **options)

        monkeypatch.setattr(unlearning, "run_steps", spy)
        given = dataclasses.replace(inputs, align=two_layers)
        run("atu", compat=compat, given=given, quantiles=[0.9, 0.6, 0.3], steps=6)
        assert remembered == {
            "round 1": False, "re-align 1, layer 1": False, "re-align 1, layer 2": False,
            "round 2": kept, "re-align 2, layer 1": kept, "re-align 2, layer 2": kept,
            "round 3": kept,
        }  # fmt: skip

    @pytest.mark.parametrize(("compat", "dropout"), [(False, False), (True, True)])
    def test_no_eval_mode(self, run, asked, compat, dropout):
        """In the reference nobody leaves training mode after a stage, so its points are measured
        with dropout; the first point comes before any training. One stage of 4 steps."""
        run("ga", compat=compat, evaluations=1)
        half = len(asked) // 2
        assert [call.dropout for call in asked] == [False] * half + [dropout] * half
        assert half >= 1

    def test_an_entry_may_say_otherwise(self, run, points):
        """Than the section does, in both directions; null is as the section says."""
        points()
        plain, compat = (weights_of(run("ga", compat=c)[1]) for c in (False, True))
        assert not torch.equal(plain, compat)
        for section, own, expected in [
            (False, True, compat), (True, False, plain), (True, None, compat), (False, None, plain),
        ]:  # fmt: skip
            found = weights_of(run("ga", compat=section, reference_compat=own)[1])
            assert torch.equal(found, expected)
