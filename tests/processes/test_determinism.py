"""Contract: the same parameters and seed give the same bytes, phase by phase, wherever they run."""

import pytest
from made.chain import run_chain

from atu.results.artifacts import MANIFEST

FOLDERS = [
    "shared", "prepared", "full", "embed", "align", "unlearn", "rephrase", "utility",
    "oracle_lm", "oracle", "oracle_rephrase", "oracle_privacy", "privacy", "attack",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_again(tmp_path_factory, mini_params):
    """The same miniature a second time, elsewhere."""
    return run_chain(tmp_path_factory.mktemp("again"), mini_params)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_same_seed_gives_the_same_manifest(chain, run_again, name):
    """The manifest holds the sha256 of every file, so the whole folder is the same. (`report` and
    `track` are in their own files.)"""
    first, second = getattr(chain, name), getattr(run_again, name)
    assert first.folder != second.folder
    assert (first.folder / MANIFEST).read_bytes() == (second.folder / MANIFEST).read_bytes()


def test_every_folder_is_compared(chain):
    assert list(vars(chain)) == FOLDERS


def test_folders_name_what_they_were_made_from(chain):
    """Digests of the inputs, by which a manifest changes when anything before it does."""
    inputs = {name: getattr(chain, name).manifest["inputs"] for name in FOLDERS}
    digest = {name: getattr(chain, name).digest for name in FOLDERS}
    assert inputs == {
        "shared": {},
        "prepared": {"shared": digest["shared"]},
        "full": {"shared": digest["shared"]},
        "embed": {"pretrain": digest["full"], "prepare": digest["prepared"]},
        "align": {
            "pretrain": digest["full"], "embed": digest["embed"], "prepare": digest["prepared"],
        },
        "unlearn": {
            "pretrain": digest["full"], "prepare": digest["prepared"], "embed": digest["embed"],
            "align": digest["align"],
        },
        "rephrase": {"unlearn": digest["unlearn"], "prepare": digest["prepared"]},
        "utility": {"unlearn": digest["unlearn"], "prepare": digest["prepared"]},
        "oracle_lm": {"shared": digest["shared"], "prepare": digest["prepared"]},
        "oracle": {"pretrain": digest["oracle_lm"], "prepare": digest["prepared"]},
        "oracle_rephrase": {"unlearn": digest["oracle"], "prepare": digest["prepared"]},
        "oracle_privacy": {
            "unlearn": digest["oracle"], "prepare": digest["prepared"],
            "rephrase": digest["oracle_rephrase"],
        },
        "privacy": {
            "unlearn": digest["unlearn"], "prepare": digest["prepared"],
            "rephrase": digest["rephrase"], "reference": digest["oracle_privacy"],
        },
        "attack": {"unlearn": digest["unlearn"], "prepare": digest["prepared"]},
    }  # fmt: skip
