"""The table of the meta-evaluation: its file, its marks, and its page."""

from dataclasses import replace

import pytest

from atu.metrics import trust
from atu.metrics.registry import markdown, registry
from atu.metrics.trust import ENOUGH, Trust, measured, page, read, table, write

GOOD = Trust(
    "privacy/target.tofu_probability@faithful-1", 12, 12, 0.9, 0.85, 1.0, 7, 0.5, 1.0, 2 / 3
)
BAD = replace(GOOD, key="attack/lens.target.gold.head_projection@fixed-1", low=ENOUGH - 0.01)
NONE = Trust(
    "privacy/forget.muse_priv_leak@faithful-1", 12, 0, None, None, None, 0, None, None, None
)


def test_a_file_gives_back_what_was_written(tmp_path):
    """With four decimals, and nothing where there is nothing."""
    write([GOOD, NONE], tmp_path / "t.csv")
    assert read(tmp_path / "t.csv") == [replace(GOOD, robustness=0.6667), NONE]
    text = (tmp_path / "t.csv").read_text(encoding="utf-8")
    assert text.splitlines()[2] == f"{NONE.key},12,0,,,,0,,,"


def test_what_fails_is_what_may_be_too_low():
    """By the lower end of the interval; what was not measured did not fail."""
    assert [row.failed for row in (GOOD, BAD, NONE)] == [False, True, False]
    assert not replace(BAD, low=ENOUGH).failed
    assert BAD.metric == "head_projection@fixed-1"


def test_the_table():
    lines = table([BAD, NONE])
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 10
    assert lines[2] == (
        f"| `{BAD.key}` | 12 | 12 | 0.90 [0.79, 1.00] | 0.50 | 1.00 | 0.67 | 7 | ‡ |"
    )
    assert lines[3] == f"| `{NONE.key}` | 12 | 0 |" + " not measured |" * 4 + " 0 |  |"


def test_the_page_names_what_the_pools_do_not_have():
    """A metric that measures knowledge and is in no row, however it is contained there."""
    key = "privacy/forget.membership_loss@faithful-1.auc@own-1"
    rest = page([replace(GOOD, key=key)], registry())[-1]
    assert rest.startswith("Not measured in these pools: ") and "`contains@own-2`" in rest
    assert "`auc@own-1`" not in rest and "`membership_loss@faithful-1`" not in rest
    assert "`selection@" not in rest and "`seen_gap@" not in rest


def test_the_page_before_anything_was_measured():
    assert page([], registry())[-1].startswith("Not measured yet")


def test_the_stored_table_is_shown_with_the_metrics(monkeypatch):
    """Generated again, the page has the table that was measured."""
    assert [row.key for row in measured() if f"`{row.key}`" not in markdown()] == []
    monkeypatch.setattr(trust, "measured", lambda: [BAD])
    assert f"| `{BAD.key}` | 12 | 12 | 0.90 [0.79, 1.00] |" in markdown()


@pytest.mark.parametrize("row", measured(), ids=lambda row: row.key)
def test_the_stored_rows_are_of_metrics_that_there_are(row):
    assert registry()[row.metric].knowledge is not None
