"""Runs of positions against a plain set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from audit_platform.adapters.spool.runs import Runs

runs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12)


def _set(pairs: list[tuple[int, int]]) -> set[int]:
    return {position for first, after in pairs for position in range(first, after)}


@given(runs, st.integers(0, 40), st.integers(0, 40))
def test_runs_are_a_set_of_positions_kept_apart(
    pairs: list[tuple[int, int]], first: int, after: int
) -> None:
    found = Runs(pairs)
    assert _set(found.all()) == _set(pairs)
    assert all(a[1] < b[0] for a, b in zip(found.all(), found.all()[1:], strict=False))
    assert found.covers(first, after) == (set(range(first, after)) <= _set(pairs))
    assert found.end == max(_set(pairs), default=-1) + 1
    found.forget_below(first)
    assert _set(found.all()) == {position for position in _set(pairs) if position >= first}
