"""Stored events as they stand in a log record: newline-delimited text, parsed into columns.

`parse_stored` finds the fields by the positions of the quotes (envelope values hold none) and
*proves* each row: it rebuilds the stored line from the columns and compares, so that nothing can be
lost on the way into Parquet. Belongs here: the fixed shape of a stored line. Does not: the columns
and the way back (`columns.py`), judgement of a single event (`event.py`).
Source: design section 3 (stored event), 5 (the writer proves that columns rebuild the line).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import sliding_window_view

from audit_platform.record.columns import (
    EVENT_FIELDS,
    EVENT_SCHEMA,
    TIMESTAMP,
    Hashes,
    Ints,
    Mask,
    fixed_text,
    hash_column,
    ints_of,
    stored_lines,
)
from audit_platform.record.digests import sha256_column

#: Lines parsed at a time: temporary columns of this many stay in the processor's cache
#: (measured: 7 refs an event at 2 MiB, 12 at 32 MiB).
_CHUNK_BYTES: Final = 2 * 1024 * 1024

#: 0001-01-01T00:00:00.000Z: the first time that the record's text form stands for.
FIRST_MS: Final = -62_135_596_800_000

_INGESTION_LABEL: Final = ',"ingestionTime":"'

_QUOTE: Final = 34
_NEWLINE: Final = 10
_ZERO: Final = 48
#: Quotes before the payload, and after it, in a stored line (see `_FROM_START`, `_FROM_END`).
_QUOTES_BEFORE: Final = 40
_QUOTES_AFTER: Final = 14
_MAX_DIGITS: Final = 16

# Position of the opening quote of each value, counted in quotes from the line's first quote.
_FROM_START: Final = {
    "chain_id": 2,
    "checksum": 6,
    "criticality": 10,
    "device_id": 14,
    "event_id": 18,
    "event_time": 22,
    "event_type": 26,
    "hospital_id": 32,
    "ingestion_time": 36,
}
# The same, counted back from one past the line's last quote.
_FROM_END: Final = {"prev_hash": 12, "schema_ref": 8, "tenant_id": 2}
_WIDTH: Final = {
    "chain_id": 16,
    "checksum": 64,
    "event_id": 36,
    "event_time": 24,
    "ingestion_time": 24,
    "prev_hash": 64,
}

_NIBBLE: Final = np.full(256, 255, dtype=np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16, dtype=np.uint8)
_POWERS: Final = 10 ** np.arange(_MAX_DIGITS - 1, -1, -1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ParsedLines:
    """What `parse_stored` found.

    `batch` has `EVENT_SCHEMA`, one row per proved line; `lines` is the 0-based line of each row;
    `bad` holds (line, bytes without the line end) of every line that the columns do not rebuild.
    Together they are all lines of the buffer, each exactly once.
    """

    batch: pa.RecordBatch
    lines: npt.NDArray[np.int32]
    bad: list[tuple[int, bytes]]


def parse_stored(value: bytes, tenant_id: str) -> ParsedLines:
    """Parse stored events, one per line, all of one tenant.

    `value` may be several log record values put end to end (fewer, larger calls are cheaper); a
    last line without line end counts as a line. A row is in `batch` only when rebuilding it gives
    the received bytes and its `checksum` is that of its payload; nothing is ever dropped.
    """
    batches: list[pa.RecordBatch] = []
    lines: list[Ints] = []
    bad: list[tuple[int, bytes]] = []
    first_line = 0
    for chunk in _chunks(value):
        batch, kept, count, rest = _Lines(chunk, tenant_id).parse()
        batches.append(batch)
        lines.append(kept + first_line)
        bad += [(first_line + number, raw) for number, raw in rest]
        first_line += count
    if not batches:
        return ParsedLines(_no_rows(), np.zeros(0, np.int32), [])
    return ParsedLines(pa.concat_batches(batches), np.concatenate(lines).astype(np.int32), bad)


def _chunks(value: bytes) -> Iterator[bytes]:
    """Whole lines, about `_CHUNK_BYTES` at a time, each chunk ending with a line end."""
    start = 0
    while start < len(value):
        end = value.find(b"\n", min(start + _CHUNK_BYTES, len(value)) - 1) + 1
        if not end:
            yield value[start:] + b"\n"  # the last line had no line end
            return
        yield value[start:end]
        start = end


class _Lines:
    """One chunk of whole lines while it is parsed."""

    def __init__(self, value: bytes, tenant_id: str) -> None:
        self.value, self.tenant_id = value, tenant_id
        self.data = np.frombuffer(value, dtype=np.uint8)
        self.ends = np.flatnonzero(self.data == _NEWLINE)
        self.starts = np.concatenate([np.zeros(1, dtype=np.int64), self.ends[:-1] + 1])
        self.quotes = np.flatnonzero(self.data == _QUOTE)

    def parse(self) -> tuple[pa.RecordBatch, Ints, int, list[tuple[int, bytes]]]:
        """(proved rows, their line numbers, lines in all, the other lines with their bytes)."""
        first = np.searchsorted(self.quotes, self.starts)
        after = np.searchsorted(self.quotes, self.ends)
        kept = np.flatnonzero(after - first >= _QUOTES_BEFORE + _QUOTES_AFTER)
        kept = kept[self._utf8(kept)]
        batch = _no_rows()
        if len(kept):
            spans = self._spans(first[kept], after[kept])
            good = self._sound(spans)
            kept = kept[good]
            spans = {name: (start[good], end[good]) for name, (start, end) in spans.items()}
        if len(kept):
            rows, proved = self._columns(kept, spans)
            kept = kept[proved]
            batch = rows if proved.all() else rows.filter(pa.array(proved))
        rest = np.setdiff1d(np.arange(len(self.ends)), kept)
        bad = [(int(i), self.value[self.starts[i] : self.ends[i]]) for i in rest]
        return batch, kept, len(self.ends), bad

    @staticmethod
    def _sound(spans: dict[str, tuple[Ints, Ints]]) -> Mask:
        good = np.ones(len(spans["payload"][0]), dtype=np.bool_)
        for name, (start, end) in spans.items():
            good &= end >= start
            if name in _WIDTH:
                good &= end - start == _WIDTH[name]
        for name in ("sequence_number", "event_version"):
            good &= spans[name][1] - spans[name][0] <= _MAX_DIGITS
        return good

    def _utf8(self, kept: Ints) -> Mask:
        try:
            self.value.decode("utf-8")
        except UnicodeDecodeError:
            return np.array(
                [_is_utf8(self.value[self.starts[i] : self.ends[i]]) for i in kept], bool
            )
        return np.ones(len(kept), dtype=np.bool_)

    def _spans(self, first: Ints, after: Ints) -> dict[str, tuple[Ints, Ints]]:
        q = self.quotes
        spans = {name: (q[first + k] + 1, q[first + k + 1]) for name, k in _FROM_START.items()}
        spans |= {name: (q[after - k] + 1, q[after - k + 1]) for name, k in _FROM_END.items()}
        # Numbers and payload stand between `":` and `,"`.
        spans["event_version"] = (q[first + 29] + 2, q[first + 30] - 1)
        spans["payload"] = (q[first + 39] + 2, q[after - 14] - 1)
        spans["sequence_number"] = (q[after - 5] + 2, q[after - 4] - 1)
        return spans

    def _columns(
        self, kept: Ints, spans: dict[str, tuple[Ints, Ints]]
    ) -> tuple[pa.RecordBatch, Mask]:
        prev_hash = self._hashes(spans["prev_hash"][0])
        payload = self._text(*spans["payload"])
        sequence = self._number(*spans["sequence_number"])
        version = self._number(*spans["event_version"])
        columns: dict[str, pa.Array] = {
            "hospital_id": self._text(*spans["hospital_id"]),
            "device_id": self._text(*spans["device_id"]),
            "chain_id": fixed_text(self._fixed(spans["chain_id"][0], 16)),
            "event_type": self._text(*spans["event_type"]),
            "event_version": pa.array(version.clip(0, 2**31 - 1).astype(np.int32)),
            "event_id": fixed_text(self._fixed(spans["event_id"][0], 36)),
            "event_time": pa.array(_time_ms(self._fixed(spans["event_time"][0], 24))).cast(
                TIMESTAMP
            ),
            "ingestion_time": pa.array(_time_ms(self._fixed(spans["ingestion_time"][0], 24))).cast(
                TIMESTAMP
            ),
            "sequence_number": pa.array(sequence),
            "schema_ref": self._text(*spans["schema_ref"]),
            "criticality": self._text(*spans["criticality"]),
            "payload": payload,
            "prev_hash": hash_column(prev_hash),
            "event_hash": hash_column(np.zeros_like(prev_hash)),
        }
        rows = pa.RecordBatch.from_pydict(columns, schema=EVENT_SCHEMA)
        # The proof: the columns, and the checksum that the payload has, must give back the very
        # bytes. What is not lower hex, a number or a time is written otherwise, and differs.
        true_checksum = sha256_column(payload)
        rebuilt = stored_lines(
            rows, tenant_id=self.tenant_id, checksum=true_checksum, prev_hash=prev_hash
        )
        proved = self._is_received(rebuilt, kept)
        for name in ("event_time", "ingestion_time"):
            proved &= ints_of(rows[name]) >= FIRST_MS  # year 0000 would be rebuilt, and is no year
        event_hash = self._event_hashes(kept, *spans["ingestion_time"])
        position = EVENT_SCHEMA.get_field_index("event_hash")
        return rows.set_column(position, EVENT_FIELDS[position], hash_column(event_hash)), proved

    def _is_received(self, rebuilt: pa.StringArray, kept: Ints) -> Mask:
        """Whether each rebuilt line is the received one, byte for byte."""
        starts, ends = self.starts[kept], self.ends[kept]
        if len(kept) == len(self.ends):
            # Nearly always all lines are good: one comparison of everything costs least.
            _, offsets, data = rebuilt.buffers()
            lengths = np.diff(np.frombuffer(offsets, np.int32)[: len(kept) + 1])
            received = np.frombuffer(self.value.replace(b"\n", b""), np.uint8)
            if np.array_equal(lengths, ends - starts) and np.array_equal(
                np.frombuffer(data, np.uint8)[: len(received)], received
            ):
                return np.ones(len(kept), np.bool_)
        equal = pc.equal(rebuilt, self._text(starts, ends))
        return np.asarray(equal.to_numpy(zero_copy_only=False), dtype=np.bool_)

    def _event_hashes(self, kept: Ints, starts: Ints, ends: Ints) -> Hashes:
        """SHA-256 of each line without its `ingestionTime` (the value is at `starts`..`ends`).

        Right for proved lines only: rebuilding canonical lines for it costs 1 ref an event more.
        """
        value, sha256 = self.value, hashlib.sha256
        cuts = zip(
            self.starts[kept].tolist(),
            (starts - len(_INGESTION_LABEL)).tolist(),
            (ends + 1).tolist(),
            self.ends[kept].tolist(),
            strict=True,
        )
        digests = [sha256(value[a:b] + value[c:d]).digest() for a, b, c, d in cuts]
        return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(kept), 32)

    def _fixed(self, starts: Ints, width: int) -> npt.NDArray[np.uint8]:
        # Rows of a strided window: one copy of `width` bytes each, no index matrix.
        rows: npt.NDArray[np.uint8] = sliding_window_view(self.data, width)[starts]
        return rows

    def _hashes(self, starts: Ints) -> Hashes:
        nibbles = _NIBBLE[self._fixed(starts, 64)]
        hashes: Hashes = nibbles[:, 0::2] * np.uint8(16) + (nibbles[:, 1::2] & np.uint8(15))
        return hashes

    def _number(self, starts: Ints, ends: Ints) -> Ints:
        text = self._fixed(ends - _MAX_DIGITS, _MAX_DIGITS)  # the line's start is far before it
        text[np.arange(_MAX_DIGITS) < (_MAX_DIGITS - (ends - starts))[:, None]] = _ZERO
        total: Ints = (text - np.uint8(_ZERO)).astype(np.int64) @ _POWERS
        return total

    def _text(self, starts: Ints, ends: Ints) -> pa.StringArray:
        """Slices of the buffer as a string column, by way of Arrow's view layout (no copy loop)."""
        n = len(starts)
        lengths = ends - starts
        views = np.zeros((n, 16), dtype=np.uint8)
        words = views.view(np.int32)
        words[:, 0] = lengths
        # Bytes 4..16 hold a short value itself, or a long one's first 4 bytes and its offset.
        # No value starts in the last 12 bytes but a short last one: pull its window back in.
        head = self._fixed(np.minimum(starts, len(self.data) - 12), 12)
        is_long = lengths > 12
        if is_long.all():
            views[:, 4:8] = head[:, :4]
            words[:, 3] = starts
        else:
            head[np.arange(12) >= lengths[:, None]] = 0
            views[:, 4:16] = head
            words[is_long, 2] = 0
            words[is_long, 3] = starts[is_long]
        view = pa.Array.from_buffers(
            pa.string_view(), n, [None, pa.py_buffer(views), pa.py_buffer(self.value)]
        )
        return view.cast(pa.string())


def _no_rows() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMA)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _time_ms(text: npt.NDArray[np.uint8]) -> Ints:
    """Milliseconds of (n, 24) time text. Garbage in gives garbage out: the proof finds it."""
    d = np.ascontiguousarray(text.T).astype(np.int32) - _ZERO
    year = d[0] * 1000 + d[1] * 100 + d[2] * 10 + d[3]
    month = d[5] * 10 + d[6]
    day = d[8] * 10 + d[9]
    year = year - (month <= 2)
    era = year // 400
    yoe = year - era * 400
    doy = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    days = era * 146_097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719_468
    seconds = (d[11] * 10 + d[12]) * 3600
    seconds += (d[14] * 10 + d[15]) * 60 + d[17] * 10 + d[18]
    millis: Ints = (
        (days.astype(np.int64) * 86_400 + seconds) * 1000 + d[20] * 100 + d[21] * 10 + d[22]
    )
    return millis
