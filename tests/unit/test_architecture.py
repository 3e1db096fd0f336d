"""docs/architecture.md: few loose modules, and imports that run one way."""

import ast
import re
from functools import cache
from pathlib import Path

import atu

PACKAGE = Path(atu.__file__).parent
ROOT = Path(__file__).parents[2]
MAX_LOOSE = 6


def rooms():
    """The packages and loose modules of the page's table, from the bottom up."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(\w+?)(?:/|\.py)` \|", page, re.MULTILINE)


def modules(package):
    """Every module below a folder by its dotted name."""
    return {
        ".".join(("atu", *path.relative_to(package).with_suffix("").parts)): path
        for path in package.rglob("*.py")
    }


@cache
def imports(package):
    """Pairs of modules of which the first imports the second, wherever in its code."""
    known = {name.removesuffix(".__init__"): name for name in modules(package)}
    pairs = set()
    for name, path in modules(package).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted = [f"{node.module}.{alias.name}" for alias in node.names]
                pairs |= {(name, known.get(full, known.get(node.module))) for full in wanted}
            elif isinstance(node, ast.Import):
                pairs |= {(name, known.get(alias.name)) for alias in node.names}
    return {(a, b) for a, b in pairs if b is not None and a != b}


def room(module):
    """The package or loose module right below `atu` that a module belongs to."""
    return module.split(".")[1]


def upward(package, order):
    """Imports from a room of one that stands above it."""
    place = {name: number for number, name in enumerate(order)}
    return sorted(
        (a, b)
        for a, b in imports(package)
        if room(a) not in ("__init__", "__main__") and place[room(b)] > place[room(a)]
    )


def circles(package):
    """Modules that import themselves in the end."""
    edges = imports(package)
    after = {a: {b for x, b in edges if x == a} for a, _ in edges}
    found = set()
    for start in after:
        seen, waiting = set(), list(after[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += after.get(name, ())
        if start in seen:
            found.add(start)
    return sorted(found)


def test_every_room_has_its_line_in_the_page():
    """And no line is of a room that is gone."""
    there = {room(name) for name in modules(PACKAGE)} - {"__init__", "__main__"}
    assert sorted(rooms()) == sorted(there)


def test_few_modules_are_loose():
    loose = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(loose) <= MAX_LOOSE, loose


def test_imports_run_down_the_table():
    assert upward(PACKAGE, rooms()) == []


def test_no_module_imports_itself_in_the_end():
    """A package that finds its members by looking imports none of them by name."""
    assert circles(PACKAGE) == []


def test_the_guards_see_what_they_are_there_for(tmp_path):
    """`low` takes from `high` inside a function; `a` and `b` of one room need each other."""
    for name, text in {
        "low/x.py": "def f():\n    from atu.high.y import g\n",
        "high/y.py": "from atu.high import a\n",
        "high/a.py": "import atu.high.b\n",
        "high/b.py": "from atu.high.a import h\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert upward(tmp_path, ["low", "high"]) == [("atu.low.x", "atu.high.y")]
    assert circles(tmp_path) == ["atu.high.a", "atu.high.b"]


def test_unit_tests_mirror_the_packages():
    """A folder of tests/unit is a package; a stranger finds the tests of a room by its name. Only
    `golden` is none: it holds official code's numbers, for several packages."""
    folders = {path.name for path in (ROOT / "tests/unit").iterdir() if path.is_dir()}
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders - {"__pycache__", "golden"} <= packages
