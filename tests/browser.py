"""A real browser that opens pages of this machine, and tells what a person would not see."""

import contextlib
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "logs" / "screenshots"
"""Where tests leave what they saw."""
NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1280, "height": 800}
"""Of the window: a small laptop's."""
AWAY = re.compile(r"^(https?|wss?)://(?!127\.0\.0\.1[:/])")


class Browser:
    """Opens pages."""

    def __init__(self, browser):
        self._browser = browser

    @contextlib.contextmanager
    def open(self, address, *, quiet=True, **options):
        """A page at this address (a file or a URL), with `errors` (of its console) and `away`
        (requests that left this machine, which are refused).

        With `quiet` both must be empty when the page is closed.
        """
        context = self._browser.new_context(viewport=SIZE, **options)
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.errors, page.away = [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda said: said.type == "error" and page.errors.append(said.text))

        def refuse(route):
            page.away.append(route.request.url)
            route.abort()

        context.route(AWAY, refuse)
        page.goto(address.as_uri() if isinstance(address, Path) else address)
        try:
            yield page
            if quiet:
                assert (page.errors, page.away) == ([], [])
        finally:
            context.close()


def keep(page, name):
    """Keep a picture of the window as a person sees it."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


@contextlib.contextmanager
def started():
    """A `Browser`; the test is skipped where there is none."""
    there = next(filter(None, map(shutil.which, NAMES)), None)
    if there is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root, as in a container, may not use Chromium's sandbox.
        browser = playwright.chromium.launch(executable_path=there, args=["--no-sandbox"])
        yield Browser(browser)
        browser.close()
