"""The command line: quick help, and errors as one message with exit code 2."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from atu.cli import main

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "polars", "mlflow", "lm_eval", "pydantic", "datasets")


@pytest.fixture
def atu(monkeypatch, capsys):
    """A function that runs the command line in this process: its exit code and what it printed."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()

    def run(*args):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["atu", *args])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return SimpleNamespace(
            returncode=stopped.value.code, stdout=printed.out, stderr=printed.err
        )

    yield run
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


def test_help_imports_nothing_heavy():
    """`atu --help` must answer at once; what it imports is what it costs."""
    code = (
        "import sys; sys.argv = ['atu', '--help']\n"
        "from atu.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "unlearn" in done.stdout


def test_the_module_runs_and_fails_as_a_command():
    """The same in a process of its own: `python -m atu`."""
    done = subprocess.run(
        [sys.executable, "-m", "atu", "check", "--params", "nowhere.yaml"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("atu: file = 'nowhere.yaml': ")
    assert done.stderr.count("\n") == 1


def test_check_says_what_would_run(atu):
    done = atu("check")
    assert done.returncode == 0
    assert "7 cells" in done.stdout


@pytest.mark.parametrize(
    "args,says",
    [
        (["check", "--params", "nowhere.yaml"], "nowhere.yaml"),
        (["unlearn", "--method", "gaa", "--seed", "0", "--lm", "m/manifest.json",
          "--prepared", "m/manifest.json", "--out", "o/manifest.json"], "--method = 'gaa'"),
        (["pretrain", "--model", "llama_tiny", "--shared", "m/manifest.json",
          "--out", "o/manifest.json"], "m/manifest.json: missing"),
        (["prepare", "--target", "X", "--out", "o/manifest.json"], "--target and --shared"),
    ],
)  # fmt: skip
def test_errors_are_one_message(atu, args, says):
    done = atu(*args)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_results_that_cannot_be_written(atu, tmp_path):
    """A file stands where a folder is needed."""
    (tmp_path / "results").write_text("in the way", encoding="utf-8")
    done = atu("prepare", "--out", str(tmp_path / "results/prepare/shared/manifest.json"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
