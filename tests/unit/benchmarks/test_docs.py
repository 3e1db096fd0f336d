"""docs/benchmarks.md: its settings are settings, and its benchmark is one."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from atu import benchmarks
from atu.benchmarks.shared.source import Reader
from atu.config.entries import parse_settings
from atu.errors import ConfigError
from atu.phases.prepare import require_content
from atu.results.locks import Lock
from atu.untrusted.targets import Target

PAGE = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_settings_are_taken(text):
    values = yaml.safe_load(text)
    found = parse_settings("prepare", "benchmark", benchmarks.registry(), values)
    assert found.benchmark == values["benchmark"]


def test_every_benchmark_has_settings_and_a_column():
    """The world's are in params.yaml."""
    shown = {yaml.safe_load(text)["benchmark"] for text in blocks("yaml")}
    assert shown | {"world"} == set(benchmarks.registry())
    columns = next(line for line in PAGE.splitlines() if line.startswith("| |")).lower()
    assert all(name in columns for name in benchmarks.registry())


def test_the_example_is_a_benchmark(tmp_path, make_source, monkeypatch):
    """Of twelve countries six are forgotten: by hash some of them are in either split."""
    (code,) = blocks("python")
    module = ModuleType("capitals")
    monkeypatch.setitem(sys.modules, "capitals", module)
    exec(compile(code, "docs/benchmarks.md", "exec"), module.__dict__)
    rows = [{"country": f"Land {k}", "capital": f"Town {k}"} for k in range(12)]
    (tmp_path / "capitals.json").write_text(json.dumps(rows), encoding="utf-8")
    settings = module.Settings("capitals", make_source(tmp_path), 0.5)
    readers = {"source": Reader(settings.source, Lock(), record=True)}
    target = Target(tuple(f"Land {k}" for k in range(6)))
    found = module.BENCHMARK.prepare(settings, target, [], readers)
    require_content(found, target)
    assert found.forget[0]["text"] == "The capital of Land 0 is Town 0."
    assert len(found.forget) == len(found.retain) == 6 and len(found.probes) == 12


@pytest.mark.parametrize("field", ["source", "corpora", "bio_forget"])
def test_an_unknown_key_of_a_source_names_a_sources_keys(field):
    """Also of a source that may be null."""
    (values,) = (v for v in map(yaml.safe_load, blocks("yaml")) if v["benchmark"] == "wmdp")
    wrong = values | {field: values["source"] | {"commit": "x"}}
    with pytest.raises(ConfigError, match=rf"{field}\.commit .* are place, revision, lock"):
        parse_settings("prepare", "benchmark", benchmarks.registry(), wrong)
