"""A wall clock that a test sets by hand: no test sleeps. Not here: clocks of the program."""

from __future__ import annotations

from dataclasses import dataclass

#: 2026-03-01T00:00:00Z, a day's first millisecond.
START_MS = 1_772_323_200_000


@dataclass(slots=True)
class ManualClock:
    """`ports.Clock` that stands still until it is moved."""

    ms: int = START_MS

    def now_ms(self) -> int:
        """The time that was set."""
        return self.ms

    def advance(self, ms: int) -> None:
        """Move the clock on by `ms`."""
        self.ms += ms
