"""Runs of positions are a set of numbers."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from audit_platform.services.edge_uplink_runs import Runs

spans = st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda s: (s[0], s[0] + s[1]))
changes = st.lists(st.tuples(st.just("add"), spans) | st.tuples(st.just("below"), spans))


@given(changes)
def test_runs_are_the_set_of_their_numbers(done: list[tuple[str, tuple[int, int]]]) -> None:
    runs, model = Runs(), set[int]()
    for what, (start, end) in done:
        if what == "add":
            runs.add(start, end)
            model |= set(range(start, end))
        else:
            runs.discard_below(start)
            model -= set(range(start))
    found = list(runs)
    assert [n for a, b in found for n in range(a, b)] == sorted(model)
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(found))
    assert all(a < b for a, b in found)
    assert (len(runs), bool(runs), runs.count()) == (len(found), bool(model), len(model))
    assert runs.first() == (found[0] if found else None)
    for n in range(40):
        assert (n in runs) == (n in model)
        end = next(e for e in range(n, 80) if e not in model)
        assert runs.end_of(n) == end
        assert runs.next_start(n, 99) == next((a for a, _ in found if a > n), 99)
