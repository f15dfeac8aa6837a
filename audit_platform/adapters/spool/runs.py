"""A set of positions, kept as half-open runs that do not touch.

Belongs here: adding to it and asking it. Does not: what the positions mean (`shelf.py`).
Source: `README.md` beside this file.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable


class Runs:
    """Positions as ascending runs `first`..`next`, each apart from the others."""

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        self._first: list[int] = []
        self._next: list[int] = []
        for first, after in runs:
            self.add(first, after)

    def add(self, first: int, after: int) -> None:
        """Add `first`..`after`; an empty run adds nothing."""
        if first >= after:
            return
        low = bisect.bisect_left(self._next, first)  # runs that touch are joined
        high = bisect.bisect_right(self._first, after)
        if low < high:
            first = min(first, self._first[low])
            after = max(after, self._next[high - 1])
        self._first[low:high] = [first]
        self._next[low:high] = [after]

    def covers(self, first: int, after: int) -> bool:
        """Whether every position of `first`..`after` is in the set."""
        if first >= after:
            return True
        at = bisect.bisect_right(self._first, first) - 1
        return at >= 0 and self._next[at] >= after

    def forget_below(self, position: int) -> None:
        """Take out everything below `position`."""
        at = bisect.bisect_right(self._next, position)
        del self._first[:at], self._next[:at]
        if self._first and self._first[0] < position:
            self._first[0] = position

    @property
    def end(self) -> int:
        """Position after the last one, or 0."""
        return self._next[-1] if self._next else 0

    def all(self) -> list[tuple[int, int]]:
        """The runs, ascending."""
        return list(zip(self._first, self._next, strict=True))
