"""Several processes for one job: what they compute is what one computes."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import several
import torch
import yaml
from families import TINY
from machines import CPU

from atu import cli, methods
from atu.cli.starting import takes_part
from atu.config.load import load_params
from atu.distributed import launch, processes
from atu.errors import AtuError, ConfigError
from atu.models.llm import load_lm
from atu.phases import unlearn
from atu.results.artifacts import MANIFEST, PROVENANCE, Artifact
from atu.results.files import read_json
from atu.unlearning.engine import Inputs

TOLERANCE = 1e-5
"""Of float32 sums in another order, relative where numbers are above 1."""
GRACE = 2.0
"""Seconds, less than a user has."""
TESTS = Path(__file__).parents[2]


def in_two(*command, **popen):
    """`launch.run` of a command in two processes, in a process of its own."""
    start = (
        f"import sys; from atu import launch; launch.GRACE = {GRACE}; "
        "sys.exit(launch.run(sys.argv[1:], 2))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start, *command],
        env=os.environ | {"PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"}
        | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen,
    )  # fmt: skip


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
def two(tmp_path_factory, chain, params_file):
    """What both of two processes found, and their folder."""
    out = tmp_path_factory.mktemp("two")
    process = in_two(
        sys.executable, str(TESTS / "several.py"), str(chain.full.folder.parent),
        str(params_file), str(out),
    )  # fmt: skip
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return [read_json(out / f"{rank}.json") for rank in range(2)], out, said


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
    """Two processes of gloo on this machine."""

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
        """127.0.0.1 is 0100007F. Red when the interface is not bound: gloo takes the one that the
        host's name resolves to."""
        for found in two[0]:
            assert found["listeners"], "nothing was seen at all"
            assert set(found["listeners"]) == {"0100007F"}

    def test_all_resume_from_one_checkpoint(self, two):
        """The first's, whichever others have; where one cannot read it all end."""
        for found in two[0]:
            assert found["resuming"]["step"] == 1
            assert "/1: the first process resumes from it, and another" in found["resuming"]["said"]

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

    def start(self, chain, params_file, out, *more):
        return subprocess.Popen(
            [sys.executable, "-m", "atu", "unlearn", "--params", str(params_file), "--method", "ga",
             "--seed", "0", "--processes", "2", "--lm", str(chain.full.folder / MANIFEST),
             "--prepared", str(chain.prepared.folder / MANIFEST), "--out", str(out / MANIFEST),
             *more],
            env=os.environ | {"ATU_CHECKPOINT_STEPS": "1", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def test_a_killed_job_goes_on(self, tmp_path, chain, params_file):
        """The launcher dies by SIGKILL, and its processes with it; the next two go on from the
        checkpoint, and so does one alone. Their traces are that of one undisturbed process, and
        the saved model is a plain one."""
        process = self.start(chain, params_file, tmp_path / "out")
        deadline = time.monotonic() + 300
        while not list((tmp_path / ".out.checkpoints").glob("[2-7]")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.communicate()
        kept = shutil.copytree(tmp_path / ".out.checkpoints", tmp_path / ".one.checkpoints")
        alone = self.unlearn(tmp_path / "one", chain, params_file)
        assert alone.resumed and not kept.exists()
        again = self.start(chain, params_file, tmp_path / "out")
        _, said = again.communicate(timeout=300)
        assert again.returncode == 0, said
        assert said.count("resumed from stretch 1, step ") == 1
        found = Artifact.open(tmp_path / "out" / MANIFEST, "unlearn")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "out"]
        undisturbed = self.unlearn(tmp_path / "undisturbed", chain, params_file)
        assert not undisturbed.resumed
        expected, _ = numbers(undisturbed.trace)
        for trace in (found.read_jsonl("trace.jsonl"), alone.trace):
            assert furthest(numbers(trace)[0], expected) < TOLERANCE
        model, _ = load_lm(found.subfolder("model"), CPU, training=True)
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert all(torch.isfinite(p).all() for p in model.parameters())

    def unlearn(self, out, chain, params_file):
        """The same job in one process, which is this one: its trace and what it resumed from."""
        params, inputs = load_params(params_file), Inputs(chain.full, chain.prepared, None, None)
        unlearn.run(out / MANIFEST, params.unlearn, params.compute, "ga", 0, inputs)
        trace = Artifact.open(out / MANIFEST, "unlearn").read_jsonl("trace.jsonl")
        return SimpleNamespace(trace=trace, resumed=read_json(out / PROVENANCE)["resumed"])

    def test_a_method_for_one_is_refused_first(self, tmp_path, chain, params_file):
        process = self.start(chain, params_file, tmp_path / "out", "--method", "uld")
        _, said = process.communicate(timeout=120)
        assert process.returncode == 2
        assert said.splitlines() == [
            "atu: --processes = 2: unlearn.methods.uld (loss uld) runs in one process; set "
            "`gpu: 1` for its rule (cluster/config.yaml, set-resources)"
        ]
        assert list(tmp_path.iterdir()) == []


class TestLauncher:
    """Commands that need no torch: seconds for all."""

    def run(self, text, seconds=60):
        process = in_two(sys.executable, "-c", text)
        said = process.communicate(timeout=seconds)
        return process.returncode, *said

    def test_all_went_well(self):
        text = "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'])"
        assert self.run(text) == (0, "0 2\n", "")

    FAILING = """
import os, signal, sys, time
from atu import launch
if os.environ["RANK"] == "{rank}":
    {what}
try:
    time.sleep(60)
except KeyboardInterrupt:
    launch.reported("a consequence")
    sys.exit(1)
"""

    @pytest.mark.parametrize("rank", [0, 1])
    def test_one_fails_and_says_why_once(self, rank):
        """The other waits for it in vain: it is ended within seconds, and what it then has to say
        is not shown."""
        what = "launch.reported('atu: a reason'); sys.exit(2)"
        start = time.monotonic()
        assert self.run(self.FAILING.format(rank=rank, what=what)) == (2, "", "atu: a reason\n")
        assert time.monotonic() - start < 10 * GRACE

    @pytest.mark.parametrize("rank", [0, 1])
    def test_one_fails_and_hangs(self, rank):
        """It has said why, and waits at its end for the others, as NCCL can. Red when only one that
        has ended counts as failed."""
        deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
        what = f"launch.reported('atu: a reason'); {deaf}; time.sleep(60)"
        start = time.monotonic()
        assert self.run(self.FAILING.format(rank=rank, what=what)) == (1, "", "atu: a reason\n")
        assert time.monotonic() - start < 10 * GRACE

    @pytest.mark.parametrize(
        ("what", "status", "said"),
        [
            ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was ended by signal 9"),
            ("sys.exit('a last word')", 1, "ended with status 1"),
        ],
    )
    def test_one_dies_without_a_report(self, what, status, said):
        found, _, error = self.run(self.FAILING.format(rank=1, what=what))
        assert found == status
        assert f"atu: process 2 of 2 {said}; the others were ended with it" in error
        assert ("a last word" in error) is (status == 1)

    def test_a_request_to_stop_reaches_all(self):
        """As SLURM sends it to the process that it started."""
        text = (
            "import signal, sys, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
            "print('ready', flush=True)\ntime.sleep(60)"
        )
        process = in_two(sys.executable, "-c", text)
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 143

    def test_the_users_interface_stays(self, tmp_path):
        given = {"GLOO_SOCKET_IFNAME": "eth0", "RANK": "7"}
        found = launch._environment(given, tmp_path, 1, 2)
        assert (found["GLOO_SOCKET_IFNAME"], found["NCCL_SOCKET_IFNAME"]) == (
            "eth0",
            launch.LOOPBACK,
        )
        assert (found["RANK"], found["WORLD_SIZE"]) == ("1", "2")


class Ended(BaseException):
    """The process is gone."""


class TestParting:
    """How one of several processes ends."""

    @pytest.fixture
    def end(self, monkeypatch):
        """A function that runs the command line with an application that ends so, as one of two;
        whether it parted from the other in order, and with which status it ended on the spot."""
        monkeypatch.setattr(launch, "die_with_parent", lambda: None)
        monkeypatch.setattr(processes, "count", lambda: 2)

        def run(error):
            left, ended = [], []

            def app():
                raise error

            def exit_now(status):
                ended.append(status)
                raise Ended

            monkeypatch.setattr(cli, "app", app)
            monkeypatch.setattr(processes, "leave", lambda: left.append(1))
            monkeypatch.setattr(os, "_exit", exit_now)
            with pytest.raises((Ended, SystemExit)):
                cli.main()
            return bool(left), ended

        return run

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (AtuError("a reason"), 2), (KeyError("a reason"), 1), (SystemExit(130), 130),
            (SystemExit("a reason"), 1),
        ],
    )  # fmt: skip
    def test_one_that_failed_ends_on_the_spot(self, end, capsys, error, status):
        """Red when it parts in order, which under NCCL waits for those who wait for it."""
        assert end(error) == (False, [status])
        assert ("a reason" in capsys.readouterr().err) is (status != 130)

    def test_one_that_did_its_work_parts_in_order(self, end):
        assert end(SystemExit(0)) == (True, [])

    def test_nothing_is_left_to_do_at_the_end(self):
        """Red when `join` has Python part at its end, whatever that is."""
        text = """
import sys, time, torch
from atu import cli, processes
from atu.errors import AtuError
def app():
    processes.join(torch.device("cpu"))
    processes.leave = lambda: time.sleep(60)
    if processes.rank():
        raise AtuError("a reason")
    processes.wait()
cli.app = app
cli.main()
"""
        start = time.monotonic()
        process = in_two(sys.executable, "-c", text)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (2, "atu: a reason\n")
        assert time.monotonic() - start < 30


