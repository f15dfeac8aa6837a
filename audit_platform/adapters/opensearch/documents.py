"""Rows as documents and back: columns become the bytes of a bulk request, hits become columns.

Belongs here: the form of a document (the mapping is `template.py`'s). Does not: requests.
Source: OpenSearch's bulk format; `record/columns.py`.

No object is made for an event on the way in: Arrow joins columns to lines. A document has the
columns of the row; the payload as a string, whose bytes come back exactly; and `words`, the words
as we cut them, for the few rows that are not ASCII, where the server would cut otherwise.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.ports import EventPosition
from audit_platform.record.columns import (
    EVENT_SCHEMA,
    TIMESTAMP,
    Hashes,
    fixed_text,
    hash_column,
    hashes_of,
    ints_of,
)
from audit_platform.record.words import searched_text, words

#: Rows and bytes of one bulk request: see docs/benchmarks.md; far below the server's breakers.
BULK_ROWS: Final = 5000
BULK_BYTES: Final = 4 * 1024 * 1024

#: Characters of an `_id`: 32 bytes in base64 for URLs, without padding. The server keeps 32 bytes.
ID_LENGTH: Final = 43

_ALPHABET: Final = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8
)
#: The two characters of 12 bits as one 16-bit word, so that a look-up writes both.
_TWELVE: Final = np.arange(1 << 12)
_PAIRS: Final = _ALPHABET[np.stack([_TWELVE >> 6, _TWELVE & 63], axis=1)].view(np.uint16).ravel()

#: Columns of few different values in a batch: each is turned into JSON once.
_REPEATED: Final = (
    "hospital_id",
    "device_id",
    "event_type",
    "criticality",
    "chain_id",
    "schema_ref",
)
_NUMBERS: Final = ("ingestion_time", "event_time", "sequence_number", "event_version")

#: What JSON does not take as it is in a string.
_ESCAPED: Final = r'[\x00-\x1f"\\]'
_CONTROL: Final = r"[\x00-\x1f]"

_SIGN: Final = np.uint64(1 << 63)


@dataclass(frozen=True, slots=True)
class Bulk:
    """One bulk request and how many rows it holds."""

    data: bytes
    rows: int


# --------------------------------------------------------------------------------------- writing


def ids(hashes: Hashes) -> pa.StringArray:
    """The `_id` of each hash."""
    padded = np.zeros((len(hashes), 33), np.uint16)
    padded[:, :32] = hashes
    three = padded.reshape(len(hashes), 11, 3)
    out = np.empty((len(hashes), 22), np.uint16)
    out[:, 0::2] = _PAIRS[three[:, :, 0] << 4 | three[:, :, 1] >> 4]
    out[:, 1::2] = _PAIRS[(three[:, :, 1] & 15) << 8 | three[:, :, 2]]
    return fixed_text(out.view(np.uint8)[:, :ID_LENGTH])


def id_of(event_hash: bytes) -> str:
    """The `_id` of one hash."""
    return base64.urlsafe_b64encode(event_hash).rstrip(b"=").decode()


def hash_of(document_id: str) -> bytes:
    """The hash of an `_id`. `ValueError` for anything else."""
    found = base64.urlsafe_b64decode(document_id + "=")
    if len(found) != 32 or len(document_id) != ID_LENGTH:  # noqa: PLR2004 - bytes of a hash
        raise ValueError(f"not an id of ours: {document_id!r}")
    return found


def halves(hashes: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first and the second 8 bytes of each hash as numbers that sort as the bytes do."""
    words_ = np.ascontiguousarray(hashes).view(">u8").astype(np.uint64) ^ _SIGN
    signed = words_.view(np.int64)
    return signed[:, 0], signed[:, 1]


def bulks(rows: pa.RecordBatch) -> Iterator[Bulk]:
    """Bulk requests that create the rows."""
    for start in range(0, rows.num_rows, BULK_ROWS):
        yield from _cut(_lines(rows.slice(start, BULK_ROWS)))


def removals(hashes: Sequence[bytes]) -> Iterator[Bulk]:
    """Bulk requests that delete documents."""
    for start in range(0, len(hashes), BULK_ROWS):
        some = hashes[start : start + BULK_ROWS]
        lines = (b'{"delete":{"_id":"%s"}}\n' % id_of(h).encode() for h in some)
        yield Bulk(b"".join(lines), len(some))


