"""Checkpoints: what is written is whole, what is resumed ends where the undisturbed run does."""

import dataclasses
import json

import pytest
import torch
from machines import CPU
from safetensors.torch import save_file
from torch import nn

from atu.config.sections import Search, Span
from atu.errors import ConfigError, StoppedError
from atu.models.llm import load_lm
from atu.phases import align, pretrain, search
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.checkpoints import STATE, TENSORS, State, Store
from atu.training.keeper import MINUTES, STEPS, Interval, Keeper, Stop, Trace
from atu.training.loop import make_optimizers, run_steps
from atu.unlearning.engine import UnlearnInputs, run_method

EVERY_STEP = Interval(0, 1)


class Died(BaseException):
    """The process was killed here: nothing of it is caught on the way."""


def dying(monkeypatch, after):
    """Every keeper saves at each step, and the process dies after so many in all."""
    taken = []
    stepped = Keeper.stepped

    def die(self, step):
        stepped(self, step)
        taken.append(step)
        if len(taken) == after:
            raise Died

    monkeypatch.setattr(Keeper, "stepped", die)
    monkeypatch.setenv(STEPS, "1")
    return taken


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "checkpoints", {"job": 1})


STATE_1 = State({"step": 1, "x": 0.1}, {"w": torch.tensor([0.1, -2.0])})
STATE_2 = State({"step": 2, "x": 0.2}, {"w": torch.tensor([0.3, 4.0])})


class TestStore:
    """One job's folder of checkpoints."""

    def test_what_was_saved_is_loaded(self, store):
        store.save(STATE_1)
        found = store.load()
        assert found.values == STATE_1.values
        assert torch.equal(found.tensors["w"], STATE_1.tensors["w"])

    def test_the_newest_counts_and_older_ones_are_removed(self, store):
        store.save(STATE_1)
        store.save(STATE_2)
        assert store.load().values["step"] == 2
        assert [path.name for path in store.folder.iterdir()] == ["2"]

    def test_none_where_nothing_was_saved(self, store):
        assert store.load() is None

    def test_another_job_does_not_resume_from_it(self, store, capsys):
        """Other parameters, inputs or code are another identity."""
        store.save(STATE_1)
        assert Store(store.folder, {"job": 2}).load() is None
        assert "not resumed from: it is of other parameters" in capsys.readouterr().err

    @pytest.mark.parametrize("name", [STATE, TENSORS])
    @pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
    def test_a_damaged_one_is_passed_over(self, store, capsys, name, damage):
        store.save(STATE_1)
        path = store.folder / "1" / name
        content = path.read_bytes()
        middle = len(content) // 2
        if damage == "missing":
            path.unlink()
        elif damage == "flipped":
            path.write_bytes(
                content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
            )
        else:
            path.write_bytes(content[:middle] if damage == "truncated" else b"")
        assert store.load() is None
        assert f"{store.folder / '1'}: not resumed from" in capsys.readouterr().err

    @pytest.mark.parametrize("content", ["[" * 100_000, "[]", "null", '{"values": []}', "{}"])
    def test_one_of_another_shape_is_passed_over(self, store, capsys, content):
        store.save(STATE_1)
        (store.folder / "1" / STATE).write_text(content)
        assert store.load() is None
        assert "not resumed from" in capsys.readouterr().err

    def test_an_older_one_steps_in_for_a_damaged_one(self, store, monkeypatch):
        """Where the process died between writing the new one and removing the old."""
        monkeypatch.setattr("atu.results.checkpoints.shutil.rmtree", lambda *_, **__: None)
        store.save(STATE_1)
        store.save(STATE_2)
        (store.folder / "2" / TENSORS).write_bytes(b"")
        assert store.load().values["step"] == 1

    def test_half_a_checkpoint_is_none(self, store, monkeypatch):
        """Killed before the rename, whatever of it is written."""

        def die(self, target):
            raise Died

        monkeypatch.setattr("pathlib.Path.rename", die)
        with pytest.raises(Died):
            store.save(STATE_1)
        (store.folder / ".7.partial").mkdir()
        save_file({}, store.folder / ".7.partial" / TENSORS)
        assert store.load() is None

    def test_cleared(self, store):
        store.save(STATE_1)
        store.clear()
        assert not store.folder.exists()


