"""The site of docs/: every page is in the navigation, and a broken link fails the build."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

import atu

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "mkdocs.yml"
SPEC = importlib.util.spec_from_file_location("site_pages", ROOT / "workflow/site_pages.py")
site_pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site_pages)


def config():
    return yaml.safe_load(CONFIG.read_text(encoding="utf-8"))


def test_every_page_is_in_the_navigation_once():
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    listed = [page for page, _ in site_pages.titles(config()["nav"])]
    assert sorted(listed) == sorted(pages | {"index.md", "changelog.md"})


def test_a_reader_fetches_nothing():
    """Red without a polyfill of this name: the plug-in `offline` would add one from elsewhere."""
    assert config()["theme"]["font"] is False
    (script,) = config()["extra"]["polyfills"]
    assert "iframe-worker" in script and (ROOT / "docs" / script).is_file()


def test_the_api_page_has_every_name_of_the_package():
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert set(atu.__all__) <= set(re.findall(r"^::: [\w.]*\.(\w+)$", page, re.MULTILINE))


@pytest.mark.parametrize(
    ("source", "markdown", "expected"),
    [
        ("README.md", "[docs/dvc.md](docs/dvc.md)", "[Sharing](dvc.md)"),
        ("README.md", "[how](docs/dvc.md#remotes)", "[how](dvc.md#remotes)"),
        ("docs/log.md", "[`dvc.md`](dvc.md)", "[Sharing](dvc.md)"),
        ("docs/log.md", "[README](../README.md)", "[README](index.md)"),
        ("docs/log.md", "[Makefile](../Makefile)", "`Makefile`"),
        ("docs/log.md", "[its rules](../workflow/rules)", "its rules (`workflow/rules`)"),
        ("docs/log.md", "[x](nowhere.md), [y](#below)", "[x](nowhere.md), [y](#below)"),
        ("docs/log.md", "[p](https://a.org/Makefile)", "[p](https://a.org/Makefile)"),
        ("docs/log.md", "- a\n\n  | b |\n\n1. c\n   d", "- a\n\n    | b |\n\n1. c\n    d"),
        ("docs/log.md", "- a\n\n  b\n  c\n- d", "- a\n\n    b\n    c\n\n- d"),
        ("docs/log.md", "```\n  [dvc.md](dvc.md)\n```", "```\n  [dvc.md](dvc.md)\n```"),
    ],
)
def test_a_page_as_the_site_needs_it(source, markdown, expected):
    """`dvc.md` and `Makefile` are files of this repository; no address of it is known."""
    assert site_pages.rewritten(markdown, source, {"dvc.md": "Sharing"}, None) == expected


def test_files_outside_docs_are_links_where_the_repository_has_an_address():
    found = site_pages.rewritten("[make](../Makefile)", "docs/log.md", {}, "https://a.org/atu/")
    assert found == "[make](https://a.org/atu/blob/HEAD/Makefile)"


@pytest.mark.parametrize(
    ("html", "warned"),
    [
        ("<p>a list:\n- one</p>", True),
        ("<p>a table:\n| one |</p>", True),
        ("<p>one\ntwo</p>\n<ul>\n<li>- 3. |</li>\n</ul>", False),
    ],
)
def test_a_list_that_came_out_as_text_is_warned_of(caplog, html, warned):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    assert site_pages.on_page_content(html, page, None, None) == html
    assert bool(caplog.records) == warned


@pytest.mark.parametrize(
    ("text", "nav", "broken"),
    [
        ("[up](#a-page)", ["a.md"], False),
        ("[there](nowhere.md)", ["a.md"], True),
        ("[below](#nowhere)", ["a.md"], True),
        ("", ["a.md", "nowhere.md"], True),
        ("", ["b.md"], True),
    ],
)
def test_what_is_broken_ends_the_build(tmp_path, text, nav, broken):
    """Pages of our settings, without the theme and the plug-ins; last, `a.md` is not in `nav`."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("a.md", "b.md")[: 1 + ("b.md" in nav)]:
        (docs / name).write_text(f"# A page\n\n{text}\n", encoding="utf-8")
    plain = {"hooks": [], "plugins": [], "extra_css": [], "watch": [], "theme": "mkdocs"}
    places = {"docs_dir": str(docs), "site_dir": str(tmp_path / "site"), "nav": nav}
    settings = load_config(str(CONFIG), **places, **plain)
    if broken:
        with pytest.raises(Abort, match="strict mode"):
            build(settings)
    else:
        build(settings)
        assert (tmp_path / "site" / "a.html").exists()
