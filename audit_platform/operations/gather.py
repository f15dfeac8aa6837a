"""A day's rows out of landing, sorted, proved and without duplicates, within fixed memory.

Two passes over the sources (parts of the manifest that a revision replaces, landing objects): the
first counts rows by device, the second spills rows into buckets of neighbouring devices on disk.
Then one bucket at a time is sorted and handed on, in device order. Belongs here: that way from
landing to sorted rows. Does not: parts and manifests (`seal.py`), copies held by earlier manifests
(`held.py`).
Source: design section 5 (sealed day); measured: spill 0.5, sort 0.15 to 0.6 microseconds a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit_platform.errors import SealRefused
from audit_platform.operations.coverage import DayObject
from audit_platform.ports import Objects
from audit_platform.record import sealed
from audit_platform.record.columns import (
    EVENT_SCHEMA,
    blocks,
    canonical_lines,
    hashes_of,
)
from audit_platform.record.digests import sha256_column, sha256_hex
from audit_platform.record.manifest import NamedObject
from audit_platform.record.ranges import RangeObject

#: Rows in a bucket: sorted and rebuilt in memory at once, about 1.5 KB each at the peak.
BUCKET_ROWS: Final = 200_000
#: Uncompressed column bytes in a bucket, where payloads are large.
BUCKET_BYTES: Final = 128 * 1024 * 1024
_READ_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class Gathered:
    """What was seen while gathering. `undecodable` objects hold rows that are kept as bytes."""

    rows: int = 0
    duplicates: int = 0
    undecodable: list[NamedObject] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Buckets:
    """Device -> bucket; neighbouring devices share one."""

    devices: pa.Array
    bucket: npt.NDArray[np.int32]
    count: int

    def of(self, device: pa.Array) -> npt.NDArray[np.int32]:
        encoded = device.dictionary_encode()
        known = pc.index_in(encoded.dictionary, value_set=self.devices).to_numpy()
        place: npt.NDArray[np.int32] = self.bucket[known[encoded.indices.to_numpy()]]
        return place


@dataclass(frozen=True, slots=True)
class Sources:
    """What a day is made of: parts of the manifest that it replaces (none at first), and landing.

    Both in an order in which copies of an event stand as in the log, parts before landing.
    """

    base: Sequence[NamedObject]
    landing: Sequence[DayObject]


def sorted_rows(
    objects: Objects, sources: Sources, tenant_id: str, folder: Path, seen: Gathered
) -> Iterator[pa.RecordBatch]:
    """Rows of `EVENT_SCHEMA` in the sort order of a sealed day, one bucket of devices at a time.

    As `spilled` and `rows_of`, one after the other.
    """
    return rows_of(spilled(objects, sources, folder, seen), tenant_id, seen)


def spilled(objects: Objects, sources: Sources, folder: Path, seen: Gathered) -> list[Path]:
    """Files of rows in a folder, those of neighbouring devices together; `seen` counts them.

    Raises `SealRefused` for bytes that are not what they were, `StoreUnavailable`.
    """
    for part in sources.base:
        _verify_object(objects, part, "its manifest")
    for o in sources.landing:
        _verify_object(objects, o.object, "its range record")
    buckets = _plan(objects, sources)
    paths = [folder / f"bucket-{i}.arrow" for i in range(buckets.count)]
    _spill(objects, sources, buckets, paths, seen)
    return paths


def rows_of(paths: Sequence[Path], tenant_id: str, seen: Gathered) -> Iterator[pa.RecordBatch]:
    """Rows of spilled files, sorted, one file at a time; the files stay.

    Of equal events the first stays, a sealed one before any in landing; `seen` counts the others.
    Each row's rebuilt canonical event has its hash. Raises `SealRefused` for one that has not.
    """
    for path in paths:
        # Mapped: rows are copied once, into their order's place.
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
            batches = reader.read_all().combine_chunks().to_batches()
        for rows in batches:
            yield _deduplicated(
                _proved(rows.take(pa.array(sealed.sort_order(rows))), tenant_id), seen
            )


def _verify_object(objects: Objects, o: NamedObject | RangeObject, said_by: str) -> None:
    digest = hashlib.sha256()
    with objects.open(o.key, o.version_id) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != o.sha256:
        raise SealRefused(
            f"object {o.key} is not what {said_by} says",
            remedy="repair it from what holds the same bytes before sealing; keep these",
        )


def _row_groups(objects: Objects, o: DayObject, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows that count: between the offsets that the seal takes of this object."""
    with objects.open(o.object.key, o.object.version_id) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(
                group, columns=["log_offset", "raw", *columns], use_threads=False
            )
            yield from o.counting(table).combine_chunks().to_batches()


def _devices(objects: Objects, sources: Sources) -> Iterator[pa.Array]:
    for part in sources.base:
        with objects.open(part.key, part.version_id) as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                yield from parquet.read_row_group(group, columns=["device_id"], use_threads=False)[
                    "device_id"
                ].chunks
    for o in sources.landing:
        for batch in _row_groups(objects, o, ["device_id"]):
            yield batch["device_id"].drop_null()


