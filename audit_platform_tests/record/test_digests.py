"""Many digests at once are the digests that hashlib gives, whatever the bytes are."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record.digests import digests_of, sha256_column, sha256_hex, sha256_rows


def _each(values: list[bytes]) -> list[bytes]:
    return [hashlib.sha256(value).digest() for value in values]


def test_the_digest_of_abc_is_that_of_fips_180() -> None:
    (digest,) = sha256_column(pa.array(["abc"]))
    assert digest.tobytes().hex() == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@given(st.lists(st.binary(max_size=200)), st.integers(0, 5), st.integers(0, 5))
def test_any_bytes_of_any_slice_hash_as_hashlib_does(
    values: list[bytes], start: int, length: int
) -> None:
    column = pa.array(values, pa.binary())
    assert [d.tobytes() for d in sha256_column(column)] == _each(values)
    part = column.slice(start, length)
    assert [d.tobytes() for d in sha256_column(part)] == _each(values[start : start + length])


@given(st.lists(st.lists(st.binary(max_size=80), max_size=4), min_size=1, max_size=3))
def test_digits_of_a_column_in_pieces_are_those_of_its_values(pieces: list[list[bytes]]) -> None:
    column = pa.chunked_array([pa.array(piece, pa.binary()) for piece in pieces])
    digits = sha256_hex(column)
    wanted = _each([value for piece in pieces for value in piece])
    assert [d.tobytes().decode() for d in digits] == [value.hex() for value in wanted]
    assert [d.tobytes() for d in digests_of(digits)] == wanted


def test_text_that_is_not_utf8_is_hashed_as_it_is() -> None:
    data = b"\xff\xfe"
    column = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(data)]
    )
    assert sha256_column(column)[0].tobytes() == hashlib.sha256(data).digest()


def test_a_null_counts_as_empty() -> None:
    for kind in (pa.string(), pa.binary()):
        digests = sha256_column(pa.array([None, b"x"], pa.binary()).cast(kind))
        assert [d.tobytes() for d in digests] == _each([b"", b"x"])


@given(st.integers(0, 9), st.integers(1, 70))
def test_rows_of_equal_width_hash_as_hashlib_does(n: int, width: int) -> None:
    rows = np.frombuffer(np.random.default_rng(n * 71 + width).bytes(n * width), np.uint8)
    rows = rows.reshape(n, width)
    assert [d.tobytes() for d in sha256_rows(rows)] == _each([r.tobytes() for r in rows])
