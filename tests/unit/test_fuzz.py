"""The properties of `fuzzing.py` at a few inputs each; `make fuzz` runs them at depth."""

import json
import signal
import sys
from random import Random

import fuzz
import fuzzing
import pytest
import yaml
from fuzzing import PROPERTIES, Tally
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = {
    "config_text": 60,
    "config_tree": 100,
    "overlay_tree": 40,
    "world_text": 60,
    "world_tree": 100,
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_nothing_but_the_declared_errors(name):
    """Some inputs are accepted and some refused: a property that refuses all tests nothing."""
    tally = Tally()

    @settings(
        max_examples=EXAMPLES.get(name, 200),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.randoms(use_true_random=True))
    def run(rng):
        tally.run(name, PROPERTIES[name].make(rng))

    run()
    assert tally[name, "accepted"] and tally[name, "refused"]
    assert tally[name, "given"] == tally[name, "accepted"] + tally[name, "refused"]


def test_at_depth_the_same_properties_run_and_are_counted(monkeypatch, capsys):
    given = ["--examples", "300", "--only", "json_text", "yaml_text"]
    monkeypatch.setattr(sys, "argv", ["fuzz.py", *given])
    before = signal.getsignal(signal.SIGPROF)
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    signal.signal(signal.SIGPROF, before)
    assert ended.value.code == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["inputs"] == 300 and summary["crashes"] == 0
    found = summary["properties"]
    assert sum(counts["given"] for counts in found.values()) == 300
    assert all(counts["accepted"] and counts["refused"] for counts in found.values())


LOOSE = {
    "yaml_text": ("parse_yaml", yaml.safe_load),
    "json_text": ("parse_json", json.loads),
    "target_name": ("target_slug", str.strip),
}


@pytest.mark.parametrize("name", LOOSE)
def test_a_reader_that_checks_less_is_found_out(monkeypatch, name):
    """PyYAML's and the standard library's own, and a folder name that is the target's."""
    monkeypatch.setattr(fuzzing, *LOOSE[name])
    rng = Random(0)
    with pytest.raises((AssertionError, yaml.YAMLError, RecursionError)):
        for _ in range(5000):
            PROPERTIES[name].check(PROPERTIES[name].make(rng))
