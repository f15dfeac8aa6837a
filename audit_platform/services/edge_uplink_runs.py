"""Runs of spool positions: many positions in little memory.

Belongs here: the set. Does not: what a run means (`edge_uplink_lanes.py`, `edge_uplink.py`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Runs:
    """A set of whole numbers as half-open runs, ascending, apart from each other."""

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in runs:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __len__(self) -> int:
        """How many runs."""
        return len(self._starts)

    def __contains__(self, number: int) -> bool:
        return self.end_of(number) > number

    def count(self) -> int:
        """How many numbers."""
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add `start <= n < end`."""
        if start >= end:
            return
        # All runs that touch the new one become part of it.
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def discard_below(self, limit: int) -> None:
        """Take away every number below `limit`."""
        gone = bisect_right(self._ends, limit)
        del self._starts[:gone], self._ends[:gone]
        if self._starts:
            self._starts[0] = max(self._starts[0], limit)

    def end_of(self, number: int) -> int:
        """The end of the run that holds `number`; `number` itself when none does."""
        at = bisect_right(self._starts, number) - 1
        return max(self._ends[at], number) if at >= 0 else number

    def next_start(self, number: int, default: int) -> int:
        """The start of the first run after `number`, or `default`."""
        at = bisect_right(self._starts, number)
        return self._starts[at] if at < len(self._starts) else default

    def first(self) -> tuple[int, int] | None:
        """The lowest run, or None."""
        return (self._starts[0], self._ends[0]) if self._starts else None
