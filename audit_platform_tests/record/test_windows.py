"""Windows: labels are seen at their place, quotes in values are seen, filled ones stand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record.windows import BEHIND, FIRST, WIDTH, Window, last_window

WINDOWS = {"first": FIRST, "last": last_window("north-1"), **BEHIND}


def rows_of(window: Window, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Good rows with values of letters, as wide as they are looked at."""
    values = {name: np.full((count, WIDTH[name]), ord("a"), np.uint8) for name in window.at}
    if values:
        filled = window.filled(values)
    else:
        (label,) = window.pieces
        assert isinstance(label, bytes)
        filled = np.tile(np.frombuffer(label, np.uint8), (count, 1))
    rows = np.full((count, window.width), ord('"'), np.uint8)  # what is too much may be anything
    if window is WINDOWS["last"]:
        rows[:, window.width - window.size :] = filled
    else:
        rows[:, : window.size] = filled
    return rows


@pytest.mark.parametrize("name", WINDOWS)
def test_a_filled_window_stands(name: str) -> None:
    window = WINDOWS[name]
    assert window.stand_in(rows_of(window, 3)).all()
    for value in window.at:
        assert (window.value(value, rows_of(window, 3)) == ord("a")).all()


@given(st.sampled_from(sorted(WINDOWS)), st.data())
def test_a_changed_label_or_a_quote_in_a_value_is_seen_in_its_row(
    name: str, data: st.DataObject
) -> None:
    window = WINDOWS[name]
    rows = rows_of(window, 4)
    first = window.width - window.size if window is WINDOWS["last"] else 0
    at = data.draw(st.integers(0, window.size - 1))
    row = data.draw(st.integers(0, 3))
    is_value = any(begin <= at < begin + WIDTH[v] for v, begin in window.at.items())
    if is_value:
        rows[row, first + at] = ord('"')
    else:
        rows[row, first + at] ^= data.draw(st.integers(1, 255))
    good = window.stand_in(rows)
    assert good.tolist() == [i != row for i in range(4)]


def test_labels_and_values_are_those_of_a_line() -> None:
    values = {
        name: np.full((1, WIDTH[name]), ord("0"), np.uint8) for name in ("chain_id", "checksum")
    }
    assert FIRST.filled(values).tobytes() == (
        b'{"chainId":"' + b"0" * 16 + b'","checksum":"' + b"0" * 64 + b'","criticality":"'
    )
