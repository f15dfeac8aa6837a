"""A sealed part: the Parquet file that holds some devices of one tenant's day, for good.

Belongs here: its columns, encodings and row groups, the rule by which `prev_hash` is left out, the
roots that go with it. Does not: which rows belong to a day (`operations/seal.py`), what a manifest
says of parts (`manifest.py`), judgement of what was read (`partcheck.py`).
Source: design section 5 (sealed day); measured layout: 61 bytes a row; `docs/formats.md`.

Rows are sorted by (device_id, chain_id, sequence_number, event_hash). `prev_hash` is null exactly
where the row before is the previous event of the same device and chain and its hash is the value;
a part never starts with a null.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit_platform.record import merkle
from audit_platform.record.columns import (
    EVENT_SCHEMA,
    HASH,
    Hashes,
    Ints,
    Mask,
    hash_column,
    hashes_of,
    ints_of,
    text_at,
)

SEALED_SCHEMA: Final = EVENT_SCHEMA

#: Each full row group is a complete Merkle subtree, so its size is a power of two for ever.
ROWS_PER_GROUP: Final = 2**17
#: Design allows 16 M rows. A part is put whole from memory: 2 M rows are about 130 MB.
MAX_ROWS_PER_PART: Final = 2**21

SORT_KEYS: Final = ("device_id", "chain_id", "sequence_number", "event_hash")

_DICTIONARY: Final = [
    "hospital_id",
    "device_id",
    "event_type",
    "event_version",
    "schema_ref",
    "criticality",
]
_ENCODING: Final = {
    "chain_id": "DELTA_BYTE_ARRAY",
    "event_id": "DELTA_BYTE_ARRAY",
    "event_time": "DELTA_BINARY_PACKED",
    "ingestion_time": "DELTA_BINARY_PACKED",
    "sequence_number": "DELTA_BINARY_PACKED",
    "payload": "PLAIN",
    "prev_hash": "PLAIN",
    "event_hash": "PLAIN",
}
#: Hashes do not compress; left plain, a changed bit in them still decodes, so its row is named.
_COMPRESSION: Final = {
    name: "none" if name in {"event_hash", "prev_hash"} else "zstd" for name in SEALED_SCHEMA.names
}


@dataclass(frozen=True, slots=True)
class LastRow:
    """The row before a block: what deciding about `prev_hash` and order needs of it."""

    device_id: str
    chain_id: str
    sequence: int
    event_hash: bytes


@dataclass(frozen=True, slots=True)
class PartFacts:
    """What a manifest says of a part besides where it is. Roots are 32 bytes."""

    rows: int
    root: bytes
    row_group_roots: tuple[bytes, ...]
    first_device: str
    last_device: str


def last_row(rows: pa.RecordBatch) -> LastRow:
    """The last row of a block that is not empty."""
    end = rows.slice(len(rows) - 1)
    return LastRow(
        device_id=text_at(end["device_id"], 0),
        chain_id=text_at(end["chain_id"], 0),
        sequence=end["sequence_number"][0].as_py(),
        event_hash=end["event_hash"][0].as_py(),
    )


def same_chain_as_before(rows: pa.RecordBatch, before: LastRow | None) -> Mask:
    """For each row: is the row before it of the same device and chain?"""
    out = np.zeros(len(rows), dtype=np.bool_)
    if not len(rows):
        return out
    for name, known in (
        ("device_id", before and before.device_id),
        ("chain_id", before and before.chain_id),
    ):
        column = rows[name]
        same = np.zeros(len(rows), dtype=np.bool_)
        same[0] = before is not None and text_at(column, 0) == known
        same[1:] = pc.equal(column.slice(1), column.slice(0, len(rows) - 1)).to_numpy(
            zero_copy_only=False
        )
        out = same if name == "device_id" else out & same
    return out


def hash_before(rows: pa.RecordBatch, before: LastRow | None) -> Hashes:
    """Event hash of the row before each row; zeros before the first of all."""
    hashes = hashes_of(rows["event_hash"])
    out = np.zeros_like(hashes)
    out[1:] = hashes[:-1]
    if before is not None and len(out):
        out[0] = np.frombuffer(before.event_hash, dtype=np.uint8)
    return out


def follows(rows: pa.RecordBatch, before: LastRow | None) -> Mask:
    """For each row with its full `prev_hash`: may `prev_hash` be left out?"""
    sequence = ints_of(rows["sequence_number"])
    step = np.zeros(len(rows), dtype=np.int64)
    step[1:] = sequence[1:] - sequence[:-1]
    if before is not None and len(rows):
        step[0] = sequence[0] - before.sequence
    linked = (hashes_of(rows["prev_hash"]) == hash_before(rows, before)).all(axis=1)
    mask: Mask = same_chain_as_before(rows, before) & (step == 1) & linked
    return mask


def full_prev_hash(rows: pa.RecordBatch, before: LastRow | None) -> Hashes:
    """`prev_hash` of each row as read from a part, with what was left out put back."""
    out = np.array(hashes_of(rows["prev_hash"]))
    left_out = rows["prev_hash"].is_null().to_numpy(zero_copy_only=False)
    out[left_out] = hash_before(rows, before)[left_out]
    return out


def _without_derivable(rows: pa.RecordBatch, before: LastRow | None) -> pa.RecordBatch:
    data = np.ascontiguousarray(hashes_of(rows["prev_hash"]))
    keep = np.packbits(~follows(rows, before), bitorder="little")
    column = pa.Array.from_buffers(HASH, len(rows), [pa.py_buffer(keep), pa.py_buffer(data)])
    position = SEALED_SCHEMA.get_field_index("prev_hash")
    return rows.set_column(position, SEALED_SCHEMA.field("prev_hash"), column)


def full_rows(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    """Rows of a sealed part, a row group at a time, with the `prev_hash` that was left out.

    Not judged (`partcheck.py`). Raises `KeyError`, `pa.ArrowException`, `OSError`.
    """
    parquet = pq.ParquetFile(file)
    before: LastRow | None = None
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, SEALED_SCHEMA.names, use_threads=False)
        rows = table.select(SEALED_SCHEMA.names).combine_chunks().to_batches()[0]
        yield rows.set_column(
            SEALED_SCHEMA.get_field_index("prev_hash"),
            SEALED_SCHEMA.field("prev_hash"),
            hash_column(full_prev_hash(rows, before)),
        )
        before = last_row(rows)


class PartWriter:
    """Writes one part into memory from sorted rows that carry their full `prev_hash`.

    `write` any number of blocks, then `close` once for the bytes and the facts.
    """

    def __init__(self) -> None:
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink,
            SEALED_SCHEMA,
            compression=_COMPRESSION,
            compression_level={n: 1 for n, how in _COMPRESSION.items() if how == "zstd"},
            use_dictionary=_DICTIONARY,
            column_encoding=_ENCODING,
            write_statistics=True,
            write_page_checksum=True,
            store_schema=False,
            # DuckDB answers an eventId look-up from the filter; ndv must be set explicitly.
            bloom_filter_options={"event_id": {"ndv": ROWS_PER_GROUP, "fpp": 0.01}},
        )
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._before: LastRow | None = None
        self._group_roots: list[bytes] = []
        self._first_device = ""
        self.rows = 0

    def write(self, rows: pa.RecordBatch) -> None:
        """Append sorted rows; the caller keeps a device in one part."""
        if not len(rows):
            return
        if self._before is None:
            self._first_device = text_at(rows["device_id"], 0)
        self._pending.append(_without_derivable(rows, self._before))
        self._before = last_row(rows)
        self._pending_rows += len(rows)
        self.rows += len(rows)
        while self._pending_rows >= ROWS_PER_GROUP:
            self._write_group(ROWS_PER_GROUP)

    def _write_group(self, rows: int) -> None:
        table = pa.Table.from_batches(self._pending)
        group = table.slice(0, rows).combine_chunks()
        rest = table.slice(rows)
        self._pending = rest.to_batches()
        self._pending_rows = rest.num_rows
        self._writer.write_table(group, row_group_size=rows)
        batch = group.to_batches()[0]
        leaves = merkle.leaf_hashes(
            hashes_of(batch["event_hash"]), ints_of(batch["ingestion_time"])
        )
        self._group_roots.append(merkle.root(leaves))

    def close(self) -> tuple[bytes, PartFacts]:
        """(the file's bytes, its facts). The part must hold at least one row."""
        if self._pending_rows:
            self._write_group(self._pending_rows)
        if self._before is None:
            raise ValueError("a part has at least one row")
        self._writer.close()
        facts = PartFacts(
            rows=self.rows,
            root=merkle.root_of_subtrees(self._group_roots),
            row_group_roots=tuple(self._group_roots),
            first_device=self._first_device,
            last_device=self._before.device_id,
        )
        return self._sink.getvalue().to_pybytes(), facts


def sort_order(rows: pa.RecordBatch) -> Ints:
    """Stable order of rows by `SORT_KEYS`: rows of one event stay in the order they came in."""
    device, _ = _ranked(rows["device_id"])
    chain, chains = _ranked(rows["chain_id"])
    place = device * chains + chain
    sequence = ints_of(rows["sequence_number"])
    order: Ints = np.lexsort((sequence, place)).astype(np.int64)
    same = (np.diff(place[order]) == 0) & (np.diff(sequence[order]) == 0)
    # Several rows of one sequence are rare: put each such run in the order of their hashes.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    hashes = hashes_of(rows["event_hash"])
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        run = sorted(order[start : end + 1].tolist(), key=lambda i: (hashes[i].tobytes(), i))
        order[start : end + 1] = run
    return order


def _ranked(column: pa.Array) -> tuple[Ints, int]:
    """(rank of each value among the distinct values in byte order, how many there are)."""
    encoded = column.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], len(order)
