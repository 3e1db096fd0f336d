"""MkDocs hooks: pages from outside docs/, and links that lead somewhere on GitHub and on the site.

Pages name each other by file, `[memory.md](memory.md)`, and files of the repository by path. On the
site a page's file name becomes its title in the navigation. A file outside docs/ becomes a link
into the repository where `repo_url` is set, and code otherwise. A target that does not exist stays
as it is, and MkDocs fails on it.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = "docs/"
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages of the site."""
FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\[\]]+)\]\(([^()\s]+)\)")
GITHUB = {
    re.compile(r"(\n\n(?: {2}.*\n)+)(?=[-*] |\d+\. )"): r"\1\n",
    re.compile(r"^ {2,3}(?=\S)", re.MULTILINE): "    ",
}
"""Where GitHub asks for less than MkDocs: an empty line between a list item of several blocks and
the next item; four spaces before what is inside a list item."""
STRAY = re.compile(r"<p>(?:(?!</p>).)*\n *(?:[-*] |\d+\. |\|)", re.DOTALL)
log = logging.getLogger("mkdocs.hooks.site_pages")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite one page; one that is a section of its own needs no list of the section's pages."""
    if page.parent is None:
        page.meta["hide"] = ["navigation"]
    sources = {name: source for source, name in PAGES.items()}
    source = sources.get(page.file.src_uri, DOCS + page.file.src_uri)
    return rewritten(markdown, source, dict(titles(config.nav)), config.repo_url)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Warn, which ends a strict build, of a list or a table that came out as plain text."""
    if found := STRAY.search(html):
        log.warning("%s: a list or table in a paragraph: %s", page.file.src_uri, found[0][-200:])
    return html


def titles(nav: Any) -> Iterator[tuple[str, str]]:
    """Every page of the navigation with its title."""
    for entry in nav:
        for title, below in entry.items():
            if isinstance(below, str):
                yield below, title
            else:
                yield from titles(below)


def rewritten(markdown: str, source: str, named: dict[str, str], repo_url: str | None) -> str:
    """The Markdown of a page as the site needs it; fenced code stays.

    Args:
        source: the page's file, from the repository's root.
        named: titles of the site's pages.
    """

    def link(match: re.Match[str]) -> str:
        label, target = match.groups()
        place, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), place))
        if not place or ":" in place or not (ROOT / path).exists():
            return match[0]
        page = PAGES.get(path, path.removeprefix(DOCS) if path.startswith(DOCS) else None)
        called = label.strip("`") in (path, posixpath.basename(path))
        if page is not None:
            shown = named.get(page, label) if called else label
            return f"[{shown}]({page}{'#' * bool(anchor)}{anchor})"
        if repo_url:
            return f"[{label}]({repo_url.rstrip('/')}/blob/HEAD/{path})"
        return f"`{path}`" if called else f"{label} (`{path}`)"

    def text(part: str) -> str:
        for github, site in GITHUB.items():
            part = github.sub(site, part)
        return LINK.sub(link, part)

    parts = FENCE.split(markdown)
    return "".join(part if FENCE.match(part) else text(part) for part in parts)
