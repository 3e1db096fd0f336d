"""A manifest records what the job's rule has as its parameters."""

import pytest
from machines import CPU

from atu.config.dependencies import dependencies
from atu.config.sections import Choices, Search
from atu.untrusted.strict import Section


class Pets(Section):
    models: dict[str, int]
    steps: int


def test_values_of_one_entry():
    section = Pets(models={"a": 1, "b": 2}, steps=3)
    assert dependencies("pretrain", section) == {"models": {"a": 1, "b": 2}, "steps": 3}
    assert dependencies("pretrain", section, name="b") == {"models": {"b": 2}, "steps": 3}
    assert dependencies("embed", section, name="b")["models"] == {"a": 1, "b": 2}


def test_further_sections_have_the_same_entry():
    """`compute`, which has none, is whole."""
    spaces = {"b": {"x": Choices(choices=[1, 2])}}
    one = Search(
        targets=["Ada"],
        finalists=1,
        seed=0,
        trials=1,
        first="settings",
        relearn=None,
        common={},
        spaces=spaces,
    )
    found = dependencies("search", one, {"device": "cpu"}, "b", unlearn={"methods": {"b": 2}})
    assert found["unlearn"] == {"methods": {"b": 2}}
    assert found["compute"] == {"device": "cpu"}
    assert found["spaces"] == {"b": {"x": {"choices": [1, 2]}}}


@pytest.mark.parametrize(
    ("folder", "phase", "name"),
    [
        ("shared", "prepare", None), ("prepared", "prepare", None),
        ("full", "pretrain", "llama_tiny"), ("oracle_lm", "pretrain", "llama_tiny"),
        ("embed", "embed", None), ("align", "align", None), ("unlearn", "unlearn", "atu"),
        ("oracle", "unlearn", "oracle"), ("rephrase", "rephrase", None),
        ("utility", "utility", None), ("privacy", "privacy", None), ("attack", "attack", "lens"),
    ],
)  # fmt: skip
def test_manifests_record_what_rules_depend_on(chain, mini_params, folder, phase, name):
    manifest = getattr(chain, folder).manifest
    params = mini_params.model_copy(update={"compute": CPU})
    assert manifest["params"] == params.section(phase, name)
