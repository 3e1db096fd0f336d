"""Progress of long work: a bar on a terminal, plain lines in a job's log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from atu.distributed import processes

LINE_EVERY_SECONDS = 5.0


class Progress:
    """Counts steps of one labelled piece of work and shows values such as the loss.

    On a terminal it is a tqdm bar; elsewhere one line at the start of every interval and at the
    end, with step, values and rate, so that a log file stays readable.
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self._before = done
        self._start = self._last = time.monotonic()
        self._shown = processes.is_rank_zero()
        terminal = self._shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, desc=label) if terminal else None

    def update(self, values: Mapping[str, float] | None = None, count: int = 1) -> None:
        """Count `count` steps and show `values`."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix({k: f"{v:.4g}" for k, v in (values or {}).items()}, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if not self._shown:
            return
        if self.done >= self.total or now - self._last >= LINE_EVERY_SECONDS:
            self._last = now
            self._line(values or {}, now)

    def _line(self, values: Mapping[str, float], now: float) -> None:
        rate = (self.done - self._before) / max(now - self._start, 1e-9)
        shown = "".join(f"  {name} {value:.4g}" for name, value in values.items())
        print(
            f"{self.label}: step {self.done}/{self.total}{shown}  {rate:.1f}/s",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
