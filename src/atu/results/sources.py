"""Which modules a phase's result depends on: the code inputs of its rule and of its DVC stage."""

from __future__ import annotations

import ast
import os
import pkgutil
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
INFRASTRUCTURE = {
    "cli", "config", "untrusted", "errors", "plugins", "progress", "benchmarks.shared.source",
    "benchmarks.world.vocabulary", "metrics.registry", "models.folders", "models.pinned",
    "results.artifacts", "results.checkpoints", "results.files", "results.jobs", "results.locks",
    "results.provenance", "results.sources", "results.writer", "training.keeper",
}  # fmt: skip
"""Packages and modules that carry results without deciding them: a new option, message or manifest
check must not retrain every model. What they do decide (parameters, hashes) reaches a rule by its
own way."""
DECIDING = {"config.spaces"}
"""What decides results all the same."""
PLUGINS = ("methods", "attacks", "benchmarks")
DATA_FILES = {
    "benchmarks.world.people": ["benchmarks/world/world.yaml"],
    "phases.report": ["phases/report.html.jinja"],
}


def export_package() -> None:
    """Let jobs find this checkout's package, also in an environment made from environment.yml."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


def phase_sources(phase: str, plugin: str | None = None) -> list[str]:
    """Files that the phase's module imports, directly or not, relative to the package.

    Of methods, attacks and benchmarks it imports all; with `plugin` only that one counts and what
    it imports, so that a new method reruns no other.
    """
    found: set[str] = set()
    todo = [f"phases.{phase}"]
    while todo:
        module = todo.pop()
        if module in found or _carries(module):
            continue
        found.add(module)
        todo += [name for name in _imports(module) if _counts(module, name, plugin)]
    files = {_file(module).relative_to(PACKAGE).as_posix() for module in found}
    files |= {name for module in found for name in DATA_FILES.get(module, [])}
    return sorted(files)


def _carries(module: str) -> bool:
    """Whether a module is infrastructure, by itself or with its package."""
    return module not in DECIDING and not INFRASTRUCTURE.isdisjoint({module, module.split(".")[0]})


def _counts(importer: str, module: str, plugin: str | None) -> bool:
    """Whether a package of plug-ins takes this module in only as one of all."""
    package, _, name = module.partition(".")
    return (
        plugin is None or importer != package or package not in PLUGINS or name in (plugin, "base")
    )


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _members(package: str) -> list[str]:
    """Modules and packages of a package of plug-ins, without what several of them share."""
    found = pkgutil.iter_modules([str(PACKAGE / package)])
    return [member.name for member in found if member.name != "shared"]


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of this package that `module` imports; packages of plug-ins load all of theirs."""
    names: list[str] = []
    for node in ast.walk(ast.parse(_file(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("atu"):
            names += _resolve(node.module.removeprefix("atu").lstrip("."), node.names)
    if module in PLUGINS:
        names += [f"{module}.{name}" for name in _members(module)]
    return tuple(names)


def _resolve(module: str, names: list[ast.alias]) -> list[str]:
    """`from atu.training.losses import X` names a module, `from atu import losses` a submodule."""
    if module and not (PACKAGE.joinpath(*module.split("."))).is_dir():
        return [module]
    prefix = f"{module}." if module else ""
    inner = [f"{prefix}{alias.name}" for alias in names]
    return [name for name in inner if _file(name).exists()] + ([module] if module else [])
