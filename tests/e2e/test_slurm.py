"""The shipped cluster profile on a real SLURM: the same results, and nothing lost when jobs die."""

import os
import re
import signal
import subprocess
import time

import pytest
import yaml
from trees import copy_tree

pytestmark = pytest.mark.workflow
GPU_RULES = {
    "pretrain_full", "pretrain_oracle", "embed_one", "align_one", "unlearn_one", "rephrase_one",
    "utility_one", "privacy_one",
}  # fmt: skip


@pytest.fixture(scope="module")
def values(mini_values):
    """The miniature with three methods and no attacks: every job costs SLURM seconds."""
    grid = {"methods": ["none", "oracle", "atu"], "attacks": []}
    return mini_values | {"grid": mini_values["grid"] | grid}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory, values):
    """What an undisturbed run on this machine gives: manifests by name."""
    made = copy_tree(tmp_path_factory.mktemp("quiet") / "clone", values)
    made.snakemake()
    return made.results()


def site(folder):
    """Edit the profile as a user of this small cluster would, and look at jobs more often."""
    path = folder / "cluster/config.yaml"
    profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    del profile["default-resources"]["slurm_account"]
    profile["default-resources"] |= {"mem_mb": "attempt * 1000", "cpus_per_task": 1}
    for resources in profile["set-resources"].values():
        resources.pop("mem_mb", None)
    profile |= {
        "slurm-no-account": True, "slurm-init-seconds-before-status-checks": 2,
        "seconds-between-status-checks": 2, "latency-wait": 10,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, slurm, values):
    """A tree beside a SLURM."""
    made = copy_tree(tmp_path_factory.mktemp("cluster") / "clone", values)
    site(made.folder)
    return made


def submitted(slurm):
    """Rule to what SLURM knows of its last job; finished ones are known for five minutes."""
    found = {}
    for line in slurm.run("scontrol", "show", "job", "--oneliner").stdout.splitlines():
        rule = re.search(r"Comment=(?:rule_)?(\w+?)(?:_wildcards_\S*)? ", line)
        found[rule[1] if rule else line] = line
    return found


def wait_until(holds, what, seconds=180):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_the_results_are_those_of_a_laptop(slurm, cluster, quiet):
    """Every manifest byte for byte, although jobs were cancelled and the whole run was killed.

    First a job is cancelled while it runs: it is sent again. Then snakemake itself is killed: its
    jobs go on, `make cancel` ends them, and the next run finishes the work.
    """
    environment = os.environ | slurm.variables | {
        "PYTHONPATH": str(cluster.folder / "src"), "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    log = (cluster.folder / "snakemake.log").open("w")
    process = subprocess.Popen(
        ["snakemake", "--profile", "cluster"], cwd=cluster.folder, env=environment, stdout=log,
        stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(slurm.jobs, "no job was submitted")
        slurm.run("scancel", slurm.jobs()[0])
        said = cluster.folder / "snakemake.log"
        wait_until(lambda: "Trying to restart" in said.read_text(), f"never again: {said}")
        wait_until(slurm.jobs, "the cancelled job was not sent again")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert slurm.jobs(), "jobs outlive snakemake"
    cluster.make("cancel", **slurm.variables)
    wait_until(lambda: not slurm.jobs(), "jobs outlive make cancel", 60)
    cluster.run("snakemake", "--profile", "cluster", **slurm.variables)
    assert cluster.results() == quiet
    again = cluster.run("snakemake", "--profile", "cluster", **slurm.variables).stdout
    assert "Nothing to be done" in again
    assert list((cluster.folder / "results").rglob("*.checkpoints")) == []
    jobs = submitted(slurm)
    assert set(jobs) >= GPU_RULES
    for rule in GPU_RULES:
        assert len(re.findall(r"gres[:/]gpu[:=]1|gpu:1", jobs[rule].split("AllocTRES")[0])) >= 1, (
            jobs[rule]
        )


def test_every_job_of_the_pipeline_has_its_resources(cluster):
    """Each rule that computes is either local or named in the profile."""
    profile = yaml.safe_load((cluster.folder / "cluster/config.yaml").read_text(encoding="utf-8"))
    rules = cluster.run("snakemake", "--list-rules").stdout.split()
    snakefile = (cluster.folder / "Snakefile").read_text(encoding="utf-8")
    local = re.findall(r"^    (\w+),$", snakefile.split("localrules:")[1].split("\n\n")[0], re.M)
    computing = {rule for rule in rules if "_" in rule}
    assert computing == set(local) | set(profile["set-resources"])
    assert not set(local) & set(profile["set-resources"])
