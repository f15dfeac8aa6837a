"""Events as columns, and from columns back to the exact bytes.

`canonical_lines` and `stored_lines` rebuild events; `digests.py` hashes them.
Belongs here: the columns of an event and conversions of whole columns. Does not: the way in
(`lines.py`), Parquet options (`landing.py`, `sealed.py`), verdicts (`chain.py`).
Source: design section 3 (fields, canonical event), 5 (columns); `docs/formats.md`.

Sizes: a call works on one buffer of lines or one block of rows; the caller bounds it (a rebuilt
column holds at most 2 GiB, Arrow's 32-bit offsets). `blocks` cuts rows to such blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.record.windows import (
    BEFORE,
    BEHIND,
    FIRST,
    TIME_BYTES,
    WIDTH,
    Window,
    last_window,
)

#: 32 hash bytes a row, shape (n, 32).
Hashes = npt.NDArray[np.uint8]
#: ASCII text of one width, a row for each: hex digits of hashes, shape (n, 64).
Digits = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TIMESTAMP: Final = pa.timestamp("ms", tz="UTC")
HASH: Final = pa.binary(32)

#: The event as typed columns, without what its place tells (tenant) or what can be derived
#: (checksum). `prev_hash` and `event_hash` are raw 32 bytes.
EVENT_FIELDS: Final[tuple[pa.Field, ...]] = (
    pa.field("hospital_id", pa.string()),
    pa.field("device_id", pa.string()),
    pa.field("chain_id", pa.string()),
    pa.field("event_type", pa.string()),
    pa.field("event_version", pa.int32()),
    pa.field("event_id", pa.string()),
    pa.field("event_time", TIMESTAMP),
    pa.field("ingestion_time", TIMESTAMP),
    pa.field("sequence_number", pa.int64()),
    pa.field("schema_ref", pa.string()),
    pa.field("criticality", pa.string()),
    pa.field("payload", pa.string()),
    pa.field("prev_hash", HASH),
    pa.field("event_hash", HASH),
)
EVENT_SCHEMA: Final = pa.schema(EVENT_FIELDS)

#: Rebuilt text of one block stays far below Arrow's 2 GiB offsets and within memory limits.
MAX_BLOCK_BYTES: Final = 128 * 1024 * 1024
#: What a canonical line holds besides its payload, at most (ids of 128, hashes, labels).
_ENVELOPE_BYTES: Final = 1100

#: The two hex digits of a byte as one 16-bit word, so that a look-up writes both.
_HEX_OF_BYTE: Final = np.frombuffer(
    "".join(f"{b:02x}" for b in range(256)).encode(), dtype=np.uint16
)


def _digits(numbers: range, width: int) -> npt.NDArray[np.uint8]:
    text = "".join(f"{n:0{width}d}" for n in numbers).encode()
    return np.frombuffer(text, dtype=np.uint8).reshape(len(numbers), width)


_TWO: Final = _digits(range(100), 2)
_THREE: Final = _digits(range(1000), 3)
_FOUR: Final = _digits(range(10_000), 4)


# ------------------------------------------------------------------------------ text and bytes


def fixed_text(rows: npt.NDArray[np.uint8]) -> pa.StringArray:
    """ASCII text of equal width, shape (n, width), as a string column."""
    n, width = rows.shape
    offsets = np.arange(0, (n + 1) * width, width or 1, dtype=np.int32)[: n + 1]
    data = np.ascontiguousarray(rows)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(data))


def hex_text(hashes: Hashes) -> pa.StringArray:
    """Lower hex of each hash as a string column of 64 characters."""
    return fixed_text(_hex_digits(hashes))


def _hex_digits(hashes: Hashes) -> Digits:
    return _HEX_OF_BYTE[hashes].view(np.uint8).reshape(len(hashes), 64)


def texts_at(column: pa.Array, rows: npt.NDArray[np.int64]) -> list[str]:
    """Values of a string column for people and comparisons, also where they are not UTF-8."""
    values: list[bytes] = column.take(pa.array(rows)).cast(pa.binary()).to_pylist()
    return [value.decode("utf-8", errors="backslashreplace") for value in values]


def text_at(column: pa.Array, row: int) -> str:
    """One such value; many are cheaper together."""
    return texts_at(column, np.array([row], dtype=np.int64))[0]


def hash_column(hashes: Hashes) -> pa.FixedSizeBinaryArray:
    """Hashes as a `fixed_size_binary(32)` column."""
    data = pa.py_buffer(np.ascontiguousarray(hashes))
    return pa.Array.from_buffers(HASH, len(hashes), [None, data])


def hashes_of(column: pa.Array) -> Hashes:
    """A `fixed_size_binary(32)` column as (n, 32) bytes; rows that are null read as zeros."""
    n = len(column)
    buffer = column.buffers()[1]
    if n == 0 or buffer is None:
        return np.zeros((n, 32), dtype=np.uint8)
    start = column.offset * 32
    out = np.frombuffer(buffer, dtype=np.uint8)[start : start + n * 32].reshape(n, 32)
    if column.null_count:
        out = out.copy()
        out[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return out


def ints_of(column: pa.Array) -> Ints:
    """An integer or timestamp column without nulls as int64."""
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())  # a cast costs as much as converting a thousand rows
    return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)


# --------------------------------------------------------------------------------------- times


def time_text(ms: Ints) -> pa.StringArray:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ` for milliseconds since 1970, years 0001 to 9999."""
    return fixed_text(_time_bytes(ms))


