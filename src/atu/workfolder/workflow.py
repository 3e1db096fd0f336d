"""The workflow of this project, run in a command's work folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from atu.errors import ArtifactError
from atu.results.sources import PACKAGE

SNAKEFILE = "Snakefile"
COMPUTING = (
    "embed_shared", "embed_one", "align_one", "unlearn_one", "rephrase_one", "utility_one",
    "privacy_one", "attack_one",
)  # fmt: skip
"""The rules whose jobs compute with a model."""


def snakefile(command: str) -> Path:
    """The workflow file, which is in the project's checkout and not in the installed package.

    Raises:
        ArtifactError: the package was installed without it.
    """
    path = PACKAGE.parents[1] / SNAKEFILE
    if not path.is_file():
        raise ArtifactError(
            f"{path}: missing; `{command}` runs the project's workflow, so install it from a "
            "checkout with `pip install --editable .`"
        )
    return path


def run_workflow(
    command: str, experiment: str, cores: int, lock_file: IO[str], threads: int = 1
) -> None:
    """Run the workflow in the work folder, which is the working directory by now.

    Args:
        command: as it is typed, for messages.
        experiment: its name, under which its logs are.
        lock_file: the work folder's lock, which this process holds.
        threads: of every job that computes with a model.

    Raises:
        ArtifactError: a job failed; Snakemake has printed which.
    """
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile(command)),
             "--directory", ".", "--cores", str(cores), "--quiet", "rules",
             "--set-threads", *(f"{rule}={threads}" for rule in COMPUTING)]  # fmt: skip
    # This process holds the work folder's lock, so a lock of Snakemake's is stale. The child
    # inherits the folder's lock and keeps it if this process is killed first. All downloads are
    # done, so jobs run offline.
    options: dict[str, Any] = {
        "pass_fds": (lock_file.fileno(),), "env": os.environ | {"HF_HUB_OFFLINE": "1"}
    }  # fmt: skip
    if any(Path(".snakemake/locks").glob("*")):
        subprocess.run([*words, "--unlock"], check=True, **options)
    done = subprocess.run(words, **options)
    if done.returncode:
        raise ArtifactError(
            f"{Path.cwd()}: a job failed (see above, and logs/{experiment}); run the same "
            "command again to resume"
        )