class TestInterval:
    """How often."""

    @pytest.mark.parametrize(
        ("minutes", "steps", "expected"),
        [
            (None, None, (10.0, 0)),
            ("0.5", None, (0.5, 0)),
            ("0", "25", (0.0, 25)),
            ("", "", (10.0, 0)),
        ],
    )
    def test_from_the_environment(self, monkeypatch, minutes, steps, expected):
        for name, value in ((MINUTES, minutes), (STEPS, steps)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert Interval.from_environment() == Interval(*expected)

    @pytest.mark.parametrize(
        ("name", "value"),
        [(MINUTES, "often"), (MINUTES, "-1"), (MINUTES, "nan"), (MINUTES, "inf"), (STEPS, "2.5")],
    )
    def test_no_number(self, monkeypatch, name, value):
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=f"{name} = '{value}': give a "):
            Interval.from_environment()

    @pytest.mark.parametrize(
        ("interval", "seconds", "steps", "due"),
        [
            ((1.0, 0), 59.0, 1000, False),
            ((1.0, 0), 60.0, 1, True),
            ((0.0, 5), 1e9, 4, False),
            ((0.0, 5), 0.0, 5, True),
            ((0.0, 0), 1e9, 10**9, False),
        ],
    )
    def test_due(self, interval, seconds, steps, due):
        """0 minutes and 0 steps: never."""
        assert Interval(*interval).due(seconds, steps) is due


def fit(store, kind, trace, interval=EVERY_STEP, steps=6):
    """A small net with dropout on batches that it draws one by one; its weights."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    data = iter(torch.randn(100, 3, generator=torch.Generator().manual_seed(0)))

    def loss():
        return net(next(data)).square().sum(), {}

    def seek(count):
        for _ in range(count):
            next(data)

    matrices = [net[0].weight, net[2].weight]
    own = {"matrix_learning_rate": 0.1, "vectors": [net[0].bias, net[2].bias]}
    optimizers = make_optimizers(
        kind, matrices if kind == "muon" else list(net.parameters()), 0.1,
        **(own if kind == "muon" else {}),
    )  # fmt: skip
    keeper = Keeper(store, trace, interval)
    run_steps("fit", steps, loss, optimizers, clip=1.0, trace=trace, keeper=keeper, seek=seek)
    return torch.cat([p.detach().flatten() for p in net.parameters()]), keeper


@pytest.mark.parametrize("kind", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_stretch_goes_on_where_it_broke_off(monkeypatch, store, kind, after):
    """Weights and trace are those of the undisturbed run, to the last bit; with dropout, so that
    torch's generator must be back too."""
    whole = Trace()
    expected, _ = fit(None, kind, whole)
    with monkeypatch.context() as patch, pytest.raises(Died):
        dying(patch, after)
        fit(store, kind, Trace())
    trace = Trace()
    found, keeper = fit(store, kind, trace)
    assert keeper.resumed == f"fit, step {after}"
    assert torch.equal(found, expected)
    assert trace.rows == whole.rows


def test_what_was_done_since_the_checkpoint_is_done_again(monkeypatch, store):
    """Saved every 2 steps, killed after 5: it goes on from 4, and ends as if nothing had been."""
    every_second = Interval(0, 2)
    whole = Trace()
    expected, _ = fit(None, "adamw", whole)
    with monkeypatch.context() as patch, pytest.raises(Died):
        dying(patch, 5)
        fit(store, "adamw", Trace(), every_second)
    trace = Trace()
    found, keeper = fit(store, "adamw", trace, every_second)
    assert keeper.resumed == "fit, step 4"
    assert torch.equal(found, expected) and trace.rows == whole.rows


def test_a_slow_disk_does_not_make_the_next_step_due(monkeypatch, store):
    """Steps of 4 minutes, checkpoints of 20, one every ten minutes of work: at steps 3 and 6. Red
    when the interval counts from where a checkpoint began."""
    clock, saved = [0.0], []

    def slow(state):
        clock[0] += 1200.0
        saved.append(state.values["step"])
        return True

    class Watch:
        @staticmethod
        def monotonic():
            return clock[0]

    monkeypatch.setattr("atu.training.keeper.time", Watch)
    monkeypatch.setattr(store, "save", slow)
    keeper = Keeper(store, Trace(), Interval(10.0, 0))
    keeper.enter("fit", "model", [], [], 8)
    for step in range(1, 9):
        clock[0] += 240.0
        keeper.stepped(step)
    assert saved == [3, 6]


