"""Several ranks for one job: what they compute is what one process computes, and how they end."""

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import several
import torch
import yaml
from families import TINY
from machines import CPU

from atu.config.load import load_params
from atu.distributed import launch
from atu.errors import StoppedError
from atu.models.llm import load_lm
from atu.phases import unlearn
from atu.results.artifacts import MANIFEST, PROVENANCE, Artifact
from atu.results.files import read_json
from atu.training.keeper import STEPS, Stop
from atu.unlearning.engine import UnlearnInputs

TOLERANCE = 1e-5
"""Of float32 sums in another order, relative where numbers are above 1."""
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def launched():
    """`launch.run` of two ranks from this process, whose handlers of signals it puts back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

    def run(*command):
        before = {number: signal.getsignal(number) for number in numbers}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("PYTHONPATH", f"{TESTS}:{os.environ.get('PYTHONPATH', '')}")
            try:
                return launch.run([sys.executable, *map(str, command)], 2)
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    return run


@pytest.fixture(scope="module")
def params_file(tmp_path_factory, mini_values):
    """The miniature's parameters, with more steps of GA than a test waits for."""
    values = copy.deepcopy(mini_values)
    values["unlearn"]["probes"] = 1
    values["unlearn"]["methods"]["ga"] |= {"steps": 8, "evaluations": 1, "learning_rate": 1e-4}
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory, chain, params_file, launched):
    """What both of two ranks found, their folder, what was said, and where this process listened
    meanwhile."""
    out = tmp_path_factory.mktemp("two")
    seen = []
    ended = threading.Event()

    def watch():
        while not ended.wait(0.5):
            seen.extend(several.listeners())

    watcher = threading.Thread(target=watch)
    before = several.listeners()
    watcher.start()
    said = (out / "said").open("w+")
    kept = os.dup(2)
    os.dup2(said.fileno(), 2)
    try:
        status = launched(TESTS / "several.py", chain.full.folder.parent, params_file, out)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        ended.set()
        watcher.join()
    text = (out / "said").read_text()
    assert status == 0, text
    found = [read_json(out / f"{rank}.json") for rank in range(2)]
    return found, out, text, [place for place in seen if place not in before]


@pytest.fixture(scope="module")
def one(tmp_path_factory, chain, params_file):
    """What one process finds, which is this one."""
    out = tmp_path_factory.mktemp("one")
    return several.work(chain.full.folder.parent, load_params(params_file), out), out


def furthest(ours, theirs):
    """The largest difference of two lists of numbers, relative to numbers above 1."""
    pairs = zip(ours, theirs, strict=True)
    return max(abs(a - b) / max(1, abs(a)) for a, b in pairs)


def numbers(rows):
    """All numbers of rows, by row and key; what is no number must be equal."""
    found = [(key, row[key]) for row in rows for key in sorted(row)]
    words = [pair for pair in found if not isinstance(pair[1], float)]
    return [value for _, value in found if isinstance(value, float)], words


