"""Contract: the training core runs on a machine that has only torch and transformers."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

import atu

ROOT = Path(atu.__file__).parent
CORE = [
    "alignment.loop", "alignment.windows", "inference.batching", "inference.generation",
    "inference.scoring", "methods.shared.disruption_masking", "resources.machine",
    "resources.speed", "training.batches", "training.loop", "training.losses",
] + [
    f"{folder}.{path.stem}"
    for folder in ("models", "methods", "attacks")
    for path in sorted((ROOT / folder).glob("*.py"))
]  # fmt: skip
ALLOWED = {"torch", "transformers", "numpy", "safetensors", "tokenizers", "tqdm"}
"""The four of the contract, and two packages that transformers itself requires."""
LAZY = {
    "metrics": {"nltk", "rouge", "rouge_score", "scipy"},
    "models.trainable": {"peft"},
    "models.adapters": {"peft"},
    "models.gguf_header": {"gguf"},
}
"""What a metric may import when it is called, for another metric needs neither; and what adapters
and GGUF files need, without which everything else is trained."""


@cache
def imports(module):
    """What a module and the modules of this package that it imports import, each as
    `(module, top-level name, inside a function?)`.
    """
    found, waiting, seen = set(), [module], set()
    while waiting:
        name = waiting.pop()
        path = file_of(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        for imported, lazy in _imported(ast.parse(path.read_text(encoding="utf-8")), False):
            top, _, rest = imported.partition(".")
            if top == "atu":
                waiting.append(rest)
            else:
                found.add((name, top, lazy))
    return found


def file_of(name):
    """The file of a module or package; None for what is neither, such as a function."""
    path = ROOT.joinpath(*name.split("."))
    if name and path.is_dir():
        return path / "__init__.py"
    path = path.with_suffix(".py")
    return path if path.is_file() else None


def _imported(node, lazy):
    """Every imported name below a node, and whether a function has to run for it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module, lazy
            yield from ((f"{child.module}.{alias.name}", lazy) for alias in child.names)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imported(child, lazy or inside)


def foreign(module):
    """What a module imports against the contract."""
    return sorted(
        (name, top)
        for name, top, lazy in imports(module)
        if top not in ALLOWED
        and top not in sys.stdlib_module_names
        and not (lazy and top in LAZY.get("metrics" if name.startswith("metrics.") else name, ()))
    )


@pytest.mark.parametrize("module", CORE)
def test_core_imports_only_the_core_libraries(module):
    assert foreign(module) == []


@pytest.mark.parametrize("path", sorted((ROOT / "metrics").glob("*.py")), ids=lambda p: p.stem)
def test_metrics_import_other_libraries_only_when_called(path):
    """So that whatever scores answers can import them all."""
    assert foreign(f"metrics.{path.stem}") == []


def test_the_core_has_every_attack():
    """Among them those that nothing imports by name."""
    assert {"attacks.base", "attacks.sampling", "attacks.fresh_predictor"} <= set(CORE)
    assert all(file_of(module) is not None for module in CORE)


def test_the_search_follows_imports():
    """`sections` imports pydantic itself, and the phase `align` through it: both must be found. So
    must what a function imports, and a package imports: `rouge_score` in a metric of an attack."""
    tops = {
        m: {top for _, top, _ in imports(m)}
        for m in ("config.sections", "untrusted.yaml", "phases.align")
    }
    assert "pydantic" in tops["config.sections"] and "pydantic" in tops["phases.align"]
    assert "yaml" in tops["untrusted.yaml"]
    assert ("metrics.rouge", "rouge_score", True) in imports("attacks.sampling")
    assert ("models.trainable", "peft", True) in imports("methods.ga")
    assert ("config.sections", "pydantic") in foreign("phases.attack")


def test_a_lazy_import_is_told_from_one_at_the_top():
    """A class or an `if` at the top runs at once."""
    source = (
        "import a\nif x:\n    import b\nclass C:\n    import c\n    def f(self):\n        import d"
    )
    assert dict(_imported(ast.parse(source), False)) == {
        "a": False, "b": False, "c": False, "d": True,
    }  # fmt: skip
