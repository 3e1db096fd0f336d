"""The shipped cluster profile on a real SLURM: the same results, and nothing lost when jobs die."""

import os
import re
import signal
import subprocess
import time

import pytest
import yaml
from machines import CPU
from trees import copy_tree

from atu.config.params import Params
from atu.phases import pretrain
from atu.results.artifacts import MANIFEST
from atu.untrusted.targets import target_slug

pytestmark = pytest.mark.slurm

SNAKEMAKE = ("snakemake", "--profile", "cluster")
GPU_RULES = {
    "pretrain_full", "pretrain_oracle", "embed_one", "align_one", "unlearn_one", "rephrase_one",
    "utility_one", "privacy_one",
}  # fmt: skip


@pytest.fixture(scope="module")
def values(mini_values):
    """The miniature on the processor, with three methods and no attacks: every job costs SLURM
    seconds."""
    grid = {"methods": ["none", "oracle", "atu"], "attacks": []}
    compute = {"device": "cpu", "precision": "float32"}
    return mini_values | {
        "grid": mini_values["grid"] | grid, "compute": mini_values["compute"] | compute,
    }  # fmt: skip


@pytest.fixture(scope="module")
def slug(values):
    """The target's word in names of folders."""
    return target_slug(values["grid"]["targets"][0])


def by_path(chain, slug):
    """The manifests of the miniature that this process ran, by their paths in a run of Snakemake.
    Not of the utility, which names that of `none`."""
    cell = f"llama_tiny/{slug}"
    paths = {
        "shared": "prepare/shared", "prepared": f"prepare/{slug}",
        "full": "pretrain/llama_tiny/full", "oracle_lm": f"pretrain/llama_tiny/oracle-{slug}",
        "embed": f"embed/{cell}", "align": f"align/{cell}/0", "unlearn": f"unlearn/{cell}/atu/0",
        "oracle": f"unlearn/{cell}/oracle/0", "rephrase": f"rephrase/{cell}/atu/0",
        "oracle_rephrase": f"rephrase/{cell}/oracle/0", "privacy": f"privacy/{cell}/atu/0",
        "oracle_privacy": f"privacy/{cell}/oracle/0",
    }  # fmt: skip
    return {
        f"{path}/{MANIFEST}": (getattr(chain, name).folder / MANIFEST).read_bytes()
        for name, path in paths.items()
    }


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


