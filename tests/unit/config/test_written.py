"""The parameter file that a command writes: whole, readable again, and never over an edit."""

from pathlib import Path

import pytest
import yaml

from atu.config.overlays import merged, read_layers
from atu.config.written import Origin, origin, params_text, write_experiment
from atu.errors import ConfigError
from atu.untrusted.yaml import parse_yaml

ROOT = Path(__file__).parents[3]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_what_is_written_is_the_experiment(path):
    values = merged(read_layers(path))
    assert parse_yaml(params_text(values, "x")) == values


def test_the_parameter_file_is_the_worlds():
    """Red after an edit of experiments/world.yaml: `make experiment NAME=world` writes it."""
    text = params_text(
        merged(read_layers(ROOT / "experiments/world.yaml")), "make experiment NAME=world"
    )
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("value", ["1e-5", "on", "a: b", "é \U0001f600", "a\nb", 2e-5, 1e22, None])
def test_texts_and_numbers_come_back(value):
    """Also a value that is used twice, for which YAML has aliases, and a line too long for one."""
    values = {"a": value, "b": {"c": [value] * 60, "d": {}}, "e": [["x"] * 60, {"f": value}]}
    values["g"] = values["b"]
    text = params_text(values, "x")
    assert parse_yaml(text) == values and "&id" not in text


def test_a_section_has_a_line_for_each_key_and_what_is_short_has_one():
    values = {"experiment": "x", "s": {"k": {"a": 1, "l": [1, 2]}, "n": {}}}
    body = params_text(values, "x").split("\n\n", 1)[1]
    assert body == "experiment: x\n\ns:\n  k: {a: 1, l: [1, 2]}\n  n: {}\n"


def test_an_edit_shows(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(params_text({"a": 1}, "some command"), encoding="utf-8")
    assert origin(path) == Origin("some command", edited=False)
    path.write_text(params_text({"a": 1}, "some command") + "# mine\n", encoding="utf-8")
    assert origin(path) == Origin("some command", edited=True)
    path.write_text("a: 1\n", encoding="utf-8")
    assert origin(path) is None
    path.write_bytes(b"\xff")
    assert origin(path) is None and origin(tmp_path) is None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with two experiments, one laid over the other."""
    (tmp_path / "experiments").mkdir()
    world = (ROOT / "experiments/world.yaml").read_text(encoding="utf-8")
    (tmp_path / "experiments/world.yaml").write_text(world, encoding="utf-8")
    small = "base: world\nexperiment: small\nreport: {seed: 5}\n"
    (tmp_path / "experiments/small.yaml").write_text(small, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_experiment_replaces_what_a_command_wrote_and_nothing_else(folder):
    path = Path("params.yaml")
    write_experiment("world", path)
    write_experiment("small", path)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert values["experiment"] == "small" and values["report"]["seed"] == 5
    assert values["report"]["bootstrap"] == 1000 and "base" not in values
    edited = path.read_text(encoding="utf-8").replace("seed: 5", "seed: 6")
    for text in (edited, "experiment: mine\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"--params = 'params.yaml': holds edits, .*\(mv par"):
            write_experiment("world", path)
        assert path.read_text(encoding="utf-8") == text
    path.unlink()
    write_experiment("world", path)


def test_what_is_not_in_order_is_not_written(folder):
    bad = "base: world\nexperiment: bad\nreport: {seed: -1}\n"
    Path("experiments/bad.yaml").write_text(bad, encoding="utf-8")
    for name, message in {
        "bad": r"experiments/bad.yaml: report.seed = -1",
        "../params": r"NAME = '../params': names no file of experiments/; there are bad, small, w",
        "": r"NAME = '': names no file",
    }.items():
        with pytest.raises(ConfigError, match=message):
            write_experiment(name, Path("params.yaml"))
    assert not Path("params.yaml").exists()