class TestTogether:
    """Two ranks of gloo on this machine."""

    def test_each_knows_the_others(self, two):
        """Rows 1 and 2 are the first's, 9 the second's: their mean is 4, whose gradient in the
        factor is 4; five rows doubled are put together in their order."""
        for rank, found in enumerate(two[0]):
            given = found["collectives"]
            assert given["mean"] == [4.0] and given["gradient"] == [4.0, 0.0]
            assert (given["total"], given["any"]) == (3, [True, False])
            assert given["agreed"] == {"from": 0}
            assert given["rows"] == [0.0, 2.0, 4.0, 6.0, 8.0]
            assert given["streams"] == ([f"process {rank}"] if rank else [])

    def test_nothing_listens_beyond_this_machine(self, two):
        """127.0.0.1 is 0100007F. Red when gloo is bound to another interface, and when ranks meet
        by a TCPStore, as torchrun has them: it listens everywhere. The launcher listens nowhere."""
        for found in two[0]:
            assert found["listeners"], "nothing was seen at all"
            assert set(found["listeners"]) == {"0100007F"}
        assert two[3] == []

    def test_all_resume_from_one_checkpoint(self, two):
        """The first's, whichever others have; where one cannot read it all end."""
        for found in two[0]:
            assert found["resuming"]["step"] == 1
            assert (
                "/1: rank 0 resumes from it, and another rank cannot" in found["resuming"]["said"]
            )

    def test_a_model_is_split_evenly(self, two):
        """Every process has half of each parameter with an even number of rows; tied tables stay
        one, and put together they are the model."""
        for found in two[0]:
            shares = found["sharding"]["shares"]
            assert len(shares) > 20 and set(shares.values()) == {0.5}
            assert found["sharding"]["tied"] and found["sharding"]["whole"]

    @pytest.mark.parametrize("kind", TINY)
    def test_every_family_can_be_split(self, two, kind):
        """Early exits, logits and gradients through both. Red when what belongs to no layer is not
        gathered for an early exit."""
        found = two[0][0]["families"][kind]
        assert found["loss"] < TOLERANCE and found["gradient"] < TOLERANCE and found["whole"]

    def test_alignment_is_that_of_one(self, two, one):
        """Every step's loss, and the scores on held-out texts."""
        folders = [Artifact.open(out / "align" / MANIFEST, "align") for out in (two[1], one[1])]
        traces = [numbers(folder.read_jsonl("trace.jsonl")) for folder in folders]
        assert traces[0][1] == traces[1][1]
        assert furthest(traces[0][0], traces[1][0]) < TOLERANCE
        scores = [folder.metrics() for folder in folders]
        assert scores[0].keys() == scores[1].keys()
        assert furthest(scores[0].values(), scores[1].values()) < TOLERANCE
        assert folders[0].manifest["params"] == folders[1].manifest["params"]

    def test_provenance_says_how_many(self, two, one):
        for out, said in (
            (two[1], {"count": 2, "backend": "gloo"}),
            (one[1], {"count": 1, "backend": None}),
        ):
            assert read_json(out / "align" / PROVENANCE)["processes"] == said

    @pytest.mark.parametrize("name", several.CASES)
    def test_unlearning_is_that_of_one(self, two, one, name):
        """Every step's loss and gradient norm, every point, the final weights, and the cost in
        tokens."""
        ours, theirs = two[0][0][name], json.loads(json.dumps(one[0][name]))
        tolerance = 2e-3 if name == "bfloat16" else TOLERANCE
        assert ours["cost"] == theirs["cost"]
        for rows in ("trace", "trajectory"):
            values, words = numbers(ours[rows])
            expected, named = numbers(theirs[rows])
            assert words == named
            assert furthest(values, expected) < tolerance, rows
        assert furthest(ours["weights"], theirs["weights"]) < tolerance
        assert ours["plain"]

    @pytest.mark.parametrize("name", several.CASES)
    def test_one_whole_model_is_held(self, two, name):
        """Whenever one is split, each process has it and its copy, no third. Red when the reference
        is copied as a whole before it is split."""
        for found in two[0]:
            assert found[name]["held"] and set(found[name]["held"]) == {1}

    def test_all_know_the_same(self, two):
        """The second process decides nothing of its own."""
        for name in several.CASES:
            first, second = (found[name] for found in two[0])
            assert first["trace"] == second["trace"]
            assert first["trajectory"] == second["trajectory"]

    def test_the_first_alone_speaks(self, two):
        """Red when progress is shown by all: every stage would end twice."""
        assert two[2].count("stretch 1: step 3/3") == sum(
            "steps" in own and own["steps"] == 3 for _, own, _ in several.CASES.values()
        )