def _cut(lines: pa.StringArray) -> Iterator[Bulk]:
    """Cut into requests of `BULK_BYTES` at most, or of one row."""
    ends = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset :][: len(lines) + 1]
    data = memoryview(lines.buffers()[2])
    start = 0
    while start < len(lines):
        end = int(np.searchsorted(ends, ends[start] + BULK_BYTES, side="right")) - 1
        end = max(end, start + 1)
        yield Bulk(bytes(data[ends[start] : ends[end]]), end - start)
        start = end


def _lines(rows: pa.RecordBatch) -> pa.StringArray:
    """Two lines a row, each with its line end: what to do, and the document."""
    hashes = hashes_of(rows["event_hash"])
    first, second = halves(hashes)
    json = {name: _repeated(rows[name]) for name in _REPEATED}
    json |= {name: pa.array(ints_of(rows[name])).cast(pa.string()) for name in _NUMBERS}
    json["hash_1"] = pa.array(first).cast(pa.string())
    json["hash_2"] = pa.array(second).cast(pa.string())
    json["event_id"] = _strings(rows["event_id"])
    json["prev_hash"] = _hashes(rows["prev_hash"])
    json["payload"] = _strings(rows["payload"])
    parts: list[pa.Array | str] = ['{"create":{"_id":"', ids(hashes), '"}}\n{']
    for number, (name, values) in enumerate(json.items()):
        parts += [f'{"," if number else ""}"{name}":', values]
    parts += [_words(rows), "}\n"]
    return pc.binary_join_element_wise(*parts, "")


def _repeated(column: pa.Array) -> pa.StringArray:
    encoded = column.dictionary_encode()
    texts = [orjson.dumps(value).decode() for value in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)


def _strings(column: pa.Array) -> pa.StringArray:
    """Each string as JSON."""
    if pc.any(pc.match_substring_regex(column, _ESCAPED)).as_py():
        if pc.any(pc.match_substring_regex(column, _CONTROL)).as_py():
            # Never in canonical JSON; a line end would end the document.
            return pa.array([orjson.dumps(v).decode() for v in column.to_pylist()], pa.string())
        column = pc.replace_substring(column, "\\", "\\\\")
        column = pc.replace_substring(column, '"', '\\"')
    return pc.binary_join_element_wise('"', column, '"', "")


def _hashes(column: pa.Array) -> pa.StringArray:
    quoted = pc.binary_join_element_wise('"', ids(hashes_of(column)), '"', "")
    return pc.if_else(pc.is_null(column), "null", quoted) if column.null_count else quoted


def _words(rows: pa.RecordBatch) -> pa.StringArray:
    """For rows that are not ASCII `,"words":"..."`, else nothing."""
    at = np.flatnonzero(~_is_ascii(rows["payload"]))
    out = np.full(rows.num_rows, "", dtype=object)
    for row, text in zip(at, searched_text(rows).take(pa.array(at)).to_pylist(), strict=True):
        out[row] = f',"words":{orjson.dumps(" ".join(dict.fromkeys(words(text)))).decode()}'
    return pa.array(out, pa.string())


def _is_ascii(column: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.string_is_ascii(column).to_numpy(zero_copy_only=False), np.bool_)


# --------------------------------------------------------------------------------------- reading


def to_table(hits: Sequence[tuple[str, dict[str, Any]]]) -> pa.Table:
    """(`_id`, `_source`) of documents as `EVENT_SCHEMA`. `ValueError`, `KeyError` for others."""
    arrays = []
    for field in EVENT_SCHEMA:
        if field.name == "event_hash":
            arrays.append(_hash_array([hash_of(i) for i, _ in hits]))
            continue
        values = [source[field.name] for _, source in hits]
        if field.name == "prev_hash":
            arrays.append(_hash_array([None if v is None else hash_of(v) for v in values]))
        elif field.type == TIMESTAMP:
            arrays.append(pa.array(values, pa.int64()).cast(TIMESTAMP))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=EVENT_SCHEMA)


def _hash_array(values: list[Any]) -> pa.FixedSizeBinaryArray:
    return pa.array(values, hash_column(np.zeros((0, 32), np.uint8)).type)


def position(document_id: str, source: dict[str, Any], clock_column: str) -> EventPosition:
    """Where a document stands by a clock."""
    return EventPosition(
        source[clock_column],
        source["device_id"],
        source["sequence_number"],
        hash_of(document_id),
    )


def hashes_of_hits(hits: list[dict[str, Any]]) -> npt.NDArray[np.uint8]:
    """The eventHashes of some hits, shape (n, 32)."""
    return np.frombuffer(b"".join(hash_of(h["_id"]) for h in hits), np.uint8).reshape(-1, 32)
