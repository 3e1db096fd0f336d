"""Overlays: what merges, what is inherited, what is refused, and which file a message names."""

import re
from pathlib import Path

import pytest
import yaml

from atu.config.load import load_params
from atu.config.overlays import BASE, KEEP, merged, read_layers
from atu.config.params import Params
from atu.errors import ConfigError

ROOT = Path(__file__).parents[3]
WORLD = yaml.safe_load((ROOT / "experiments/world.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def write(tmp_path):
    """A function that writes the files of a folder, and gives the last one's path."""

    def files(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name}.yaml"
            path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), "utf-8")
        return path

    return files


def whole(path):
    return merged(read_layers(path))


LOW = "a: 1\nm: {x: 1, y: {p: 1, q: 2}}\nl: [1, 2]\n"


def test_a_file_without_a_base_is_whole(write):
    assert whole(write(low=LOW)) == {"a": 1, "m": {"x": 1, "y": {"p": 1, "q": 2}}, "l": [1, 2]}


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("a: 2", {"a": 2}),
        ("b: 3", {"b": 3}),
        ("a: null", {"a": None}),
        ("l: [3]", {"l": [3]}),
        ("m: {y: {q: 3}}", {"m": {"x": 1, "y": {"p": 1, "q": 3}}}),
        ("m: {y: 5, z: {n: 1}}", {"m": {"x": 1, "y": 5, "z": {"n": 1}}}),
        ("m: null", {"m": None}),
        ("a: {n: 1}", {"a": {"n": 1}}),
        ("keep: {m: [x]}", {"m": {"x": 1}}),
        ("keep: {m: []}\nm: {z: 1}", {"m": {"z": 1}}),
        ("keep: {m.y: [q]}\nm: {x: 2}", {"m": {"x": 2, "y": {"q": 2}}}),
    ],
)
def test_mappings_merge_and_all_else_replaces(write, change, result):
    path = write(low=LOW, high=f"base: low\n{change}")
    assert whole(path) == {"a": 1, "m": {"x": 1, "y": {"p": 1, "q": 2}}, "l": [1, 2]} | result


