"""Closed intervals of sequences: merged, cut, taken from each other.

Belongs here: that arithmetic. Does not: what the sequences mean (`linking.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from audit_platform.record.canonical import MAX_SAFE_INTEGER

#: Closed intervals of sequences, in order, neither touching nor overlapping.
Intervals = list[tuple[int, int]]


def merged(intervals: Iterable[tuple[int, int]]) -> Intervals:
    """Any intervals, put in order."""
    out: Intervals = []
    for first, last in sorted(intervals):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(last, out[-1][1]))
        else:
            out.append((first, last))
    return out


def common(intervals: Intervals, of: Intervals) -> Intervals:
    """What lies in both."""
    out: Intervals = []
    for first, last in of:
        at = max(0, bisect_right(intervals, (first, MAX_SAFE_INTEGER)) - 1)
        while at < len(intervals) and intervals[at][0] <= last:
            low, high = max(first, intervals[at][0]), min(last, intervals[at][1])
            if low <= high:
                out.append((low, high))
            at += 1
    return out


def without(intervals: Intervals, taken: Intervals) -> Intervals:
    """What lies in `intervals` and not in `taken`."""
    rest: Intervals = []
    for first, last in intervals:
        at = first
        for low, high in common(taken, [(first, last)]):
            if at < low:
                rest.append((at, low - 1))
            at = high + 1
        if at <= last:
            rest.append((at, last))
    return rest
