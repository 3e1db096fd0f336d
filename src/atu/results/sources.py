"""Which modules a phase's result depends on: the code inputs of its rule and of its DVC stage."""

from __future__ import annotations

import ast
import os
import pkgutil
import re
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

from atu.plugins import NOT_PLUGINS, installed
from atu.probes.measures import MEASURES

PACKAGE = Path(__file__).parents[1]
INFRASTRUCTURE = {
    "cli", "config", "untrusted", "errors", "plugins", "progress", "benchmarks.shared.source",
    "benchmarks.world.vocabulary", "metrics.registry", "models.folders", "models.gguf_header",
    "models.packages", "models.pinned",
    "results.artifacts", "results.checkpoints", "results.files", "results.jobs", "results.locks",
    "results.provenance", "results.sources", "results.writer", "training.keeper",
}  # fmt: skip
"""Packages and modules that carry results without deciding them: a new option, message or manifest
check must not retrain every model. What they decide (parameters, hashes) is an input of the rules
anyway."""
DECIDING = {"config.spaces", "untrusted.names"}
"""Modules of these packages that do decide results."""
PLUGINS = ("methods", "attacks", "benchmarks", "models.guards")
"""Packages whose modules are loaded by name."""
UNGUARDED = ("pretrain", "embed", "align")
"""Phases that read only models before unlearning, which have no guard."""
DATA_FILE = re.compile(r"^[\w.-]+\.(?!py$)\w+$")
"""A string that may name a data file beside a module."""


def export_package() -> None:
    """Put this checkout on `PYTHONPATH`, for jobs in an environment made from environment.yml."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


def phase_sources(phase: str, *named: str) -> list[str]:
    """Files that the phase's module imports, directly or not: relative to the package, or absolute
    for a plug-in from another package.

    A plug-in counts only if it is `named`: the job's method, attack or benchmark, and the modules
    in `metrics` of the benchmark's measures; of the guards, that of the method. So a new method
    reruns no other. Without any name, all plug-ins of this package count.
    """
    modules: set[str] = set()
    todo = [f"atu.phases.{phase}"]
    while todo:
        module = todo.pop()
        if module in modules or _carries(module):
            continue
        modules.add(module)
        todo += _imports(module)
        todo += _plugin_modules(module.removeprefix("atu."), phase, named)
    files = {file for module in modules for file in (_file(module), *_data_files(module))}
    return sorted(_relative(file) for file in files)


def _relative(file: Path) -> str:
    inside = file.is_relative_to(PACKAGE)
    return (file.relative_to(PACKAGE) if inside else file).as_posix()


def _carries(module: str) -> bool:
    """Whether a module is infrastructure, by itself or with its package."""
    name = module.removeprefix("atu.")
    return name not in DECIDING and not INFRASTRUCTURE.isdisjoint({name, name.split(".")[0]})


def _plugin_modules(finder: str, phase: str, named: tuple[str, ...]) -> list[str]:
    """The modules that this one loads by the job's names."""
    if finder == "probes.measures":
        homes = sorted(set(MEASURES.values()))
        return [f"atu.metrics.{home}" for home in homes if not named or home in named]
    if finder not in PLUGINS or (finder == "models.guards" and phase in UNGUARDED):
        return []
    members = [m.name for m in pkgutil.iter_modules([str(PACKAGE.joinpath(*finder.split(".")))])]
    modules = {name: f"atu.{finder}.{name}" for name in members if name not in NOT_PLUGINS}
    if not named:
        return list(modules.values())
    modules |= {name: entry.module for name, entry in installed(f"atu.{finder}").items()}
    if finder == "models.guards":
        job_methods = [_plugin("methods", name) for name in named]
        imported = {module for method in job_methods if method for module in _imports(method)}
        return [module for module in modules.values() if module in imported]
    return [module for name, module in modules.items() if name in named]


def _plugin(package: str, name: str) -> str | None:
    """The module of a plug-in, if there is one of this name."""
    outside = installed(f"atu.{package}")
    if name in outside:
        return outside[name].module
    module = f"atu.{package}.{name}"
    return module if _is_module(module) else None


def _file(module: str) -> Path:
    """The file of a module that exists.

    Raises:
        ModuleNotFoundError: it is from another package, and its source is missing.
    """
    package, *names = module.split(".")
    if package == "atu":
        path = PACKAGE.joinpath(*names)
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source of {module}", name=module)
    return Path(spec.origin)


def _is_module(name: str) -> bool:
    try:
        return name != "atu" and _file(name).is_file()
    except ModuleNotFoundError:
        return False


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _data_files(module: str) -> list[Path]:
    """Files beside a module that it names, such as a vocabulary or a template."""
    named = {
        node.value
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    beside = [_file(module).with_name(name) for name in named if DATA_FILE.match(name)]
    return [path for path in beside if path.is_file()]


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of this package, or of the plug-in's, that `module` imports.

    `from atu.training.losses import X` names a module, `from atu import losses` a submodule.
    """
    package = module if _file(module).name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = resolve_name(base, package) if node.level else base
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    ours = ("atu", module.split(".")[0])
    return tuple(name for name in names if name.split(".")[0] in ours and _is_module(name))