class TestJobs:
    """`atu unlearn --processes 2`, as a rule calls it."""

    def words(self, chain, params_file, out):
        return (
            "-m", "atu", "unlearn", "--params", str(params_file), "--method", "ga", "--seed", "0",
            "--processes", "2", "--pretrain", str(chain.full.folder / MANIFEST),
            "--prepare", str(chain.prepared.folder / MANIFEST), "--out", str(out / MANIFEST),
        )  # fmt: skip

    def unlearn(self, out, chain, params_file):
        """The same job in one process, which is this one: its trace and what it resumed from."""
        params, inputs = (
            load_params(params_file),
            UnlearnInputs(chain.full, chain.prepared, None, None),
        )
        unlearn.run(out / MANIFEST, params.unlearn, params.compute, "ga", 0, inputs)
        return Artifact.open(out / MANIFEST, "unlearn").read_jsonl("trace.jsonl")

    def test_two_then_one_then_two(
        self, tmp_path, chain, params_file, launched, monkeypatch, capfd
    ):
        """Two ranks are asked to stop, by SIGTERM to the launcher; one process goes on from their
        checkpoint for a step; two go on from its checkpoint to the end. The trace is that of one
        undisturbed process, and the saved model is a plain one."""
        monkeypatch.setenv(STEPS, "1")
        out = tmp_path / "out"
        words = self.words(chain, params_file, out)
        first = subprocess.Popen(
            [sys.executable, *words], stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while not list((tmp_path / ".out.checkpoints").glob("[2-7]")):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        first.send_signal(signal.SIGTERM)
        _, said = first.communicate(timeout=120)
        assert first.returncode == 128 + signal.SIGTERM
        assert said.count("stopped on request at step") == 1 and "Traceback" not in said
        monkeypatch.setattr(Stop, "requested", True)
        with pytest.raises(StoppedError):
            self.unlearn(out, chain, params_file)
        monkeypatch.setattr(Stop, "requested", False)
        capfd.readouterr()
        assert launched(*words) == 0
        assert capfd.readouterr().err.count("resumed from stretch 1, step ") == 1
        assert [p.name for p in tmp_path.iterdir()] == ["out"]
        found = Artifact.open(out / MANIFEST, "unlearn")
        expected, _ = numbers(self.unlearn(tmp_path / "undisturbed", chain, params_file))
        assert furthest(numbers(found.read_jsonl("trace.jsonl"))[0], expected) < TOLERANCE
        model, _ = load_lm(found.subfolder("model"), CPU, training=True)
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert all(torch.isfinite(p).all() for p in model.parameters())


REPORTS = "launch.reported('atu: a reason'); sys.exit(2)"
SLEEPS = "time.sleep(60)"
LOSES = "launch.reported('a lost connection', maybe_consequence=True); sys.exit(1)"


class TestLauncher:
    """Ranks that need no torch."""

    START = "import os, signal, sys, time\nfrom atu.distributed import launch\n"

    def test_all_went_well(self, launched, capfd):
        """Of two ranks the first alone prints."""
        text = "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'])"
        assert launched("-c", text) == 0
        assert capfd.readouterr() == ("0 2\n", "")

    @pytest.mark.parametrize(
        ("ranks", "status", "said"),
        [
            ((REPORTS, SLEEPS), 2, "atu: a reason\n"),
            ((SLEEPS, REPORTS), 2, "atu: a reason\n"),
            # The connection is lost before the launcher has looked: red when the first report wins.
            (
                ("time.sleep(0.3); os.kill(os.getpid(), signal.SIGKILL)", LOSES), 137,
                "atu: rank 0 of 2 was ended by signal 9; the others were ended with it\n",
            ),
            (
                (SLEEPS, "sys.exit('a last word')"), 1,
                "a last word\n"
                "atu: rank 1 of 2 ended with status 1; the others were ended with it\n",
            ),
        ],
        ids=["rank 0", "rank 1", "killed", "silent"],
    )  # fmt: skip
    def test_one_fails_and_its_message_is_the_only_one(
        self, launched, capfd, caplog, ranks, status, said
    ):
        """The other sleeps, and is ended within seconds. Red when torch logs what it does."""
        start = time.monotonic()
        own = "\n".join(f"if os.environ['RANK'] == '{n}': {what}" for n, what in enumerate(ranks))
        assert launched("-c", self.START + own) == status
        assert capfd.readouterr() == ("", said) and not caplog.records
        assert time.monotonic() - start < 30

    def test_ranks_die_with_the_launcher(self, tmp_path):
        """It is killed, and can end nobody."""
        rank = (
            f"{self.START}import pathlib\nlaunch.die_with_launcher()\n"
            f"pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()\ntime.sleep(60)"
        )
        start = f"import sys; {self.START}launch.run([sys.executable, '-c', {rank!r}], 2)"
        launcher = subprocess.Popen([sys.executable, "-c", start])
        deadline = time.monotonic() + 120
        while len(ranks := [Path("/proc", path.name) for path in tmp_path.iterdir()]) < 2:
            assert launcher.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        launcher.kill()
        launcher.wait()
        deadline = time.monotonic() + 10
        while any(rank.exists() and " Z " not in (rank / "stat").read_text() for rank in ranks):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_nothing_is_left_to_do_at_the_end(self, launched, capfd):
        """A rank that failed does not wait for the others. Red when `join` has Python part at its
        end, whatever that is."""
        text = """
import sys, time, torch
from atu import cli
from atu.distributed import processes
from atu.errors import AtuError
def app():
    processes.join(torch.device("cpu"))
    processes.leave = lambda: time.sleep(60)
    if processes.rank():
        raise AtuError("a reason")
    processes.any_of(False)
cli.app = app
cli.main()
"""
        assert launched("-c", text) == 2
        assert capfd.readouterr().err == "atu: a reason\n"
