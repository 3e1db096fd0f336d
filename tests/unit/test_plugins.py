"""Plug-ins are found by looking, here and among what is installed, and loaded when named."""

import sys

import pytest

from atu.errors import AtuError
from atu.plugins import Plugins, installed


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two plug-ins and their base."""
    folder = tmp_path / "fruits"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "base.py").write_text("")
    (folder / "pear.py").write_text("FRUIT = 'pear'")
    (folder / "apple.py").write_text("FRUIT = 'apple'")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("fruits", "orchard")]:
        del sys.modules[name]


@pytest.fixture
def install(tmp_path):
    """A function that installs a module `orchard` with this text and these entry points."""

    def install(text, name="orchard", **entries):
        (tmp_path / "orchard.py").write_text(text)
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{key} = {value}" for key, value in entries.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[atu.fruits]", *lines, ""]))

    return install


def test_every_module_but_the_base(package):
    found = Plugins("fruits", [str(package)], "FRUIT")
    assert (list(found), len(found)) == (["apple", "pear"], 2)
    assert dict(found) == {"apple": "apple", "pear": "pear"}
    with pytest.raises(KeyError):
        found["base"]


def test_a_module_without_a_plugin_is_an_error(package):
    (package / "stone.py").write_text("VEGETABLE = 1")
    found = Plugins("fruits", [str(package)], "FRUIT")
    with pytest.raises(AttributeError, match="FRUIT"):
        found["stone"]


def test_only_what_is_named_is_loaded(package, install):
    """Neither a module of the package nor an installed one runs before."""
    (package / "stone.py").write_text("raise AssertionError")
    install("raise AssertionError", plum="orchard:PLUM")
    found = Plugins("fruits", [str(package)], "FRUIT")
    assert list(found) == ["apple", "pear", "plum", "stone"]
    assert found["pear"] == "pear"
    assert "orchard" not in sys.modules


def test_what_is_installed_is_found(package, install):
    install("PLUM = 'plum'", plum="orchard:PLUM")
    found = Plugins("fruits", [str(package)], "FRUIT")
    assert (list(found), len(found)) == (["apple", "pear", "plum"], 3)
    assert found["plum"] == "plum"


def test_a_name_is_taken_once(package, install):
    install("PLUM = 'plum'", pear="orchard:PLUM")
    with pytest.raises(AtuError, match=r"pear = orchard:PLUM of atu\.fruits: fruits has one"):
        Plugins("fruits", [str(package)], "FRUIT")


def test_two_packages_with_one_name(package, install):
    install("PLUM = 'plum'", plum="orchard:PLUM")
    install("PLUM = 'plum'", name="garden", plum="orchard:OTHER")
    with pytest.raises(AtuError, match="plum"):
        installed("fruits")


@pytest.mark.parametrize("text", ["raise ImportError('no seeds')", "seeds = no"])
def test_what_cannot_be_loaded_says_so(package, install, text):
    install(text, plum="orchard:PLUM")
    with pytest.raises(AtuError, match=r"plum = orchard:PLUM of atu\.fruits: cannot be loaded: n"):
        Plugins("fruits", [str(package)], "FRUIT")["plum"]
