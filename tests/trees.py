"""A copy of the tree with the miniature's parameters, and the commands a user types in it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
WARM = Path(__file__).with_name("warm.py")
IGNORED = {".git", ".venv", "results", "logs", "mlflow", ".snakemake", "tests", "docs", "site"}
"""What is not of the tree's own: made in it, or not read by what it runs."""
OF_DVC = {"cache", "tmp", "config.local"}


class Tree:
    """A working copy in which commands run as in a shell with the environment activated."""

    def __init__(self, folder):
        self.folder = folder
        self._warm = None

    def run(self, *command, check=True, **environment):
        """Run a command; on failure show what it printed."""
        start = self._snakemake if command[0] == "snakemake" else self._start
        done = start(command, self._variables() | environment)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}{self.logs()}")
        return done

    def _variables(self):
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "src"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DVC_NO_ANALYTICS": "true",
        }

    def _start(self, command, variables):
        return subprocess.run(
            command, cwd=self.folder, env=variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def _snakemake(self, command, variables):
        """As `_start`, by `warm.py`: importing is done once for all of a tree's Snakemakes."""
        if self._warm is None:
            self._warm = subprocess.Popen(
                [sys.executable, str(WARM)], cwd=self.folder, env=self._variables(), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            weakref.finalize(self, self._warm.communicate)
        with tempfile.NamedTemporaryFile() as said:
            request = {"arguments": command[1:], "variables": variables, "said": said.name}
            self._warm.stdin.write(json.dumps(request) + "\n")
            self._warm.stdin.flush()
            status = int(self._warm.stdout.readline())
            printed = said.read().decode(errors="replace")
        return subprocess.CompletedProcess(command, status, printed)

    def logs(self):
        """The ends of all job logs that hold an error."""
        found = [p for p in (self.folder / "logs").rglob("*.log") if "rror" in p.read_text()]
        return "".join(f"\n--- {path}:\n{path.read_text()[-1500:]}" for path in found)

    def snakemake(self, *args, check=True):
        """`snakemake --cores 2 ...`."""
        return self.run("snakemake", "--cores", "2", *args, check=check)

    def planned(self):
        """How often a dry run would execute each rule, without `all` and the phase words."""
        text = self.snakemake("--dry-run").stdout
        return Counter(re.findall(r"^Job \d+: (\w+_\w+)$", text, re.MULTILINE))

    def planned_folders(self):
        """The folders below results/miniature that a dry run would write anew."""
        text = self.snakemake("--dry-run").stdout
        return set(re.findall(r"output: results/miniature/(\S+)/manifest\.json", text))

    def up_to_date(self):
        """Nothing to do, and Snakemake knows of every job (else it would be blind to changes)."""
        text = self.snakemake("--dry-run", "--quiet", "rules").stdout
        return "Nothing to be done" in text and "missing provenance" not in text

    def git(self, *args):
        """`git ...`, as somebody."""
        return self.run("git", "-c", "user.name=t", "-c", "user.email=t@t", *args)

    def make(self, target, check=True, **environment):
        """The Makefile's recipe, in this environment instead of one of its own."""
        command = ("make", "--silent", "--old-file", ".venv/.installed", target)
        return self.run(*command, check=check, **environment)

    def edit(self, **changes):
        """Set dotted parameters (`a__b=1`)."""
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for dotted, value in changes.items():
            *where, last = dotted.split("__")
            at = values
            for key in where:
                at = at[key]
            at[last] = value
        self.write(values)

    def write(self, values):
        """Make these the parameters."""
        path = self.folder / "params.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")

    def results(self, pattern="**/manifest.json"):
        """Relative path to bytes of all matching results."""
        base = self.folder / "results/miniature"
        return {p.relative_to(base).as_posix(): p.read_bytes() for p in base.glob(pattern)}


def ignored(folder, names):
    """The names in a folder that `copy_tree` leaves out; a package may bear the same name."""
    here = {ROOT: IGNORED, ROOT / ".dvc": OF_DVC}.get(Path(folder), set())
    return (here | {"__pycache__"}) & set(names)


def copy_tree(folder, values):
    """The tree without its tests and without anything that is made, with these parameters."""
    shutil.copytree(ROOT, folder, ignore=ignored)
    made = Tree(folder)
    made.write(values)
    return made