@pytest.fixture
def started(slurm):
    """A function that starts a command in a tree beside the cluster: its process and its log."""
    running = []

    def start(tree, *command, **variables):
        environment = os.environ | slurm.variables | variables | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONPATH": os.pathsep.join(str(tree.folder / name) for name in ("faults", "src")),
        }  # fmt: skip
        said = tree.folder / "snakemake.log"
        with said.open("w") as log:
            process = subprocess.Popen(
                command, cwd=tree.folder, env=environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        running.append(process)
        return process, said

    yield start
    for process in running:
        kill(process)
    if jobs := slurm.jobs():
        slurm.run("scancel", *jobs)


def kill(process):
    """SIGKILL to the process and its children, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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


def states(slurm):
    """The states of the jobs that are queued or running."""
    return slurm.run("squeue", "--noheader", "--format=%T").stdout.split()


def numbers(slurm, rule):
    """Numbers of the jobs that were submitted for a rule, in their order."""
    lines = slurm.run("scontrol", "show", "job", "--oneliner").stdout.splitlines()
    return sorted(
        (re.search(r"JobId=(\d+)", line)[1] for line in lines if f"rule_{rule}" in line), key=int
    )


def submission(slurm, number, key):
    """What SLURM says of a job."""
    line = slurm.run("scontrol", "show", "job", "--oneliner", number).stdout
    return re.search(rf" {key}=(\S+)", line)[1]


def wait_until(holds, what, seconds=180):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_the_results_are_those_of_a_laptop(slurm, cluster, chain, slug, started):
    """Every manifest byte for byte, although jobs were cancelled and the whole run was killed.

    First a job is cancelled while it runs: it is sent again. Then snakemake itself is killed: its
    jobs go on, `make cancel` ends them, and the next run finishes the work.
    """
    process, said = started(cluster, *SNAKEMAKE)
    wait_until(slurm.jobs, "no job was submitted")
    slurm.run("scancel", slurm.jobs()[0])
    wait_until(lambda: "Trying to restart" in said.read_text(), f"never again: {said}")
    wait_until(slurm.jobs, "the cancelled job was not sent again")
    kill(process)
    assert slurm.jobs(), "jobs outlive snakemake"
    cluster.make("cancel", **slurm.variables)
    wait_until(lambda: not slurm.jobs(), "jobs outlive make cancel", 60)
    cluster.run(*SNAKEMAKE, **slurm.variables)
    results, undisturbed = cluster.results(), by_path(chain, slug)
    assert {path: results[path] for path in undisturbed} == undisturbed
    again = cluster.run(*SNAKEMAKE, **slurm.variables).stdout
    assert "Nothing to be done" in again
    assert list((cluster.folder / "results").rglob("*.checkpoints")) == []
    jobs = submitted(slurm)
    assert set(jobs) >= GPU_RULES
    for rule in GPU_RULES:
        assert len(re.findall(r"gres[:/]gpu[:=]1|gpu:1", jobs[rule].split("AllocTRES")[0])) >= 1, (
            jobs[rule]
        )


FAULTS = """
# Python reads this file when it starts. At the 60th step the first attempt of one job runs out of
# memory, with torch's own error (this SLURM does not enforce its limits); the first attempt of the
# other waits there for a signal.
import signal
import sys
from pathlib import Path

if "pretrain" in sys.orig_argv:
    import torch

    oracle = "--oracle" in sys.orig_argv
    marker = Path(__file__).with_name("waits" if oracle else "died")
    steps = iter(range(1, 61))
    true_step = torch.optim.AdamW.step

    def step(self, *given, **named):
        if not marker.exists() and next(steps) == 60:
            marker.touch()
            if not oracle:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            signal.pause()
        return true_step(self, *given, **named)

    torch.optim.AdamW.step = step
"""


def test_what_clusters_do_to_jobs(slurm, tmp_path, values, chain, slug, started):
    """Through DVC. A job runs out of memory: it is sent again with more, and goes on. Meanwhile its
    node is drained: it waits. Another job is put back into the queue, as by preemption: it saves at
    SIGTERM and goes on. The results are those of an undisturbed run."""
    long = values | {"pretrain": values["pretrain"] | {"steps": 400}}
    tree = copy_tree(tmp_path / "clone", long)
    site(tree.folder)
    tree.git("init", "--quiet")
    (tree.folder / "faults").mkdir()
    (tree.folder / "faults/sitecustomize.py").write_text(FAULTS, encoding="utf-8")
    log, oracles = (
        tree.folder / "logs/miniature/pretrain/llama_tiny" / f"{name}.log"
        for name in ("full", f"oracle-{slug}")
    )
    earlier = len(numbers(slurm, "pretrain_full"))
    process, said = started(
        tree, "dvc", "repro", "pretrain", SNAKEMAKE_PROFILE="cluster", ATU_CHECKPOINT_STEPS="20"
    )
    node = slurm.run("sinfo", "--noheader", "--format=%n").stdout.strip()
    wait_until(log.exists, "the job does not run")
    slurm.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    wait_until(lambda: "out of memory: CUDA" in log.read_text(), f"not out of memory: {log}")
    wait_until(lambda: "Trying to restart" in said.read_text(), f"never again: {said}")
    wait_until(lambda: "PENDING" in states(slurm), "nothing waits for the node")
    assert process.poll() is None
    slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    wait_until((tree.folder / "faults/waits").exists, "no oracle")
    slurm.run("scontrol", "requeue", numbers(slurm, "pretrain_oracle")[-1])
    wait_until(lambda: process.poll() is not None, f"no end: {said}", 300)
    assert process.returncode == 0, said.read_text()[-3000:]
    for name in (log, oracles):
        assert "resumed from" in name.read_text(), name.read_text()
    sent = numbers(slurm, "pretrain_full")[earlier:]
    memory = [submission(slurm, number, "MinMemoryNode") for number in sent]
    assert memory == ["1000M", "2000M"]
    assert submission(slurm, numbers(slurm, "pretrain_oracle")[-1], "Restarts") == "1"
    section = Params.model_validate(long).pretrain
    results = tree.results("pretrain/**/manifest.json")
    for name, prepared in (("full", None), (f"oracle-{slug}", chain.prepared)):
        out = tmp_path / name / MANIFEST
        pretrain.run(out, section, CPU, "llama_tiny", chain.shared, prepared)
        assert results.pop(f"pretrain/llama_tiny/{name}/{MANIFEST}") == out.read_bytes()
    assert results == {}
