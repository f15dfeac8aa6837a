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
from audit_platform.record.digests import digests_of, sha256_hex
from audit_platform.record.fields import (
    MAX_DIGITS,
    hashes_in,
    numbers_in,
    times_in,
)
from audit_platform.record.windows import BEFORE, BEHIND, FIRST, SHORTEST, WIDTH, last_window

#: Bytes parsed at a time: temporary columns of this many stay in the processor's cache.
_CHUNK_BYTES: Final = 2 * 1024 * 1024

#: 0001-01-01T00:00:00.000Z: the first time that the record's text form stands for.
FIRST_MS: Final = -62_135_596_800_000

_NEWLINE: Final = 10
_QUOTE: Final = 34
_ZERO: Final = 48
_MAX_INT32: Final = 2**31 - 1

_INGESTION_LABEL: Final = b',"ingestionTime":"'

#: Text values of any length, but the payload.
_TEXTS: Final = ("hospital_id", "device_id", "event_type", "schema_ref", "criticality")

#: The number k of a word of eight bytes, of which byte k is 1 and the others 0: multiplied by this,
#: it comes to the highest byte.
_WHICH_BYTE: Final = np.uint64(0x0001020304050607)

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
        self.last = last_window(tenant_id)
        self.ends = _newlines(value)
        self.starts = np.concatenate([np.zeros(1, dtype=np.int64), self.ends[:-1] + 1])

    def parse(self) -> tuple[pa.RecordBatch, Ints, int, list[tuple[int, bytes]]]:
        """(proved rows, their line numbers, lines in all, the other lines with their bytes)."""
        kept = np.flatnonzero(self.ends - self.starts >= SHORTEST + self.last.size)
        if not self.value.isascii():
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
        for name, label in BEFORE.items():
            at = at + len(label)
            if name == "payload":
                break
            if name in WIDTH:
                end = at + WIDTH[name]
            elif name == "event_version":
                end = self._quote_from(at, last) - 1  # of the next label, behind its comma
            else:
                end = self._quote_from(at, last)
            spans[name] = at, end
            at = end
        end = last - self.last.size
        start = self._quote_before(end, first) + len('":')
        spans["sequence_number"] = start, end
        end = start - len(BEFORE["sequence_number"])
        start = self._quote_before(end, first) + 1
        spans["schema_ref"] = start, end
        end = start - len(BEFORE["schema_ref"])
        start = end - WIDTH["prev_hash"]
        spans["prev_hash"] = start, end
        spans["payload"] = at, start - len(BEFORE["prev_hash"])
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
        proved, fixed = self._windows(kept, spans)
        n = len(kept)
        # Both at once: half as many calls.
        times, good = times_in(np.concatenate([fixed["event_time"], fixed["ingestion_time"]]))
        proved &= good[:n] & good[n:]
        version, good = self._versions(*spans["event_version"])
        proved &= good
        start, end = spans["sequence_number"]
        text = self._fixed(end - MAX_DIGITS, MAX_DIGITS)  # the line's start is far before it
        sequence, good = numbers_in(text, end - start)
        proved &= good
        prev_hash, good = hashes_in(fixed["prev_hash"])
        proved &= good
        payload = self._pieces(pa.string(), self._cuts(*spans["payload"]))
        # One call for both: a call costs as much as the hashing of 300 values.
        canonical = self._without_ingestion_time(kept, *spans["ingestion_time"])
        digits = sha256_hex(pa.chunked_array([payload.view(pa.binary()), canonical]))
        proved &= _same_digits(fixed["checksum"], digits[:n])
        columns: dict[str, pa.Array] = self._texts(spans) | {
            "chain_id": fixed_text(fixed["chain_id"]),
            "event_version": pa.array(version),
            "event_id": fixed_text(fixed["event_id"]),
            "event_time": pa.array(times[:n]).view(TIMESTAMP),
            "ingestion_time": pa.array(times[n:]).view(TIMESTAMP),
            "sequence_number": pa.array(sequence),
            "payload": payload,
            "prev_hash": hash_column(prev_hash),
            "event_hash": hash_column(digests_of(digits[n:])),
        }
        batch = pa.RecordBatch.from_arrays(
            [columns[name] for name in EVENT_SCHEMA.names], schema=EVENT_SCHEMA
        )
        return batch, proved

    def _windows(self, kept: Ints, spans: Spans) -> tuple[Mask, dict[str, npt.NDArray[np.uint8]]]:
        """Whether all that is no value is what `stored_lines` writes; the values of fixed width."""
        places = [(self.starts[kept], FIRST)]
        places += [(spans[name][1], window) for name, window in BEHIND.items()]
        places.append((self.ends[kept] - self.last.width, self.last))
        good = np.ones(len(kept), dtype=np.bool_)
        values = {}
        for starts, window in places:
            rows = self._fixed(starts, window.width)
            good &= window.stand_in(rows)
            for name in window.at:
                values[name] = window.value(name, rows)
        return good, values

    def _versions(self, starts: Ints, ends: Ints) -> tuple[npt.NDArray[np.int32], Mask]:
        lengths = ends - starts
        if (lengths == 1).all():  # as nearly always
            digits = self._fixed(starts, 1)[:, 0]
            return (digits - _ZERO).astype(np.int32), (digits >= _ZERO) & (digits < _ZERO + 10)
        text = self._fixed(ends - MAX_DIGITS, MAX_DIGITS)
        versions, good = numbers_in(text, lengths)
        return np.minimum(versions, _MAX_INT32).astype(np.int32), good & (versions <= _MAX_INT32)

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

    def _texts(self, spans: Spans) -> dict[str, pa.StringArray]:
        """The short texts, copied at once: each column is a slice of one."""
        n = len(spans["payload"][0])
        starts, ends = (np.concatenate([spans[name][i] for name in _TEXTS]) for i in (0, 1))
        texts = self._pieces(pa.string(), self._cuts(starts, ends))
        return {name: texts.slice(i * n, n) for i, name in enumerate(_TEXTS)}

    def _cuts(self, starts: Ints, ends: Ints) -> npt.NDArray[np.int32]:
        cuts = np.empty(2 * len(starts) + 1, np.int32)
        cuts[0:-1:2] = starts
        cuts[1::2] = ends
        cuts[-1] = len(self.value)
        return cuts

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


def _newlines(value: bytes) -> Ints:
    """Where the line ends are. Looked for by words of eight bytes: most hold none."""
    marks = np.frombuffer(value, np.uint8) == _NEWLINE
    whole = len(marks) // 8 * 8
    words = marks[:whole].view(np.uint64)
    at = np.flatnonzero(words != 0)
    found = words[at]
    if (found & (found - np.uint64(1))).any():  # two in one word: no event is so short
        return np.flatnonzero(marks)
    which = ((found * _WHICH_BYTE) >> np.uint64(56)).astype(np.int64)
    return np.concatenate([8 * at + which, whole + np.flatnonzero(marks[whole:])])


def _same_digits(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> Mask:
    """Whether rows of 64 digits are equal."""
    equal = left.view(np.uint64) == right.view(np.uint64)
    return np.asarray(equal.all(axis=1), dtype=np.bool_)


def _no_rows() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMA)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