def _plan(objects: Objects, sources: Sources) -> _Buckets:
    devices, counts = _counted(_devices(objects, sources))
    sizes = rows = 0
    places = [(p.key, p.version_id) for p in sources.base]
    places += [(o.object.key, o.object.version_id) for o in sources.landing]
    for key, version_id in places:
        with objects.open(key, version_id) as file:
            metadata = pq.ParquetFile(file).metadata
        rows += metadata.num_rows
        sizes += sum(metadata.row_group(g).total_byte_size for g in range(metadata.num_row_groups))
    per_row = sizes / rows if rows else 0
    limit = min(BUCKET_ROWS, int(BUCKET_BYTES / per_row) if per_row else BUCKET_ROWS)
    bucket = np.zeros(len(devices), dtype=np.int32)
    current = filled = 0
    for i, count in enumerate(counts.tolist()):
        if filled and filled + count > limit:
            current, filled = current + 1, 0
        bucket[i] = current
        filled += count
    return _Buckets(devices, bucket, current + 1 if len(devices) else 0)


def _counted(columns: Iterable[pa.Array]) -> tuple[pa.StringArray, npt.NDArray[np.int64]]:
    """(each device once, in byte order; rows of each)."""
    counted = [pc.value_counts(column) for column in columns]
    names = pa.chunked_array([c.field("values") for c in counted], pa.string()).combine_chunks()
    rows = [c.field("counts").to_numpy() for c in counted]
    encoded = names.dictionary_encode()
    total = np.zeros(len(encoded.dictionary), np.int64)
    np.add.at(total, encoded.indices.to_numpy(), np.concatenate([np.zeros(0, np.int64), *rows]))
    order = pc.sort_indices(encoded.dictionary)
    return encoded.dictionary.take(order), total[order.to_numpy()]


def _spill(
    objects: Objects,
    sources: Sources,
    buckets: _Buckets,
    paths: Sequence[Path],
    seen: Gathered,
) -> None:
    writers = [pa.ipc.new_stream(pa.OSFile(str(path), "wb"), EVENT_SCHEMA) for path in paths]
    try:
        for part in sources.base:
            with objects.open(part.key, part.version_id) as file:
                for rows in sealed.full_rows(file):
                    _spill_batch(rows, buckets, writers)
        for o in sources.landing:
            raw = 0
            for batch in _row_groups(objects, o, EVENT_SCHEMA.names):
                events = batch["raw"].null_count
                raw += len(batch) - events
                rows = batch.select(EVENT_SCHEMA.names)
                if events < len(batch):
                    rows = rows.filter(pc.is_null(batch["raw"]))
                seen.rows += len(rows)
                _spill_batch(rows, buckets, writers)
            if raw:
                seen.undecodable.append(named(o, raw))
    finally:
        for writer in writers:
            writer.close()


def _spill_batch(
    rows: pa.RecordBatch, buckets: _Buckets, writers: Sequence[pa.ipc.RecordBatchStreamWriter]
) -> None:
    if not len(rows):
        return
    place = buckets.of(rows["device_id"])
    if len(writers) == 1:
        writers[0].write_batch(rows)
        return
    order = np.argsort(place, kind="stable")
    moved = rows.take(pa.array(order))
    edges = np.searchsorted(place[order], np.arange(len(writers) + 1))
    for i, (start, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        if end > start:
            writers[i].write_batch(moved.slice(start, end - start))


def _proved(rows: pa.RecordBatch, tenant_id: str) -> pa.RecordBatch:
    for block in blocks(rows):
        lines = canonical_lines(
            block,
            tenant_id=tenant_id,
            checksum=sha256_hex(block["payload"]),
            prev_hash=hashes_of(block["prev_hash"]),
        )
        if (sha256_column(lines) != hashes_of(block["event_hash"])).any():
            raise SealRefused(
                "a row does not rebuild the event that its hash names",
                remedy="keep everything as it is and run `audit-platform fsck`",
            )
    return rows


def _deduplicated(rows: pa.RecordBatch, seen: Gathered) -> pa.RecordBatch:
    hashes = hashes_of(rows["event_hash"])
    again = np.zeros(len(rows), dtype=np.bool_)
    # Equal events have equal sort keys, so copies are neighbours; the first in the log comes first.
    again[1:] = (hashes[1:] == hashes[:-1]).all(axis=1)
    seen.duplicates += int(again.sum())
    return rows.filter(pa.array(~again)) if again.any() else rows


def merged(named_objects: Iterable[NamedObject]) -> list[NamedObject]:
    """Each object once: rows of an object on either side of a closing's end are added up."""
    rows: dict[NamedObject, int] = {}
    for o in named_objects:
        bare = replace(o, rows=0)
        rows[bare] = rows.get(bare, 0) + o.rows
    return [replace(bare, rows=count) for bare, count in rows.items()]


def named(o: DayObject, rows: int) -> NamedObject:
    """A landing or quarantine object as a manifest names it."""
    return NamedObject(o.object.key, o.object.version_id, o.object.sha256, o.object.size, rows)
