"""The one list of what differs from official code on purpose."""

import pytest
from official import FOLDER, cases

from atu.metrics.differences import DIFFERENCES
from atu.metrics.registry import markdown

IDS = [name for path in FOLDER.glob("*.json") for name in cases(path.stem)]


def test_the_list_is_short():
    assert len(DIFFERENCES) < 15


@pytest.mark.parametrize("line", DIFFERENCES, ids=lambda line: line.cases[0])
def test_every_line_is_about_a_case_and_says_why(line):
    """And stands in docs/metrics.md. Patterns also name the same kind in other groups."""
    assert any(line.covers(name) for name in IDS)
    assert line.official and line.ours and line.reason
    assert f"| {line.reason.replace('|', chr(92) + '|')} |" in markdown()


def test_a_line_covers_what_its_patterns_name():
    line = next(line for line in DIFFERENCES if "ou.privleak.*" in line.cases)
    assert line.covers("ou.privleak.retrained_is_one")
    assert not line.covers("muse.privleak.middle")
