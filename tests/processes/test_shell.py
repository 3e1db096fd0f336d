"""Names reach the shell of the rules: whatever they hold, they are one argument."""

import pytest
from trees import copy_tree

from atu.benchmarks.world import people as world
from atu.benchmarks.world.people import build_world
from atu.untrusted.targets import target_slug

EVIL = "$(touch pwned)'; touch pwned; '`touch pwned` \"{wildcards.target}\" {0} & > pwned #"


@pytest.fixture
def evil_tree(tmp_path, mini_values, monkeypatch):
    """A tree in whose world everybody has a name for a shell, and where one of them is prepared.

    The names are put in behind the check of `world.yaml`, which takes letters alone.
    """
    values = world.vocabulary()
    names = values["names"]
    evil = values | {"names": names | {"given_start": [x + EVIL for x in names["given_start"]]}}
    monkeypatch.setattr(world, "vocabulary", lambda: evil)
    drawn = mini_values["prepare"]
    name = build_world(drawn["seed"], drawn["people"], drawn["holdout_people"]).people[0]
    given = mini_values | {
        "grid": mini_values["grid"] | {"targets": [name]},
        "search": mini_values["search"] | {"targets": [name]},
    }
    tree = copy_tree(tmp_path / "tree", given)
    source = tree.folder / "src/atu/benchmarks/world/people.py"
    text, replaced = source.read_text(), "    return parse_vocabulary(text)\n"
    assert replaced in text
    adding = (
        "    values = parse_vocabulary(text)\n"
        '    names = values["names"]\n'
        f'    names["given_start"] = [x + {EVIL!r} for x in names["given_start"]]\n'
        "    return values\n"
    )
    source.write_text(text.replace(replaced, adding))
    return tree, f"results/miniature/prepare/{target_slug(name)}/manifest.json"


def test_a_name_with_a_shell_in_it_runs_nothing(evil_tree):
    tree, manifest = evil_tree
    tree.snakemake(manifest)
    assert (tree.folder / manifest).is_file()
    assert not (tree.folder / "pwned").exists()


def test_unquoted_it_would(evil_tree):
    tree, manifest = evil_tree
    rules = tree.folder / "workflow/rules/common.smk"
    text = rules.read_text()
    assert "shlex.quote(name)" in text
    rules.write_text(text.replace("shlex.quote(name)", "name"))
    assert tree.snakemake(manifest, check=False).returncode
    assert (tree.folder / "pwned").exists()