def test_an_overlay_may_lie_over_an_overlay(write):
    """The middle one drops x and sets p; the highest takes p's new value and drops q."""
    path = write(
        low=LOW, middle="base: low\nkeep: {m: [y]}\nm: {y: {p: 7}}\na: 2",
        high="base: middle\nkeep: {m.y: [p]}\nl: []",
    )  # fmt: skip
    assert whole(path) == {"a": 2, "m": {"y": {"p": 7}}, "l": []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: none", r"high.yaml: base = 'none': names no file of .*; there are high, low"),
        ("base: ../low", r"base = '../low': names no file"),
        ("base: low.yaml", r"base = 'low.yaml': names no file"),
        ("base: null", r"base = None: names no file"),
        ("base: [low]", r"base = \['low'\]: names no file"),
        ("base: high", r"high.yaml: base = 'high': leads back to itself; name another"),
        ("base: low\nm: {}", r"high.yaml: m = {}: changes nothing, .* write keep: {m: \[\]}"),
        ("base: low\nm: {y: {}}", r"high.yaml: m.y = {}: .* write keep: {m.y: \[\]}"),
        ("a: 1\nkeep: {m: []}", r"high.yaml: keep = .*: needs a base"),
        ("base: low\nkeep: [m]", r"high.yaml: keep = \['m'\]: .*maps keys of it to lists"),
        ("base: low\nkeep: {m: x}", r"high.yaml: keep.m = 'x': must be a list of entries"),
        ("base: low\nkeep: {l: [1]}", r"keep.l = \[1\]: must be a list of entries of a mapping"),
        ("base: low\nkeep: {n.o: []}", r"keep.n.o = \[\]: must be a list of entries of a mapping"),
        ("base: low\nkeep: {m: [z]}", r"high.yaml: keep.m = 'z': is not in the base; it has x, y"),
        ("base: low\nkeep: {m: [[x]]}", r"keep.m = \['x'\]: is not in the base; it has x, y"),
        ("base: low\na: 1\na: 2", r"file = '.*high.yaml': is no parameter file: line 3: .*twice"),
        ("- 1", r"file = '.*high.yaml': must hold the sections of params.yaml"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(write, text, message):
    with pytest.raises(ConfigError, match=message):
        whole(write(low=LOW, high=text))


def test_a_circle_is_refused_where_it_closes(write):
    path = write(one="base: two", two="base: three", three="base: two", start="base: one")
    with pytest.raises(ConfigError, match=r"three.yaml: base = 'two': leads back to itself"):
        whole(path)


def test_a_base_is_read_as_strictly(write):
    path = write(low="a: !!python/name:os.system", high="base: low")
    with pytest.raises(ConfigError, match=r"file = '.*low.yaml': is no parameter file"):
        whole(path)
    with pytest.raises(ConfigError, match=r"low.yaml': .* larger than the 1 MB"):
        whole(write(low="a: " + "x" * 2**20, high="base: low"))


def test_a_value_is_named_with_the_file_in_which_it_stands(write):
    """Wrong below, and inherited; set above; missing, which is the overlay's own matter."""
    bad = WORLD | {"embed": WORLD["embed"] | {"k": 0}}
    with pytest.raises(ConfigError, match=r"low.yaml: embed.k = 0: .*high.yaml inherits it: set"):
        load_params(write(low=bad, high={"base": "low", "experiment": "high"}))
    high = {"base": "low", "experiment": "high", "embed": {"k": -1}}
    with pytest.raises(ConfigError, match=r"high.yaml: embed.k = -1: (?!.*inherits)"):
        load_params(write(low=bad, high=high))
    space = {"ga": {"retain.nll": {"low": 0, "high": 1, "log": True}}}
    bad = WORLD | {"search": WORLD["search"] | {"spaces": space}}
    high = {"base": "low", "experiment": "high", "search": {"spaces": {"ga": {"steps": {}}}}}
    with pytest.raises(ConfigError, match=r"low.yaml: search.spaces.ga.retain.nll.+inherits it"):
        load_params(write(low=bad, high=high))
    high = {"base": "low", "experiment": "high", "keep": {"unlearn.methods.ga": ["loss"]}}
    high["unlearn"] = {"methods": {"ga": {"steps": 1}}}
    with pytest.raises(ConfigError, match=r"high.yaml: unlearn.methods.ga\.\w+ = None: is requir"):
        load_params(write(low=WORLD, high=high))


def test_an_experiment_has_a_name_of_its_own(write):
    path = write(low=WORLD, high="base: low\nreport: {seed: 1}")
    with pytest.raises(ConfigError, match=r"high.yaml: experiment = 'world': .*a name of its own"):
        load_params(path)
    path = write(low=WORLD, high="base: low\nexperiment: other\nreport: {seed: 1}")
    assert load_params(path).report.seed == 1


def test_the_pages_example_is_an_experiment(write):
    page = (ROOT / "docs/experiments.md").read_text("utf-8")
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]
    params = load_params(write(world=WORLD, example=example))
    assert params.unlearn.methods["atu"].thresholds == [0.0]


def test_no_section_is_called_as_an_overlays_own_keys():
    assert not {BASE, KEEP} & set(Params.model_fields)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_no_experiment_repeats_its_base(path):
    """Whatever a file says is different in the file below it."""

    def repeated(values, below):
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(below.get(key), dict):
                yield from (f"{key}.{inner}" for inner in repeated(value, below[key]))
            elif key in below and below[key] == value:
                yield key

    layers = read_layers(path)
    assert list(repeated(layers[-1].values, merged(layers[:-1]))) == []


def test_every_row_of_the_ablation_changes_one_option():
    """Of ATU as the world has it, or of its push alone. Without strangers there is no
    other aim, and the two hinges have one predictor."""
    methods = whole(ROOT / "experiments/ablation.yaml")["unlearn"]["methods"]
    for base, others in (("atu", 11), ("atu_push", 5)):
        own = WORLD["unlearn"]["methods"][base]
        changed = {
            name: [key for key in entry | own if entry.get(key) != own.get(key)]
            for name, entry in methods.items()
            if entry["loss"] == "atu" and ("push" in name) is ("push" in base)
        }
        assert changed.pop(base) == []
        if base == "atu":
            assert changed["atu_no_stranger"] == ["stranger", "visits", "restored"]
            assert changed["atu_no_hinge"] == ["concept", "answers"]
            changed |= {"atu_no_stranger": ["stranger"], "atu_no_hinge": ["concept"]}
        assert len(changed) == others and all(len(keys) == 1 for keys in changed.values())
