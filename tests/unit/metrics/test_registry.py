"""Registration of metrics: one id, one formula."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import atu.metrics
from atu.metrics import registry as module
from atu.metrics.registry import VERSION, metric, registry


@pytest.fixture
def empty(monkeypatch):
    """A registry of its own, so that nothing of a test stays in the package's."""
    entries = {}
    monkeypatch.setattr(module, "_REGISTERED", entries)
    return entries


def half(value: float) -> float:
    """Half of it.

    Of 3 it is 1.5.
    """
    return value / 2


def test_a_metric_is_registered_and_calls_its_function(empty):
    told = {"source": "arithmetic", "defect": "none known", "knowledge": "rises"}
    found = metric("half", "own-1", **told)(half)
    assert empty == {"half@own-1": found}
    assert found(3.0) == found(value=3.0) == 1.5
    assert (found.id, found.name, found.version) == ("half@own-1", "half", "own-1")
    assert told == {key: getattr(found, key) for key in told} and found.function is half
    assert found.summary == "Half of it."


def test_no_defect_is_known_and_no_knowledge_measured_unless_said(empty):
    found = metric("half", "own-1", source="arithmetic")(half)
    assert (found.defect, found.knowledge) == ("", None)


def test_one_name_holds_several_versions(empty):
    for version in ("own-1", "own-2", "fixed-1", "faithful-10", "paper-1"):
        metric("half", version, source="arithmetic")(half)
    assert len(empty) == 5


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("Half", "own-1"),
        ("half life", "own-1"),
        ("half-life", "own-1"),
        ("half@own", "own-1"),
        ("2half", "own-1"),
        ("", "own-1"),
        ("half", "own"),
        ("half", "own-0"),
        ("half", "own-01"),
        ("half", "own-1.5"),
        ("half", "Own-1"),
        ("half", "official-1"),
        ("half", ""),
    ],
)
def test_a_malformed_id_is_refused(empty, name, version):
    with pytest.raises(ValueError, match="not a metric id"):
        metric(name, version, source="arithmetic")(half)
    assert empty == {}


def test_a_taken_id_is_refused(empty):
    first = metric("half", "own-1", source="arithmetic")(half)
    with pytest.raises(ValueError, match="half@own-1: registered twice"):
        metric("half", "own-1", source="elsewhere")(half)
    assert empty == {"half@own-1": first}


@pytest.mark.parametrize("docstring", [None, "", "  \n "])
def test_a_missing_docstring_is_refused(empty, docstring):
    def silent(value: float) -> float:
        return value

    silent.__doc__ = docstring
    with pytest.raises(ValueError, match="half@own-1: needs a docstring"):
        metric("half", "own-1", source="arithmetic")(silent)
    assert empty == {}


def test_ids_are_alphabetical_and_each_metrics_own():
    found = registry()
    assert list(found) == sorted(found)
    assert all(name == entry.id for name, entry in found.items())
    assert len({entry.function for entry in found.values()}) == len(found)


def test_every_metric_says_where_it_is_from():
    for entry in registry().values():
        assert entry.source, entry.id
        assert entry.summary.endswith((".", ":")), entry.id
        assert VERSION.match(entry.version), entry.id


def test_registry_is_a_copy():
    registry().clear()
    assert registry()


def test_registry_finds_the_metrics_of_all_modules():
    """In a fresh interpreter, where nothing but the registry has been imported."""
    script = (
        "import json; from atu.metrics.registry import registry; "
        "print(json.dumps([m.function.__module__ for m in registry().values()]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = {
        f"atu.metrics.{path.stem}"
        for path in Path(atu.metrics.__file__).parent.glob("*.py")
        if "\n@metric(" in path.read_text(encoding="utf-8")
    }
    assert set(json.loads(done.stdout)) == expected
    assert {"atu.metrics.answers", "atu.metrics.membership", "atu.metrics.memorisation"} <= expected


def test_the_package_imports_neither_torch_nor_scipy_for_its_metrics():
    """Both take seconds; scipy is imported where it is used."""
    script = (
        "import sys; from atu.metrics.registry import registry; registry(); "
        "print(sorted({'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
