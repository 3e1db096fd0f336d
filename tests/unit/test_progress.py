import io
import sys

import pytest

from atu import progress
from atu.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_log_lines_every_interval_and_at_the_end(clock, capsys):
    """12 steps of one second each with a line every 5 seconds: after steps 5, 10 and 12."""
    work = Progress("align", 12)
    for step in range(1, 13):
        clock[0] += 1
        work.update({"loss": 1 / step})
    work.close()
    assert capsys.readouterr().err.splitlines() == [
        "align: step 5/12  loss 0.2  1.0/s",
        "align: step 10/12  loss 0.1  1.0/s",
        "align: step 12/12  loss 0.08333  1.0/s",
    ]


def test_steps_can_be_counted_in_bulk(clock, capsys):
    """Two batches of 3 within 2 seconds: only the end is shown, at 6 / 2 = 3.0 per second."""
    work = Progress("embed", 6)
    clock[0] += 2
    work.update(count=3)
    assert capsys.readouterr().err == ""
    work.update(count=3)
    assert capsys.readouterr().err == "embed: step 6/6  3.0/s\n"


def test_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    work = Progress("unlearn", 2)
    work.update({"loss": 0.25})
    work.update({"loss": 0.5})
    work.close()
    text = screen.getvalue()
    assert "unlearn" in text and "2/2" in text and "loss=0.5" in text
    assert "step 2/2" not in text
