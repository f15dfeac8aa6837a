"""Old leaves among new ones: found in order, whatever the blocks; each that is missing counted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record.leaves import Leaves, kept


def blocks(numbers: list[int], size: int) -> Iterator[Leaves]:
    """Leaves that are told apart by a number, in blocks of `size`."""
    for i in range(0, len(numbers), size):
        data = np.zeros((len(numbers[i : i + size]), 40), dtype=np.uint8)
        data[:, :4] = np.array(numbers[i : i + size], dtype=">u4").view(np.uint8).reshape(-1, 4)
        yield data.view("V40").ravel()


@given(
    st.sets(st.integers(1, 200)), st.sets(st.integers(1, 200)), st.integers(1, 9), st.integers(1, 9)
)
def test_every_missing_leaf_is_counted_and_the_first_is_named(
    old: set[int], new: set[int], old_size: int, new_size: int
) -> None:
    found = kept(lambda: blocks(sorted(old), old_size), lambda: blocks(sorted(new), new_size))
    lacking = sorted(old - new)
    assert (found.old, found.missing) == (len(old), len(lacking))
    first = lacking[0].to_bytes(4, "big").hex() + "00" * 28 if lacking else ""
    assert found.first_missing == first


def test_a_leaf_whose_time_was_changed_is_missing() -> None:
    (old,) = blocks([1, 2, 3], 3)
    new = old.copy()
    new.view(np.uint8).reshape(-1, 40)[1, 39] = 1  # the last byte of its ingestionTime
    assert kept(lambda: iter([old]), lambda: iter([new])).missing == 1
