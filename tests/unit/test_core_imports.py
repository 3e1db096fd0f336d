"""Contract: the training core runs on a machine that has only torch and transformers."""

import ast
import sys
from pathlib import Path

import pytest

import atu

ROOT = Path(atu.__file__).parent
CORE = ["alignment", "generation", "losses", "training", "data.batches", "data.windows"] + [
    f"{folder}.{path.stem}"
    for folder in ("models", "methods")
    for path in sorted((ROOT / folder).glob("*.py"))
]
ALLOWED = {"torch", "transformers", "numpy", "safetensors", "tokenizers", "tqdm"}
"""The four of the contract, and two packages that transformers itself requires."""


def imports(module):
    """Top-level names that a module imports, wherever in the file, and those of its atu imports."""
    found, waiting, seen = set(), [module], set()
    while waiting:
        name = waiting.pop()
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for imported in _names(node):
                top, _, rest = imported.partition(".")
                if top == "atu":
                    waiting.append(rest)
                else:
                    found.add(top)
    return found


def _names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


@pytest.mark.parametrize("module", CORE)
def test_core_imports_only_the_core_libraries(module):
    assert imports(module) - ALLOWED - sys.stdlib_module_names == set()


def test_the_search_follows_imports():
    """`config` imports pydantic itself, and the phase `align` through it: both must be found."""
    assert "pydantic" in imports("config")
    assert {"pydantic", "yaml"} <= imports("phases.align")