class TestOptions:
    @pytest.mark.parametrize(("option", "count"), [(0, 1), (1, 1), (3, 3)])
    def test_the_option_says_how_many(self, monkeypatch, option, count):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        assert launch.wanted(option) == count
        assert not launch.started() and launch.number() == 0

    def test_so_does_torchrun(self, monkeypatch):
        for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
            monkeypatch.setenv(name, value)
        assert launch.wanted(1) == launch.wanted(2) == 2
        with pytest.raises(ConfigError, match=r"^--processes = 4: torchrun has started 2"):
            launch.wanted(4)

    def test_what_one_does_alone_the_others_leave(self, monkeypatch):
        """Of two that torchrun has started, for a method that trains nothing."""
        for rank, works in (("0", True), ("1", False)):
            monkeypatch.setenv("WORLD_SIZE", "2")
            monkeypatch.setenv("RANK", rank)
            assert takes_part(None, 1) is works

    def test_more_than_the_machine_has(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        cuda = torch.device("cuda")
        launch.require_devices(2, cuda)
        launch.require_devices(3, torch.device("cpu"))
        with pytest.raises(
            ConfigError, match=r"^--processes = 3: .* gives the job 2; lower it \(`gpu`"
        ):
            launch.require_devices(3, cuda)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        launch.require_devices(4, cuda)  # two on each of two machines


class TestMethods:
    """Which of them several processes can share."""

    def used(self, mini_params, name, count, compat=False, **own):
        import dataclasses

        settings = dataclasses.replace(mini_params.unlearn.methods[name], **own)
        method = methods.get(settings.loss)
        return method.require_processes(f"unlearn.methods.{name}", settings, compat, count)

    def test_every_method_says(self):
        kinds = {name: method.processes for name, method in methods.registry().items()}
        assert {name for name, kind in kinds.items() if kind == "one"} == {"lunar", "uld"}
        assert {name for name, kind in kinds.items() if kind == "first"} == {
            "eco", "icu", "none", "oracle", "rocr",
        }  # fmt: skip

    def test_one_that_does_not_say_is_refused(self):
        """An author's loss may take its means as it likes."""
        assert methods.base.Method(object).processes == "one"

    @pytest.mark.parametrize(("name", "used"), [("atu", 2), ("npo", 2), ("none", 1), ("rocr", 1)])
    def test_those_that_can(self, mini_params, name, used):
        assert self.used(mini_params, name, 2) == used
        assert self.used(mini_params, name, 1) == 1

    @pytest.mark.parametrize(
        ("name", "own", "compat", "said"),
        [
            (
                "lunar",
                {},
                False,
                r"^--processes = 2: unlearn.methods.lunar \(loss lunar\) runs in one",
            ),
            (
                "npo_mudman",
                {},
                False,
                r"npo\) runs in one process with wrapper = mudman; set `gpu: 1`",
            ),
            ("npo", {}, True, r"npo\) runs in one process with reference_compat; set `gpu: 1`"),
            ("ga", {"batch_size": 1}, False, r"^unlearn.methods.ga.batch_size = 1: .*at least 2"),
        ],
    )
    def test_those_that_cannot(self, mini_params, name, own, compat, said):
        with pytest.raises(ConfigError, match=said):
            self.used(mini_params, name, 2, compat, **own)
        assert self.used(mini_params, name, 1, compat, **own) == 1


def test_one_process_needs_nobody():
    """Without others every function gives back what it is given."""
    assert (processes.count(), processes.rank(), processes.backend()) == (1, 0, None)
    assert processes.device() is None and processes.agreed("x") == "x"
    tensor = torch.ones(3)
    assert processes.join_rows(processes.split_rows(tensor), 3) is not None
    assert processes.whole(tensor) is tensor and processes.part_like(tensor, tensor) is tensor
    assert processes.averages([1.5]) == [1.5] and processes.total(7) == 7
