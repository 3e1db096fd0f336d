"""A tree in which the miniature has been run once by Snakemake."""

import pytest
from trees import copy_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory, mini_values):
    """The tree after one full run of the miniature."""
    made = copy_tree(tmp_path_factory.mktemp("tree") / "clone", mini_values)
    for command in (
        ["git", "init", "--quiet"],
        ["git", "add", "--all"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "tree"],
        ["dvc", "init", "--quiet"],
        ["dvc", "config", "cache.type", "copy"],
    ):
        made.run(*command)
    made.first = made.snakemake().stdout
    return made


@pytest.fixture
def untouched(tree):
    """The tree, with params.yaml put back afterwards."""
    path = tree.folder / "params.yaml"
    before = path.read_bytes()
    yield tree
    path.write_bytes(before)
