"""What a tenant's day of HOT must hold: its rows out of COLD, landing, and the log behind landing.

A sealed day is what its newest manifest's parts hold, and what came since and waits for a revision;
another day is what range records name. The log gives what is not archived yet. Each row is proved
before it is handed on: what it says rebuilds the canonical event that its hash names.
Belongs here: those rows. Does not: indexes and aliases (`rebuild_hot.py`).
Source: design section 8 (rebuild of HOT); rows of landing: section 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit_platform.errors import (
    GenerationMismatch,
    ObjectNotFound,
    OffsetOutOfRange,
    UnknownTopic,
)
from audit_platform.operations import late
from audit_platform.operations.coverage import DayObject, range_records
from audit_platform.operations.generations import check_topic, current_generation
from audit_platform.operations.held import HeldRows
from audit_platform.operations.log_events import log_events, tenant_of
from audit_platform.operations.manifests import History, read_valid, sealed_days
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import listed_days
from audit_platform.ports import LogRecord, Platform
from audit_platform.record import sealed
from audit_platform.record.columns import (
    EVENT_SCHEMA,
    blocks,
    canonical_lines,
    hashes_of,
)
from audit_platform.record.digests import sha256_column, sha256_hex
from audit_platform.record.layout import EVENTS_TOPIC, LANDING, PLATFORM_TENANT
from audit_platform.record.manifest import Manifest, Part

#: Bytes of log values held at a time.
_READ_BYTES: Final = 4 * 1024 * 1024

#: Partition -> offset of the log of events.
Offsets = Mapping[int, int]


@dataclass(slots=True)
class Seen:
    """What was read so far. `problems` are objects or offsets that could not be, in words."""

    cold: int = 0
    landing: int = 0
    log: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)


class DaySource:
    """Rows of one tenant's day. Rows may come twice; the eventHash tells them apart."""

    def __init__(self, platform: Platform, tenant_id: str, day: str) -> None:
        self._platform = platform
        self.tenant_id = tenant_id
        self.day = day
        self._history = History(tuple(read_valid(platform, tenant_id)))
        #: The manifest that counts for the day, or None.
        self.manifest: Manifest | None = self._history.counting.get(day)
        #: What was read, and what could not be.
        self.seen = Seen()

    # ---------------------------------------------------------------------------- archived rows

    def archived(self) -> Iterator[pa.RecordBatch]:
        """Proved rows out of COLD and landing. Raises `StoreUnavailable`, `RecordMalformed`."""
        for part in self.parts():
            yield from self.rows_of(part)
        yield from self.landed()

    def parts(self) -> Sequence[Part]:
        """The parts of the day's manifest; none for a day that is not sealed."""
        return self.manifest.parts if self.manifest is not None else ()

    def rows_of(self, part: Part) -> Iterator[pa.RecordBatch]:
        """Proved rows of a part. Raises `StoreUnavailable`."""
        yield from self._part(part.object.key, part.object.version_id, part.object.rows)

    def landed(self) -> Iterator[pa.RecordBatch]:
        """Proved rows of landing that no manifest covers. Raises as `archived`."""
        since = self._covered() if self.manifest is not None else {}
        objects = self._platform.objects
        named = late.landed_beyond(objects, self.tenant_id, self.day, EVENTS_TOPIC, since)
        for o in named:
            yield from self._landed(o)

    def _covered(self) -> late.Ends:
        """How far the day's manifests reach: each holds what the one before does, and more."""
        ends: dict[late.Place, int] = {}
        for manifest in self._history.manifests:
            if manifest.day == self.day:
                for place, end in late.ends_of_manifest(manifest).items():
                    ends[place] = max(end, ends.get(place, 0))
        return ends

    def _part(self, key: str, version_id: str, rows: int) -> Iterator[pa.RecordBatch]:
        found = 0
        try:
            with self._platform.objects.open(key, version_id) as file:
                for batch in sealed.full_rows(file):
                    found += batch.num_rows
                    self.seen.cold += batch.num_rows
                    yield self._proved(batch)
        except (ObjectNotFound, pa.ArrowException, OSError, KeyError, ValueError) as e:
            self.seen.problems.append(f"{key}: {e}")
            return
        if found != rows:
            self.seen.problems.append(f"{key}: {found} rows, its manifest says {rows}")

    def _landed(self, o: DayObject) -> Iterator[pa.RecordBatch]:
        try:
            with self._platform.objects.open(o.object.key, o.object.version_id) as file:
                parquet = pq.ParquetFile(file)
                if parquet.metadata.num_rows != o.object.rows:
                    self.seen.problems.append(f"{o.object.key}: not the rows that its range says")
                for group in range(parquet.num_row_groups):
                    table = parquet.read_row_group(group, use_threads=False)
                    table = o.counting(table)
                    table = table.filter(pc.is_null(table["raw"]))
                    for batch in table.select(EVENT_SCHEMA.names).combine_chunks().to_batches():
                        self.seen.landing += batch.num_rows
                        yield self._not_held(self._proved(batch))
        except (ObjectNotFound, pa.ArrowException, OSError, KeyError, ValueError) as e:
            self.seen.problems.append(f"{o.object.key}: {e}")

    def _proved(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        good = [
            sha256_column(
                canonical_lines(
                    block,
                    tenant_id=self.tenant_id,
                    checksum=sha256_hex(block["payload"]),
                    prev_hash=hashes_of(block["prev_hash"]),
                )
            )
            == hashes_of(block["event_hash"])
            for block in blocks(rows)
        ]
        if not good:
            return rows
        mask = np.concatenate(good).all(axis=1)
        self.seen.refused += int((~mask).sum())
        return rows if mask.all() else rows.filter(pa.array(mask))

    def _not_held(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Of a sealed day's late rows those that no manifest holds: the others are copies."""
        if self.manifest is None or not rows.num_rows:
            return rows
        rows = rows.take(pa.array(sealed.sort_order(rows)))
        held = HeldRows(self._platform.objects, self._history.manifests).mask(rows)
        return rows.filter(pa.array(~held)) if held.any() else rows

    def logged(self, starts: Offsets, ends: Offsets) -> Iterator[pa.RecordBatch]:
        """Rows of log records from `starts` up to `ends`. Raises `LogUnavailable`."""
        for records in OurLog(self._platform).records(starts, ends, self.seen.problems):
            own = [r for r in records if tenant_of(r) == self.tenant_id]
            for rows in log_events(own).rows.get((self.tenant_id, self.day), []):
                self.seen.log += rows.num_rows
                yield self._not_held(rows)


class OurLog:
    """The log of events behind what is archived of it."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def ends(self) -> dict[int, int]:
        """Offset after the last record of each partition now.

        Empty when this is not the log that landing was made from: nothing in it is known then.
        Raises `LogUnavailable`.
        """
        log = self._platform.log
        try:
            generation = current_generation(self._platform)
            if generation is not None:
                check_topic(log, generation, EVENTS_TOPIC)
            partitions = log.describe(EVENTS_TOPIC).partitions
        except (GenerationMismatch, UnknownTopic):
            return {}
        return {p: log.bounds(EVENTS_TOPIC, p)[1] for p in range(partitions)}

    def archived_ends(self, ends: Offsets) -> dict[int, int]:
        """Up to where range records reach in each partition, of the log that has these ends."""
        generation = current_generation(self._platform)
        if generation is None:
            return {p: self._platform.log.bounds(EVENTS_TOPIC, p)[0] for p in ends}
        topic = generation.topic(EVENTS_TOPIC)
        reached = {p: topic.start_offsets[p] if topic else 0 for p in ends}
        for p, end in ends.items():
            walk = range_records(
                self._platform.objects, EVENTS_TOPIC, generation.number, p, holding=end
            )
            for record in walk:
                reached[p] = max(reached[p], record.end_offset)
        return reached

    def records(
        self, starts: Offsets, ends: Offsets, problems: list[str]
    ) -> Iterator[list[LogRecord]]:
        """Records from `starts` up to `ends`, some of one partition at a time.

        What the log has no more is added to `problems`. Raises `LogUnavailable`.
        """
        for partition, end in sorted(ends.items()):
            yield from self._records(partition, starts.get(partition, end), end, problems)

    def _records(
        self, partition: int, offset: int, end: int, problems: list[str]
    ) -> Iterator[list[LogRecord]]:
        while offset < end:
            try:
                records = self._platform.log.read(EVENTS_TOPIC, partition, offset, _READ_BYTES)
            except OffsetOutOfRange as e:
                problems.append(f"neither archived nor in the log any more: {e.reason}")
                offset = e.start if e.start > offset else end
                continue
            records = [r for r in records if r.offset < end]
            if not records:
                return
            offset = records[-1].offset + 1
            yield records


def rebuildable(platform: Platform, tenant_id: str | None = None) -> list[tuple[str, str]]:
    """(tenant, day) of everything that COLD, landing, the log or HOT knows of, in order.

    Raises `StoreUnavailable`, `LogUnavailable`, `HotUnavailable`, `MetadataUnavailable`.
    """
    if tenant_id is None:
        known = {t.tenant_id for t in platform.metadata.tenants()}
        tenants = known | {PLATFORM_TENANT} | {i.tenant_id for i in platform.hot.indexes()}
    else:
        tenants = {tenant_id}
    found = {(i.tenant_id, i.day) for i in platform.hot.indexes() if i.tenant_id in tenants}
    reader = Reader(platform)
    for tenant in tenants:
        days = sealed_days(platform, tenant)
        days.update(listed_days(reader, LANDING, tenant, "0001-01-01", "9999-12-31"))
        found |= {(tenant, day) for day in days}
    return sorted(found | {place for place in _in_the_log(platform) if place[0] in tenants})


def _in_the_log(platform: Platform) -> set[tuple[str, str]]:
    """Tenants and days of what is not archived yet."""
    log = OurLog(platform)
    ends = log.ends()
    found: set[tuple[str, str]] = set()
    for records in log.records(log.archived_ends(ends), ends, []):
        found.update(log_events(records).rows)
    return found
