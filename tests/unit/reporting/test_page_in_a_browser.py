"""The page as a person sees and uses it, in a real browser."""

import pytest
from browser import keep

from atu.config.params import Params
from atu.phases import report
from atu.reporting.inputs import ReportInputs
from atu.results.artifacts import MANIFEST
from atu.results.files import write_json


@pytest.fixture(scope="session")
def made_page(tmp_path_factory):
    """Where the page goes, once for all tests."""
    return tmp_path_factory.mktemp("page") / "report" / MANIFEST


@pytest.fixture
def page_file(made_page, store, make_cell, make_params, ga_leaks):
    """A page about the original, the oracle, GA and NPO, with two attacks."""
    if not made_page.exists():
        own = {"none": None, "oracle": set(), "ga": ga_leaks, "npo": {("Bob/pet", "question")}}
        attacks = {"lens": 0.25, "quantise": 0.5}
        cells = [make_cell(m, leaks=leaks, attacks=attacks) for m, leaks in own.items()]
        search = store("search", "search", {"method": None},
                       files={"search.json": lambda path: write_json(path, [])})  # fmt: skip
        names = ("rephrase", "utility", "privacy", "unlearn", "align")
        inputs = ReportInputs(
            **{name: [cell[name] for cell in cells] for name in names}, pretrain=[],
            attack=[cell[f"attack/{name}"] for cell in cells for name in attacks], search=[search],
        )  # fmt: skip
        params: Params = make_params(*attacks)
        report.run(made_page, params, inputs)
    return made_page.with_name("report.html")


def column(page, table, number):
    """The words of a column of a table, from the top."""
    cells = page.locator(f"{table} tbody tr:visible > :nth-child({number})")
    return [text.split("\n")[0].split(" [")[0] for text in cells.all_inner_texts()]


def test_the_first_screen_has_verdict_picture_and_table(browser, page_file):
    with browser.open(page_file) as page:
        keep(page, "report-first-screen")
        first = page.locator(".first")
        assert "Gradient ascent: Forgets plain questions" in first.inner_text()
        assert "Original:" not in first.inner_text()
        for what in (".first li", ".first svg", "#headline tbody tr >> nth=0"):
            box = page.locator(what).first.bounding_box()
            assert box["height"] > 10 and box["y"] + box["height"] < page.viewport_size["height"]
        drawn = page.locator(".first svg text").all_text_contents()
        assert {"Original", "Oracle", "Gradient ascent", "NPO", "better"} <= set(drawn)
        assert column(page, "#headline", 1) == ["Original", "Oracle", "Gradient ascent", "NPO"]


def test_a_table_is_sorted_by_the_title_that_is_pressed(browser, page_file):
    """Up, then down; screen readers are told. Keys do the same."""
    with browser.open(page_file) as page:
        title = page.locator("#headline th", has_text="neighbours")
        title.get_by_role("button").click()
        assert column(page, "#headline", 4) == ["0.00", "0.50", "0.50", "1.00"]
        assert title.get_attribute("aria-sort") == "ascending"
        title.get_by_role("button").press("Enter")
        assert column(page, "#headline", 4) == ["1.00", "0.50", "0.50", "0.00"]
        page.locator("#headline th", has_text="method").get_by_role("button").click()
        assert column(page, "#headline", 1)[0] == "Gradient ascent"
        assert title.get_attribute("aria-sort") is None


def test_a_long_table_is_filtered(browser, page_file):
    """Behind its fold, which opens; by words in any case."""
    with browser.open(page_file) as page:
        fold = page.locator("#robustness ~ details").first
        fold.locator("summary").click()
        lines = len(column(page, "details[open] table.sorted", 1))
        assert fold.locator("summary").inner_text() == f"All {lines} lines"
        fold.get_by_label("Only lines with").fill("QUANTISED")
        shown = column(page, "details[open] table.sorted", 1)
        assert len(shown) == 2 and all(text.startswith("quantised") for text in shown)
        keep(page, "report-filtered")


def test_dark_is_dark_and_light_is_light(browser, page_file):
    """Figures take the ink of the page."""
    seen = {}
    for scheme in ("light", "dark"):
        with browser.open(page_file, color_scheme=scheme) as page:
            keep(page, f"report-{scheme}")
            ink = page.locator(".first svg text").first.evaluate("e => getComputedStyle(e).fill")
            paper = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
            seen[scheme] = (paper, ink)
    assert seen == {
        "light": ("rgb(255, 255, 255)", "rgb(31, 35, 40)"),
        "dark": ("rgb(20, 23, 26)", "rgb(230, 232, 234)"),
    }


def test_everything_has_a_name_for_those_who_do_not_see(browser, page_file):
    """Every figure a text, every column a title; links that lead somewhere."""
    with browser.open(page_file) as page:
        assert page.locator("h1").count() == 1
        figures = page.locator("svg[role=img]")
        assert figures.count() == 4 == page.locator("main svg").count()
        assert all(len(text) > 20 for text in page.evaluate(
            "[...document.querySelectorAll('main svg')].map(e => e.getAttribute('aria-label'))"
        ))  # fmt: skip
        assert page.locator("thead th:not([scope=col])").count() == 0
        for link in page.locator("nav a").all():
            assert page.locator(link.get_attribute("href")).count() == 1


def test_printed_it_has_no_fold(browser, page_file):
    with browser.open(page_file) as page:
        assert page.locator("details[open]").count() == 0
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0


@pytest.mark.parametrize(
    ("script", "found"),
    [("throw new Error('broken')", "errors"), ("fetch('https://example.org/x')", "away")],
)
def test_the_guards_see_errors_and_requests(browser, tmp_path, script, found):
    """What every test above would fail by."""
    path = tmp_path / "page.html"
    path.write_text(f"<p>x</p><script>{script}</script>", encoding="utf-8")
    with browser.open(path, quiet=False) as page:
        page.wait_for_timeout(200)
        assert getattr(page, found)
    with pytest.raises(AssertionError), browser.open(path) as page:
        page.wait_for_timeout(200)