def test_asked_to_stop_it_saves_and_stops(monkeypatch, store):
    """Also where no checkpoint was due; the next start goes on from there."""
    expected, _ = fit(None, "adamw", Trace())
    monkeypatch.setattr(Stop, "requested", True)
    with pytest.raises(StoppedError, match="fit: stopped on request at step 1; run again"):
        fit(store, "adamw", Trace())
    monkeypatch.setattr(Stop, "requested", False)
    found, keeper = fit(store, "adamw", Trace())
    assert keeper.resumed == "fit, step 1" and torch.equal(found, expected)


def test_asked_to_stop_without_a_place_to_save(monkeypatch):
    monkeypatch.setattr(Stop, "requested", True)
    with pytest.raises(StoppedError, match="no checkpoint could be kept"):
        fit(None, "sgd", Trace())


def test_a_full_disk_ends_no_work(monkeypatch, store, capsys):
    """It says so, and the run ends as it would have."""

    def full(*_):
        raise OSError(28, "No space left on device")

    expected, _ = fit(None, "sgd", Trace())
    monkeypatch.setattr("atu.results.checkpoints._sync", full)
    found, _ = fit(store, "sgd", Trace())
    assert torch.equal(found, expected)
    assert "no checkpoint: [Errno 28] No space left" in capsys.readouterr().err
    assert store.load() is None and not store.folder.exists()


METHODS = (
    "atu", "ga", "npo_retain", "npo_states", "npo_masked", "mudman", "pdu", "altpo", "whp",
    "task_vector", "rmu", "lunar", "uld",
)  # fmt: skip
"""One of every kind: several stages, predictors, copies, answers that the model wrote, held
states, a guard."""


@pytest.fixture
def outcome(mini_params, chain, brief):
    """A function that runs a method on the miniature; everything that it comes to."""
    inputs = UnlearnInputs(chain.full, chain.prepared, chain.embed, chain.align)

    def run(name, store=None, **own):
        settings = mini_params.unlearn.methods[name]
        small = {
            "steps": 4, "evaluations": 2, "batch_size": 4, "reinforce_steps": 2,
            "alphas": [0.5, 1.0], "layer": 1, "layers": 1, "stop_below": None,
            "learning_rate": 1e-3,
        }  # fmt: skip
        known = {field.name for field in dataclasses.fields(settings)}
        values = {key: value for key, value in (small | own).items() if key in known}
        if getattr(settings, "retain", None) and settings.retain.layer:
            values["retain"] = dataclasses.replace(settings.retain, layer=2)
        settings = dataclasses.replace(settings, **values)
        model, tokenizer = load_lm(chain.full.subfolder("model"), CPU, training=True)
        keeper = Keeper(store, Trace())
        found = run_method(model, tokenizer, settings, mini_params.unlearn, inputs, 0, keeper)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        return found, weights, keeper.resumed

    return run


