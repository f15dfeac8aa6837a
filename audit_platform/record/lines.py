"""Stored events as they stand in a log record: newline-delimited text, parsed into columns.

`parse_stored` cuts a line at the quotes that end its values (envelope values hold none) and
*proves* each row, so that nothing can be lost on the way into Parquet. Belongs here: the fixed
shape of a stored line. Does not: the columns and the way back (`columns.py`), numbers, times and
hashes in text (`fields.py`), judgement of a single event (`event.py`).
Source: design section 3 (stored event), 5 (the writer proves that columns rebuild the line).

The proof that a row rebuilds its line, without building it. A line is labels and values in turn,
and `stored_lines` writes the same labels, the same values in the same order. Each byte of a proved
line is therefore one of these:

- of a label: compared with what `stored_lines` writes, at its place;
- of a text value: copied into its column byte by byte, and ended where the next label begins; no
  quote is in it, so that the next quote is where a reader of the line sees the value's end;
- of a number, a time or a hash: decoded, and it is in the one form that encodes back to itself (no
  leading zeros, a date that exists, lower hex);
- of `checksum`, which is no column: compared with the SHA-256 of the payload column.

Labels and values lie end to end from the line's start to the payload and from the payload to the
line's end, and the payload is what is between: no byte is left over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audit_platform.record.columns import (
    EVENT_SCHEMA,
    TIMESTAMP,
    Ints,
    Mask,
    fixed_text,
    hash_column,
)
from audit_platform.record.digests import sha256_column
from audit_platform.record.fields import (
    MAX_DIGITS,
    TIME_BYTES,
    hashes_in,
    numbers_in,
    times_in,
)

#: Bytes parsed at a time: temporary columns of this many stay in the processor's cache.
_CHUNK_BYTES: Final = 2 * 1024 * 1024

#: 0001-01-01T00:00:00.000Z: the first time that the record's text form stands for.
FIRST_MS: Final = -62_135_596_800_000

_NEWLINE: Final = 10
_QUOTE: Final = 34
_MAX_INT32: Final = 2**31 - 1

# What stands before each value (of `tenant_id`: before and after).
_BEFORE: Final = {
    "chain_id": b'{"chainId":"',
    "checksum": b'","checksum":"',
    "criticality": b'","criticality":"',
    "device_id": b'","deviceId":"',
    "event_id": b'","eventId":"',
    "event_time": b'","eventTime":"',
    "event_type": b'","eventType":"',
    "event_version": b'","eventVersion":',
    "hospital_id": b',"hospitalId":"',
    "ingestion_time": b'","ingestionTime":"',
    "payload": b'","payload":',
    "prev_hash": b',"prevHash":"',
    "schema_ref": b'","schemaRef":"',
    "sequence_number": b'","sequenceNumber":',
}
_INGESTION_LABEL: Final = b',"ingestionTime":"'
_WIDTH: Final = {
    "chain_id": 16,
    "checksum": 64,
    "event_id": 36,
    "event_time": TIME_BYTES,
    "ingestion_time": TIME_BYTES,
    "prev_hash": 64,
}
#: No line is shorter: labels and values of fixed width.
_SHORTEST: Final = sum(map(len, _BEFORE.values())) + sum(_WIDTH.values())

#: The quote behind a value is looked for in so many bytes of all lines at once, beyond that line by
#: line: identifiers are shorter than this, or few.
_NEAR: Final = 40

#: (start, end) of a value in each line, end excluded, as positions in the chunk.
Spans = dict[str, tuple[Ints, Ints]]


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
    batch = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    return ParsedLines(batch, np.concatenate(lines).astype(np.int32), bad)


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
        self.value = value
        self.last = f',"tenantId":"{tenant_id}"}}'.encode()
        self.data = np.frombuffer(value, dtype=np.uint8)
        self.ends = np.flatnonzero(self.data == _NEWLINE)
        self.starts = np.concatenate([np.zeros(1, dtype=np.int64), self.ends[:-1] + 1])

    def parse(self) -> tuple[pa.RecordBatch, Ints, int, list[tuple[int, bytes]]]:
        """(proved rows, their line numbers, lines in all, the other lines with their bytes)."""
        kept = np.flatnonzero(self.ends - self.starts >= _SHORTEST + len(self.last))
        kept = kept[self._utf8(kept)]
        if len(kept):
            kept, spans = self._spans(kept)
        if len(kept):
            batch, proved = self._columns(kept, spans)
            if proved.all() and len(kept) == len(self.ends):
                return batch, kept, len(kept), []
            kept, batch = kept[proved], batch.filter(pa.array(proved))
        else:
            batch = _no_rows()
        rest = np.setdiff1d(np.arange(len(self.ends)), kept)
        bad = [(int(i), self.value[self.starts[i] : self.ends[i]]) for i in rest]
        return batch, kept, len(self.ends), bad

    def _utf8(self, kept: Ints) -> Mask:
        try:
            self.value.decode("utf-8")
        except UnicodeDecodeError:
            return np.array(
                [_is_utf8(self.value[self.starts[i] : self.ends[i]]) for i in kept], bool
            )
        return np.ones(len(kept), dtype=np.bool_)

    # ------------------------------------------------------------------------- where values lie

    def _spans(self, kept: Ints) -> tuple[Ints, Spans]:
        """Lines whose values all lie within them, in order, and where. Nothing is compared yet."""
        first, last = self.starts[kept], self.ends[kept]
        spans: Spans = {}
        at = first
        for name in _BEFORE:
            at = at + len(_BEFORE[name])
            if name == "payload":
                break
            if name in _WIDTH:
                end = at + _WIDTH[name]
            elif name == "event_version":
                end = self._quote_from(at, last) - 1  # of the next label, behind its comma
            else:
                end = self._quote_from(at, last)
            spans[name] = at, end
            at = end
        end = last - len(self.last)
        start = self._quote_before(end, first) + len('":')
        spans["sequence_number"] = start, end
        end = start - len(_BEFORE["sequence_number"])
        start = self._quote_before(end, first) + 1
        spans["schema_ref"] = start, end
        end = start - len(_BEFORE["schema_ref"])
        start = end - _WIDTH["prev_hash"]
        spans["prev_hash"] = start, end
        spans["payload"] = at, start - len(_BEFORE["prev_hash"])
        good = np.ones(len(kept), dtype=np.bool_)
        for start, end in spans.values():
            good &= start <= end
        for name in ("event_version", "sequence_number"):
            start, end = spans[name]
            good &= (start < end) & (end - start <= MAX_DIGITS)
        if not good.all():
            kept = kept[good]
            spans = {name: (start[good], end[good]) for name, (start, end) in spans.items()}
        return kept, spans

    def _quote_from(self, starts: Ints, limits: Ints) -> Ints:
        """The first quote at or behind each start; the limit where there is none before it."""
        at = np.minimum(starts, len(self.value) - _NEAR)  # no good line begins a value behind it
        is_quote = self._fixed(at, _NEAR) == _QUOTE
        found, missed = _first(is_quote)
        quotes: Ints = at + found
        for i in missed:
            quote = self.value.find(b'"', int(starts[i]), int(limits[i]))
            quotes[i] = quote if quote >= 0 else limits[i]
        return quotes

    def _quote_before(self, ends: Ints, limits: Ints) -> Ints:
        """The last quote before each end; the limit where there is none at or behind it."""
        at = np.maximum(ends, _NEAR)  # no good line ends a value before it
        is_quote = self._fixed(at - _NEAR, _NEAR) == _QUOTE
        found, missed = _first(is_quote[:, ::-1])
        quotes: Ints = at - 1 - found
        for i in missed:
            quote = self.value.rfind(b'"', int(limits[i]), max(int(ends[i]), 0))
            quotes[i] = max(quote, limits[i])
        return quotes

    # -------------------------------------------------------------------------- proof and columns

    def _columns(self, kept: Ints, spans: Spans) -> tuple[pa.RecordBatch, Mask]:
        """All lines as rows, and which of them are proved."""
        proved = self._labels_stand(kept, spans)
        ids = {name: self._fixed(spans[name][0], _WIDTH[name]) for name in ("chain_id", "event_id")}
        for text in ids.values():
            proved &= _each_row(text != _QUOTE)
        times, numbers = {}, {}
        for name in ("event_time", "ingestion_time"):
            times[name], good = times_in(self._fixed(spans[name][0], TIME_BYTES))
            proved &= good
        for name in ("event_version", "sequence_number"):
            start, end = spans[name]
            text = self._fixed(end - MAX_DIGITS, MAX_DIGITS)  # the line's start is far before it
            numbers[name], good = numbers_in(text, end - start)
            proved &= good
        proved &= numbers["event_version"] <= _MAX_INT32
        prev_hash, good = hashes_in(self._fixed(spans["prev_hash"][0], 64))
        proved &= good
        checksum, good = hashes_in(self._fixed(spans["checksum"][0], 64))
        payload = self._text(*spans["payload"])
        # One call for both: a call costs as much as the hashing of 300 values.
        canonical = self._without_ingestion_time(kept, *spans["ingestion_time"])
        digests = sha256_column(pa.concat_arrays([payload.view(pa.binary()), canonical]))
        payload_hash, event_hash = digests[: len(kept)], digests[len(kept) :]
        proved &= good & _each_row(checksum == payload_hash)
        version = np.minimum(numbers["event_version"], _MAX_INT32).astype(np.int32)
        columns: dict[str, pa.Array] = {
            "hospital_id": self._text(*spans["hospital_id"]),
            "device_id": self._text(*spans["device_id"]),
            "chain_id": fixed_text(ids["chain_id"]),
            "event_type": self._text(*spans["event_type"]),
            "event_version": pa.array(version),
            "event_id": fixed_text(ids["event_id"]),
            "event_time": pa.array(times["event_time"]).view(TIMESTAMP),
            "ingestion_time": pa.array(times["ingestion_time"]).view(TIMESTAMP),
            "sequence_number": pa.array(numbers["sequence_number"]),
            "schema_ref": self._text(*spans["schema_ref"]),
            "criticality": self._text(*spans["criticality"]),
            "payload": payload,
            "prev_hash": hash_column(prev_hash),
            "event_hash": hash_column(event_hash),
        }
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=EVENT_SCHEMA), proved

    def _labels_stand(self, kept: Ints, spans: Spans) -> Mask:
        """Whether all that is no value is what `stored_lines` writes."""
        good = np.ones(len(kept), dtype=np.bool_)
        for name, label in _BEFORE.items():
            good &= self._stands(spans[name][0] - len(label), label)
        return good & self._stands(self.ends[kept] - len(self.last), self.last)

    def _stands(self, starts: Ints, label: bytes) -> Mask:
        found = self._fixed(starts, len(label))
        return _each_row(found == np.frombuffer(label, np.uint8))

    def _without_ingestion_time(self, kept: Ints, starts: Ints, ends: Ints) -> pa.BinaryArray:
        """Each line as its hash is of it, without `ingestionTime` (its value is at `starts`)."""
        n = len(kept)
        cuts = np.empty(4 * n + 1, np.int32)
        cuts[0:-1:4] = self.starts[kept]
        cuts[1::4] = starts - len(_INGESTION_LABEL)
        cuts[2::4] = ends + 1
        cuts[3::4] = self.ends[kept]
        cuts[-1] = len(self.value)
        # Before and behind: every other piece. Put end to end, two of them are one value.
        pieces = self._pieces(pa.binary(), cuts)
        _, offsets, data = pieces.buffers()
        whole = np.frombuffer(offsets, np.int32)[: 2 * n + 1 : 2].copy()
        return pa.Array.from_buffers(pa.binary(), n, [None, pa.py_buffer(whole), data])

    def _text(self, starts: Ints, ends: Ints) -> pa.StringArray:
        """Slices of the buffer as a string column."""
        cuts = np.empty(2 * len(starts) + 1, np.int32)
        cuts[0:-1:2] = starts
        cuts[1::2] = ends
        cuts[-1] = len(self.value)
        return self._pieces(pa.string(), cuts)

    def _pieces(self, kind: pa.DataType, cuts: npt.NDArray[np.int32]) -> pa.Array:
        """Every other piece between the cuts, from the first on: Arrow copies them at once."""
        n = len(cuts) - 1
        buffers = [None, pa.py_buffer(cuts), pa.py_buffer(self.value)]
        return pa.Array.from_buffers(kind, n, buffers).take(pa.array(np.arange(0, n, 2)))

    def _fixed(self, starts: Ints, width: int) -> npt.NDArray[np.uint8]:
        """`width` bytes at each start, shape (n, width). All must lie within the chunk."""
        # Raw bytes as one value: numpy copies each at once, five times as fast as row by row.
        rows: npt.NDArray[np.void] = np.ndarray(
            (len(self.value) - width + 1,), dtype=f"V{width}", buffer=self.value, strides=(1,)
        )[starts]
        return rows.view(np.uint8).reshape(len(starts), width)


def _first(marks: Mask) -> tuple[Ints, list[int]]:
    """Where the first mark of each row is, and the rows that have none."""
    found = marks.argmax(axis=1)
    has_none = ~marks[np.arange(len(marks)), found]
    return found, np.flatnonzero(has_none).tolist()


def _each_row(equal: Mask) -> Mask:
    """Whether all of each row is true. Nearly always everything is, which is cheap to see."""
    if equal.all():
        return np.ones(len(equal), dtype=np.bool_)
    rows: Mask = np.asarray(equal.all(axis=1))
    return rows


def _no_rows() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMA)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
