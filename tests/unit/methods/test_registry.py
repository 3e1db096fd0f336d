import dataclasses
import typing
from pathlib import Path

import pytest

from atu import methods
from atu.methods.base import Method

ROOT = Path(__file__).parents[3]
NAMES = sorted(methods.registry())


def test_the_package_is_the_registry():
    """Alphabetical, with the methods that the comparison needs and without the base module."""
    assert list(methods.registry()) == NAMES
    assert {"atu", "ga", "none", "npo", "oracle"} <= set(NAMES)
    assert "base" not in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_settings_carry_the_modules_name(name):
    """`loss: Literal["<name>"]`, by which the parameters find the method; the settings are frozen
    and have no defaults, which belong to params.yaml. What may be left out is as the section says.
    """
    method = methods.get(name)
    assert isinstance(method, Method)
    hints = typing.get_type_hints(method.settings)
    assert typing.get_args(hints["loss"]) == (name,)
    assert method.settings.__dataclass_params__.frozen
    missing = dataclasses.MISSING
    for field in dataclasses.fields(method.settings):
        if field.name == "reference_compat":
            assert field.default is None
            continue
        assert field.default is missing and field.default_factory is missing, field.name


def test_every_method_is_explained_in_the_words_of_the_page():
    """What a report says of a method, docs/method.md says; somebody else's checkpoint is none."""
    page = (ROOT / "docs/method.md").read_text("utf-8")
    for name in set(NAMES) - {"atu", "checkpoint"}:
        method = methods.get(name)
        address = f"[{method.source}](https://arxiv.org/abs/{method.source})"
        assert f"| {method.does} | {address if method.source else '–'} |" in page, name
    assert all(methods.get(name).does for name in NAMES)


def test_a_new_module_is_found(monkeypatch, tmp_path):
    """One file is all that a new method takes."""
    (tmp_path / "zzz_new.py").write_text(
        "from atu.methods.base import Method\nMETHOD = Method(int)\n"
    )
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    found = methods.registry.__wrapped__()
    assert found["zzz_new"].settings is int
    assert sorted(found) == [*NAMES, "zzz_new"]


def test_an_unknown_method_is_refused():
    with pytest.raises(KeyError, match="magic"):
        methods.get("magic")


@pytest.mark.parametrize(
    ("name", "start"),
    [("none", "full"), ("oracle", "oracle"), ("second_oracle", "second_oracle")],
)
def test_methods_that_train_nothing(name, start):
    """They plan no stage and need nothing but a model to start from."""
    method = methods.get(name)
    assert list(method.plan(context=None)) == []
    assert (method.start, method.needs_reference, method.needs_predictor) == (start, False, False)
