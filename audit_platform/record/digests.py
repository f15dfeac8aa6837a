"""SHA-256 of many short values at once.

Belongs here: columns and rows in, digests out. Does not: what is hashed (`columns.py`,
`merkle.py`), single values (`hashlib`; a call here costs 0.1 ms).

By polars-hash, a Rust plug-in of Polars: a call of hashlib costs about 0.6 us beside the hashing
itself, more than the hashing of most values here (figures in `docs/benchmarks.md`). Equal results
with hashlib are a property test. Everything goes in as binary: text that was tampered with need not
be UTF-8, and Polars believes what Arrow says of text.
"""

from __future__ import annotations

import binascii
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import polars_hash as plh
import pyarrow as pa

DIGEST_BYTES: Final = 32

_SHA256: Final = plh.col("value").chash.sha2_256()


def sha256_column(column: pa.Array) -> npt.NDArray[np.uint8]:
    """SHA-256 of each value of a string or binary column, shape (n, 32). A null counts as empty."""
    return digests_of(sha256_hex(column))


def sha256_hex(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """The same as 64 lower hex digits each, shape (n, 64); also of a column in several chunks."""
    if column.null_count:
        column = column.fill_null("" if pa.types.is_string(column.type) else b"")
    return _digits(column.cast(pa.binary()))


def sha256_rows(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """SHA-256 of each row of an (n, width) array, shape (n, 32)."""
    n, width = rows.shape
    offsets = np.arange(n + 1, dtype=np.int64) * width
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    return digests_of(_digits(pa.Array.from_buffers(pa.large_binary(), n, buffers)))


def digests_of(digits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """32 bytes from each row of 64 hex digits. `binascii.Error` for others."""
    data = binascii.unhexlify(np.ascontiguousarray(digits).data)
    return np.frombuffer(data, dtype=np.uint8).reshape(len(digits), DIGEST_BYTES)


def _digits(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    n = len(values)
    if n == 0:
        return np.zeros((0, 2 * DIGEST_BYTES), dtype=np.uint8)
    frame = pl.Series("value", values).to_frame()
    digits = frame.select(_SHA256)["value"].to_arrow(compat_level=pl.CompatLevel.oldest())
    first = digits.offset * 2 * DIGEST_BYTES
    text = memoryview(digits.buffers()[2])[first : first + n * 2 * DIGEST_BYTES]
    return np.frombuffer(text, dtype=np.uint8).reshape(n, 2 * DIGEST_BYTES)
