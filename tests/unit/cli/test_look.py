"""The commands that look at results, as they are typed."""

import json
import sys
from types import SimpleNamespace

import pytest
import yaml

from atu.cli import main


@pytest.fixture
def atu(monkeypatch, capsys, tmp_path, mini_values):
    """A function that runs the command line in a folder with a parameter file whose model, target
    and experiment are those of made cells."""
    values = dict(mini_values)
    models = {"m": next(iter(values["pretrain"]["models"].values()))}
    values["experiment"] = "world"
    values["pretrain"] = values["pretrain"] | {"models": models}
    values["grid"] = values["grid"] | {
        "models": ["m"], "targets": ["Ada"], "methods": ["none", "oracle", "ga"], "attacks": []
    }  # fmt: skip
    values["report"] = values["report"] | {"compare": "ga"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    def run(*args):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["atu", *args])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return SimpleNamespace(code=stopped.value.code, out=said.out, err=said.err)

    return run


def test_an_unfinished_grid_is_1(atu, world):
    """Seven folders of one cell are there, made with other parameters; JSON lists all jobs."""
    world("none")
    done = atu("status")
    assert (done.code, done.err) == (1, "")
    assert done.out.startswith("phase") and "stale   unlearn/m/Ada/none/0" in done.out
    jobs = json.loads(atu("status", "--json").out)
    assert {job["state"] for job in jobs} == {"stale", "missing"}
    assert len(atu("status", "--all").out) > len(done.out)


def test_a_finished_grid_is_0(atu, monkeypatch):
    from atu.terminal import status

    monkeypatch.setattr(status, "job_states", lambda *_: [status.JobState("prepare/x", "done")])
    assert atu("status").code == 0


def test_results_are_those_of_the_parameter_file_unless_given(atu, world, tmp_path):
    """Answers, comparison and explanation of one cell each way."""
    world("none")
    world("ga", leaks=set()).rename(tmp_path / "elsewhere")
    (tmp_path / "results" / "world").symlink_to(tmp_path / "elsewhere")
    for given in ([], ["--results", "elsewhere"]):
        asked = atu("answers", "--role", "target", "--method", "ga", "--limit", "1", *given)
        assert (asked.code, asked.out.count("gold")) == (0, 1)
        compared = atu("compare", "none", "ga", "--json", *given)
        assert json.loads(compared.out)["rows"][0]["target_verdict"] == "leaks more"
        explained = atu("explain", "tokens/all", "--run", "ga", "--json", *given)
        assert json.loads(explained.out)["value"] == 40


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["status", "--params", "nowhere.yaml"], "nowhere.yaml"),
        (["show"], "results/world/report/manifest.json: missing; run `snakemake report` first"),
        (["show", "--params", "nowhere.yaml"], "nowhere.yaml"),
        (["compare", "ga", "gaa"], "B = 'gaa': not in grid.methods"),
        (["explain", "x"], "results/world: holds no finished job"),
        (["answers", "--role", "target", "--method", "ga"], "holds no finished rephrase job"),
    ],
)
def test_errors_are_one_message(atu, args, says):
    done = atu(*args)
    assert done.code == 2 and says in done.err and len(done.err.strip().splitlines()) == 1
    assert done.out == ""