def same(first, second):
    """Whether two outcomes agree in everything, weights to the last bit."""
    (a, weights, _), (b, others, _) = first, second
    assert (a.trajectory, a.kept, a.measured, a.cost) == (b.trajectory, b.kept, b.measured, b.cost)
    assert a.trace.rows == b.trace.rows
    assert weights.keys() == others.keys()
    return all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_method_ends_where_the_undisturbed_one_does(monkeypatch, store, outcome, name):
    """Killed in the middle, in whatever stage that is."""
    expected = outcome(name)
    with monkeypatch.context() as patch, pytest.raises(Died):
        dying(patch, len(expected[0].trace.rows) // 2)
        outcome(name, store)
    found = outcome(name, store)
    assert found[2] is not None
    assert same(expected, found)


def test_atu_killed_after_every_step(monkeypatch, store, outcome):
    """Two rounds of 2 steps with 2 of re-alignment between; thresholds measured before each. Killed
    after each of the six in turn, every process takes one step further."""
    own = {"quantiles": [0.6, 0.3], "thresholds": [], "adaptive": True}
    expected = outcome("atu", **own)
    assert len(expected[0].trace.rows) == 6
    for _ in range(6):
        with monkeypatch.context() as patch, pytest.raises(Died):
            dying(patch, 1)
            outcome("atu", store, **own)
    found = outcome("atu", store, **own)
    assert found[2] == "round 2, step 2"
    assert same(expected, found)


@pytest.mark.parametrize("after", [2, 5])
def test_pretraining_goes_on(monkeypatch, tmp_path, chain, mini_params, after):
    """Of six steps. The manifest is that of the chain's own run, byte for byte; provenance says
    what was resumed from, and nothing stays behind."""
    manifest = tmp_path / "pretrain" / MANIFEST

    def run():
        pretrain.run(manifest, mini_params.pretrain, CPU, "llama_tiny", chain.shared, None)

    with monkeypatch.context() as patch, pytest.raises(Died):
        dying(patch, after)
        run()
    assert not manifest.exists()
    run()
    assert Artifact.open(manifest, "pretrain").digest == chain.full.digest
    provenance = json.loads((manifest.parent / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["resumed"] == f"pretrain, step {after}"
    assert [path.name for path in tmp_path.iterdir()] == ["pretrain"]


@pytest.mark.parametrize("after", [1, 4, 6])
def test_alignment_of_two_layers_goes_on(monkeypatch, tmp_path, chain, mini_params, after):
    """Four steps each: within the first, at its end, within the second."""
    section = mini_params.align.model_copy(update={"hook_layers": [1, 2]})

    def run(where):
        manifest = tmp_path / where / MANIFEST
        align.run(manifest, section, CPU, 0, chain.full, chain.embed, chain.prepared)
        return Artifact.open(manifest, "align").digest

    expected = run("undisturbed")
    with monkeypatch.context() as patch, pytest.raises(Died):
        dying(patch, after)
        run("killed")
    assert run("killed") == expected


@pytest.mark.usefixtures("brief")
def test_a_search_goes_on_with_its_next_trial(monkeypatch, tmp_path, chain, mini_params, capsys):
    """Killed in the third of three: the first two are not run again, the chosen is the same."""
    spaces = {"ga": {"learning_rate": Span(low=1e-5, high=1e-3, log=True)}}
    section = Search(
        targets=mini_params.grid.targets[:1], finalists=1, seed=0, trials=3, first="settings",
        relearn=None, common={}, spaces=spaces,
    )  # fmt: skip
    inputs = [UnlearnInputs(chain.full, chain.prepared, None, None)]
    run_method, tried = search.run_method, []

    def counted(*args):
        tried.append(args[2].learning_rate)
        if len(tried) == 6:
            raise Died
        return run_method(*args)

    monkeypatch.setattr(search, "run_method", counted)

    def run(where):
        manifest = tmp_path / where / MANIFEST
        search.run(manifest, section, CPU, mini_params.unlearn, "ga", inputs)
        return Artifact.open(manifest, "search").digest

    expected = run("undisturbed")
    with pytest.raises(Died):
        run("killed")
    assert run("killed") == expected
    assert tried[3:6] == tried[:3] and tried[6:] == tried[2:3]
    assert "resumed from trial 2 of 3" in capsys.readouterr().err


def test_other_parameters_start_anew(monkeypatch, tmp_path, chain, mini_params, capsys):
    """A checkpoint of another rate would be the wrong model with the right name."""
    manifest = tmp_path / "pretrain" / MANIFEST
    section = mini_params.pretrain
    with monkeypatch.context() as patch, pytest.raises(Died):
        dying(patch, 3)
        other = section.model_copy(update={"learning_rate": section.learning_rate / 2})
        pretrain.run(manifest, other, CPU, "llama_tiny", chain.shared, None)
    pretrain.run(manifest, section, CPU, "llama_tiny", chain.shared, None)
    assert Artifact.open(manifest, "pretrain").digest == chain.full.digest
    assert "not resumed from: it is of other parameters" in capsys.readouterr().err