def _time_bytes(ms: Ints) -> npt.NDArray[np.uint8]:
    days, in_day = np.divmod(ms, 86_400_000)
    seconds, millis = np.divmod(in_day.astype(np.int32), np.int32(1000))
    minutes, second = np.divmod(seconds, np.int32(60))
    hour, minute = np.divmod(minutes, np.int32(60))
    out = np.empty((len(ms), TIME_BYTES), dtype=np.uint8)
    out[:, :10] = _date_text(days)
    out[:, 10] = ord("T")
    out[:, 11:13] = _TWO[hour]
    out[:, 13] = ord(":")
    out[:, 14:16] = _TWO[minute]
    out[:, 16] = ord(":")
    out[:, 17:19] = _TWO[second]
    out[:, 19] = ord(".")
    out[:, 20:23] = _THREE[millis]
    out[:, 23] = ord("Z")
    return out


def _date_text(days: Ints) -> npt.NDArray[np.uint8]:
    # Few different days in a block: format each once. Civil-from-days after H. Hinnant,
    # "chrono-compatible low-level date algorithms".
    is_one = len(days) > 0 and (days == days[0]).all()  # and nearly always one
    unique, inverse = (days[:1], 0) if is_one else np.unique(days, return_inverse=True)
    z = unique + 719_468
    era = z // 146_097
    doe = z - era * 146_097
    yoe = (doe - doe // 1460 + doe // 36_524 - doe // 146_096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    day = doy - (153 * mp + 2) // 5 + 1
    month = np.where(mp < 10, mp + 3, mp - 9)
    year = np.clip(yoe + era * 400 + (month <= 2), 0, 9999)
    out = np.empty((len(unique), 10), dtype=np.uint8)
    out[:, :4] = _FOUR[year]
    out[:, 4] = ord("-")
    out[:, 5:7] = _TWO[month]
    out[:, 7] = ord("-")
    out[:, 8:] = _TWO[day]
    return out[inverse]


# ------------------------------------------------------------------------------------- rebuild


def canonical_lines(
    rows: pa.RecordBatch, *, tenant_id: str, checksum: Digits, prev_hash: Hashes
) -> pa.StringArray:
    """The canonical event of each row, rebuilt (no `ingestionTime`, no line end).

    `checksum` has the 64 hex digits of each payload's SHA-256 (`digests.sha256_hex`).
    """
    return _join(rows, tenant_id, checksum, prev_hash, [BEFORE["payload"]])


def stored_lines(
    rows: pa.RecordBatch, *, tenant_id: str, checksum: Digits, prev_hash: Hashes
) -> pa.StringArray:
    """The stored event of each row, rebuilt (with `ingestionTime`, no line end); see above."""
    ingestion = _time_bytes(ints_of(rows["ingestion_time"]))
    between = _filled(BEHIND["hospital_id"], {"ingestion_time": ingestion})
    return _join(rows, tenant_id, checksum, prev_hash, between)


#: What `binary_join_element_wise` takes: the same text for all rows, or a column.
_Piece: TypeAlias = bytes | str | pa.Array


def _join(
    rows: pa.RecordBatch,
    tenant_id: str,
    checksum: Digits,
    prev_hash: Hashes,
    before_payload: Sequence[_Piece],
) -> pa.StringArray:
    # Few long pieces: each piece of a row costs about 0.03 us, whatever it holds.
    event_time = _time_bytes(ints_of(rows["event_time"]))
    pieces: list[_Piece] = [
        *_filled(FIRST, {"chain_id": rows["chain_id"], "checksum": checksum}),
        rows["criticality"],
        *BEHIND["criticality"].pieces,
        rows["device_id"],
        *_filled(BEHIND["device_id"], {"event_id": rows["event_id"], "event_time": event_time}),
        rows["event_type"],
        *BEHIND["event_type"].pieces,
        rows["event_version"].cast(pa.string()),
        *BEHIND["event_version"].pieces,
        rows["hospital_id"],
        *before_payload,
        rows["payload"],
        *_filled(BEHIND["payload"], {"prev_hash": _hex_digits(prev_hash)}),
        rows["schema_ref"],
        *BEHIND["schema_ref"].pieces,
        rows["sequence_number"].cast(pa.string()),
        *last_window(tenant_id).pieces,
    ]
    texts = [p.decode() if isinstance(p, bytes) else p for p in pieces]
    return pc.binary_join_element_wise(*texts, "")


def _filled(window: Window, values: Mapping[str, Digits | pa.StringArray]) -> list[_Piece]:
    """A window as one column; as several where a text has not the width that it should have."""
    fixed = {
        name: _of_width(value, WIDTH[name]) if isinstance(value, pa.Array) else value
        for name, value in values.items()
    }
    whole = {name: value for name, value in fixed.items() if value is not None}
    if len(whole) == len(values):
        return [fixed_text(window.filled(whole))]
    pieces: list[_Piece] = []
    for piece in window.pieces:
        value = piece if isinstance(piece, bytes) else values[piece]
        pieces.append(fixed_text(value) if isinstance(value, np.ndarray) else value)
    return pieces


def _of_width(column: pa.StringArray, width: int) -> Digits | None:
    """A column of texts that all have `width` bytes, shape (n, width); None where one has not."""
    n = len(column)
    if n == 0 or column.null_count:
        return None
    ends = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + n + 1]
    if (ends[1:] - ends[:-1] != width).any():
        return None
    return np.frombuffer(column.buffers()[2], np.uint8)[ends[0] : ends[-1]].reshape(n, width)


def blocks(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut rows into consecutive blocks whose rebuilt lines stay under `MAX_BLOCK_BYTES`."""
    payload = rows["payload"]
    if not len(payload):
        return
    ends = np.frombuffer(payload.buffers()[1], dtype=np.int32)
    ends = ends[payload.offset : payload.offset + len(payload) + 1].astype(np.int64)
    sizes = ends - ends[0] + np.arange(len(ends), dtype=np.int64) * _ENVELOPE_BYTES
    start = 0
    while start < len(payload):
        end = int(np.searchsorted(sizes, sizes[start] + MAX_BLOCK_BYTES, side="right")) - 1
        end = max(end, start + 1)
        yield rows.slice(start, end - start)
        start = end
