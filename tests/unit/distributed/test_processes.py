"""Who a rank is, what it is told, and how it ends, without starting any."""

import os
import sys

import pytest
import torch
import yaml

from atu import cli, methods
from atu.cli.starting import takes_part
from atu.config.roles import ORACLES
from atu.distributed import launch, processes
from atu.errors import AtuError, ConfigError
from atu.results.artifacts import MANIFEST
from atu.training.keeper import Stop


class Ended(BaseException):
    """The process is gone."""


class TestParting:
    """How a rank ends."""

    @pytest.fixture
    def end(self, monkeypatch):
        """A function that runs the command line with an application that ends so, as one of two;
        whether it parted from the other in order, and with which status it ended on the spot."""
        monkeypatch.setattr(launch, "die_with_launcher", lambda: None)
        monkeypatch.setattr(processes, "world_size", lambda: 2)

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


class TestOptions:
    @pytest.mark.parametrize(("option", "count"), [(0, 1), (1, 1), (3, 3)])
    def test_the_option_says_how_many(self, monkeypatch, option, count):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        assert launch.rank_count(option) == count
        assert not launch.started() and launch.number() == 0

    def test_so_does_torchrun(self, monkeypatch):
        for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
            monkeypatch.setenv(name, value)
        assert launch.rank_count(1) == launch.rank_count(2) == 2
        with pytest.raises(ConfigError, match=r"^--processes = 4: torchrun has started 2"):
            launch.rank_count(4)

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

    def test_the_users_interface_stays(self, monkeypatch, tmp_path):
        """What the user does not choose is bound to the loopback interface."""
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
        monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
        assert launch._environment(tmp_path, 1, 2) == {
            "GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": launch.LOOPBACK, "RANK": "1",
            "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            launch.STORE: f"file://{tmp_path}/store",
        }  # fmt: skip

    def test_a_method_for_one_is_refused_first(
        self, monkeypatch, tmp_path, capsys, mini_values, store
    ):
        """Before any rank is started or any folder is made."""
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        monkeypatch.setattr(launch, "run", lambda *_: pytest.fail("ranks were started"))
        params = tmp_path / "params.yaml"
        params.write_text(yaml.safe_dump(mini_values), encoding="utf-8")
        lm, prepared = (store(phase, phase).folder / MANIFEST for phase in ("pretrain", "prepare"))
        words = (
            f"atu unlearn --params {params} --method uld --seed 0 --processes 2 --pretrain {lm} "
            f"--prepare {prepared} --out {tmp_path}/out/{MANIFEST}"
        )
        monkeypatch.setattr(sys, "argv", words.split())
        monkeypatch.setattr(Stop, "listen", lambda: None)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        assert capsys.readouterr().err.splitlines() == [
            "atu: --processes = 2: unlearn.methods.uld (loss uld) runs in one process; set "
            "`gpu: 1` for its rule (cluster/config.yaml, set-resources)"
        ]
        assert not (tmp_path / "out").exists()


class TestMethods:
    """Which of them several processes can share."""

    def used(self, mini_params, name, count, compat=False, **own):
        import dataclasses

        settings = dataclasses.replace(mini_params.unlearn.methods[name], **own)
        method = methods.get(settings.loss)
        return method.require_processes(f"unlearn.methods.{name}", settings, compat, count)

    def test_every_method_says(self):
        kinds = {name: method.processes for name, method in methods.registry().items()}
        assert {name for name, kind in kinds.items() if kind == "one"} == {
            "lunar", "mudman", "pdu", "uld",
        }  # fmt: skip
        assert {name for name, kind in kinds.items() if kind == "first"} == {
            "checkpoint", "eco", "icu", "none", "rocr", *ORACLES,
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
                "npo_masked",
                {},
                False,
                r"npo\) runs in one process with wrapper = disruption_masking; set `gpu: 1`",
            ),
            *(
                (
                    name,
                    {"variant": "open_unlearning"},
                    False,
                    r"with variant = open_unlearning; set",
                )
                for name in ("rmu", "undial")
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
    assert (processes.world_size(), processes.rank(), processes.backend()) == (1, 0, None)
    assert processes.device() is None and processes.agreed("x") == "x"
    tensor = torch.ones(3)
    assert processes.join_rows(processes.split_rows(tensor), 3) is not None
    assert processes.part_like(tensor, tensor) is tensor
    assert processes.averages([1.5]) == [1.5] and processes.total(7) == 7
