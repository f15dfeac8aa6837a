"""Numbers, times and hashes are taken only in the one form that encodes back to itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit_platform.record.columns import time_text
from audit_platform.record.fields import (
    MAX_DIGITS,
    TIME_BYTES,
    hashes_in,
    numbers_in,
    times_in,
)
from audit_platform.record.times import format_time_ms, parse_time_ms

FIRST_MS = -62_135_596_800_000
LAST_MS = 253_402_300_799_999


def rows_of(texts: list[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(texts), np.uint8).reshape(len(texts), -1)


@st.composite
def nearly_times(draw: st.DrawFn) -> bytes:
    """A time, with up to three bytes that make it another one or none."""
    ms = draw(st.integers(FIRST_MS, LAST_MS))
    text = bytearray(time_text(np.array([ms]))[0].as_py().encode())
    for _ in range(draw(st.integers(0, 3))):
        text[draw(st.integers(0, 23))] = draw(st.sampled_from(b"0123456789") | st.integers(0, 255))
    return bytes(text)


@given(st.lists(nearly_times() | st.binary(min_size=24, max_size=24), min_size=1, max_size=20))
@example([b"2024-02-29T00:00:00.000Z", b"2023-02-29T00:00:00.000Z", b"2100-02-29T23:59:59.999Z"])
@example([b"0000-12-31T23:59:59.999Z", b"0001-01-01T00:00:00.000Z", b"9999-12-31T23:59:59.999Z"])
@example([b"2024-04-31T00:00:00.000Z", b"2024-13-01T00:00:00.000Z", b"2024-00-01T00:00:00.000Z"])
@example([b"2024-01-00T00:00:00.000Z", b"2024-01-01T24:00:00.000Z", b"2024-01-01T00:60:00.000Z"])
@example([b"2024-12-31T23:59:60.000Z", b"2024-12-32T00:00:00.000Z", b"9999-13-01T00:00:00.000Z"])
def test_a_time_is_good_only_if_its_value_is_written_so(texts: list[bytes]) -> None:
    values, good = times_in(rows_of(texts))
    for text, ms, is_good in zip(texts, values.tolist(), good.tolist(), strict=True):
        try:
            wanted = parse_time_ms(text.decode())
        except ValueError:
            assert not is_good
        else:
            assert is_good
            assert ms == wanted
            assert format_time_ms(ms).encode() == text


@given(
    st.lists(
        st.text("0123456789", min_size=1, max_size=16).map(str.encode)
        | st.integers(0, 10**16 - 1).map(lambda n: str(n).encode())
        | st.binary(min_size=1, max_size=16),
        min_size=1,
        max_size=20,
    )
)
@example([b"0", b"00", b"01", b"-1", b"+1", b"1 ", b"9" * 16, b"10000000", b"9" * 8, b"1" * 9])
def test_a_number_is_good_only_if_its_value_is_written_so(texts: list[bytes]) -> None:
    # What stands before a number is not looked at.
    windows = rows_of([(b'7"' * 8 + text)[-MAX_DIGITS:] for text in texts])
    values, good = numbers_in(windows, np.array([len(text) for text in texts]))
    for text, value, is_good in zip(texts, values.tolist(), good.tolist(), strict=True):
        assert is_good == (text.isdigit() and str(int(text)).encode() == text)
        assert not is_good or value == int(text)


@given(
    st.lists(
        st.binary(min_size=32, max_size=32).map(lambda b: b.hex().encode()),
        min_size=1,
        max_size=5,
    ),
    st.data(),
)
def test_a_hash_is_good_only_in_lower_hex(texts: list[bytes], data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        changed = bytearray(texts[0])
        changed[data.draw(st.integers(0, 63))] = data.draw(
            st.integers(0, 255) | st.sampled_from(b"ABCDEF/:@`g")
        )
        texts[0] = bytes(changed)
    values, good = hashes_in(rows_of(texts))
    for text, value, is_good in zip(texts, values, good.tolist(), strict=True):
        assert is_good == all(c in b"0123456789abcdef" for c in text)
        assert not is_good or value.tobytes().hex().encode() == text


@pytest.mark.parametrize("place", range(TIME_BYTES))
def test_each_byte_of_a_time_counts(place: int) -> None:
    text = bytearray(b"2026-11-24T12:34:56.789Z")
    texts = []
    for byte in range(256):
        text[place] = byte
        texts.append(bytes(text))
    values, good = times_in(rows_of(texts))
    written = [t.encode() for t in time_text(values[good]).to_pylist()]
    assert written == [text for text, is_good in zip(texts, good, strict=True) if is_good]
    assert 1 <= good.sum() <= 10
