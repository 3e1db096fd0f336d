"""What a person sees of a finished run in MLflow's UI, in a real browser."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from browser import SIZE, keep
from servers import free_port, listens, until

OWN = {
    "Failed to load resource: the server responded with a status of 404 (Not Found)",
    "null ResizeObserver loop completed with undelivered notifications.",
}
"""MLflow asks its own server who is logged in; and a frame of its charts may come a moment late."""
HEADER = "[role=columnheader]"
ROWS = ".ag-center-cols-container [role=row]"
BUTTON = ".assistant-fab-label"


@pytest.fixture(scope="module")
def address(tree):
    """`atu ui` on the miniature's store, as `make ui` starts it."""
    port = free_port()
    with (tree.folder / "ui.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "atu", "ui", "--port", str(port)], cwd=tree.folder,
            env=tree._variables(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    until(lambda: listens(port), "the UI")
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def look(browser, address):
    """A function that opens an address below the UI's and waits for a selector. No request leaves
    this machine, and no error is ours."""

    @contextlib.contextmanager
    def opened(path, selector, name):
        with browser.open(f"{address}/{path}", quiet=False) as page:
            page.locator(selector).first.wait_for()
            yield page
            keep(page, f"mlflow_{name}")
            assert set(page.errors) <= OWN and page.away == []

    return opened


def texts(page, selector):
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


def test_the_page_of_the_run(browser, tree):
    """Made by the pipeline, from what its models answered: a verdict for each method, a line and a
    point for each model, sorted by the title that is pressed."""
    with browser.open(tree.folder / "results/miniature/report/report.html") as page:
        keep(page, "report_miniature")
        told = page.locator(".first li").all_inner_texts()
        assert [text.split(":")[0] for text in told[:2]] == ["ATU", "Gradient ascent"]
        rows = page.locator("#headline tbody tr")
        assert [text.split("\t")[0] for text in rows.all_inner_texts()] == [
            "Original", "Oracle", "ATU", "Gradient ascent",
        ]  # fmt: skip
        drawn = page.locator(".first svg text").all_text_contents()
        assert {"Original", "Oracle", "ATU", "Gradient ascent", "better"} <= set(drawn)
        page.locator("#headline th", has_text="method").get_by_role("button").click()
        assert rows.first.inner_text().startswith("ATU\t")


def test_the_addresses_are_printed(address, tree):
    """Those that the other tests open."""
    printed = (tree.folder / "ui.log").read_text(encoding="utf-8").split()
    assert {
        f"{address}/{path}" for path in ("runs", "charts", "answers", "miniature/report.html")
    } <= set(printed)


def test_runs_and_their_headlines(look):
    """A row per run, by its method's name, the nearest to the oracle first; headlines and no other
    metric, with numbers, all in a small laptop's window."""
    with look("runs", f"{ROWS} [col-id^=metrics]", "runs") as page:
        assert [title for title in dict.fromkeys(texts(page, HEADER)) if title[:1].isdigit()] == [
            "1 target questions", "2 worst form", "3 neighbours", "4 utility", "5 distance",
            "6 COLLAPSED",
        ]  # fmt: skip
        last = page.locator(HEADER, has_text="6 COLLAPSED").first.bounding_box()
        assert last["x"] + last["width"] <= SIZE["width"]
        names = texts(page, "[role=row] a[href*='/runs/']")
        assert sorted(names) == ["ATU", "Gradient ascent", "Oracle", "Original", "report"]
        cells = [texts(row, "[col-id^=metrics]") for row in page.locator(ROWS).all()]
        numbers = [[float(cell) for cell in row] for row in cells if "-" not in row]
        assert len(numbers) == 4
        assert numbers == sorted(numbers, key=lambda row: row[4])


def test_charts_have_points(look):
    """The trade-off has one per run, and every bar chart a bar."""
    with look("charts", ".scatterlayer .point", "charts") as page:
        page.locator(".barlayer .point").first.wait_for()
        assert page.locator(".scatterlayer .point").count() == 4
        assert page.locator(".barlayer").count() == 5
        title = page.get_by_text("Trajectories", exact=True)
        title.scroll_into_view_if_needed()
        # A run of the miniature is observed once: its line is there, and has no length.
        page.locator(".scatterlayer .js-line").first.wait_for(state="attached")


def test_a_run_says_its_verdict_and_links_the_page(look):
    """At the top of its own, in the words of the report, whose table sorts as it does alone."""
    with look("runs", f"{ROWS} [col-id^=metrics]", "verdict") as page:
        page.get_by_role("link", name="Gradient ascent", exact=True).first.click()
        verdict = page.get_by_text("plain questions", exact=False).first
        verdict.wait_for()
        assert "plain questions" in verdict.inner_text().lower()
        link = page.get_by_role("link", name="The page of all runs")
        assert link.get_attribute("href") == "/miniature/report.html"
    with look("miniature/report.html", "#headline tbody tr", "report") as page:
        page.locator("#headline th", has_text="method").get_by_role("button").click()
        assert page.locator("#headline tbody tr").first.inner_text().startswith("ATU\t")


def test_answers_stand_side_by_side(look):
    """A column per run; the first question is about the target."""
    with look("answers", "text=Wysturel Brontanthorpe", "answers") as page:
        assert page.get_by_text("answers.json").count() == 1
        # Its name is in the list of runs, and above its column.
        assert page.get_by_role("link", name="Oracle", exact=True).count() == 2


def test_the_assistant_stays_closed_on_our_pages(look):
    """It opens by itself on a first visit, and else its button is there."""
    with look("runs", ROWS, "closed") as page:
        page.locator(BUTTON).wait_for(state="attached")
    with look("#/experiments", "text=miniature", "opened") as page:
        assert page.locator(BUTTON).count() == 0
