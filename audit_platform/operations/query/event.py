"""One event by its id or its hash: its copies, their exact bytes, where they stand, their proof.

Belongs here: finding rows by id, rebuilding their bytes, proving a sealed row. Does not: the form
and check of a proof (`record/proofs.py`), quarantine's objects (`quarantine.py`).
Source: issue "One machine, whole"; design section 3 (eventId), 5 (an inclusion proof reads one row
group).

An eventId tells its eventTime, so the days around that are looked at first; only when they hold
nothing, all others, newest first. A row group is read when its Bloom filter (sealed parts) and then
one of its times fit. A hash tells no time: every row group's hashes are read, newest day first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from audit_platform.errors import AuditPlatformError, HotUnavailable, Recoverable
from audit_platform.operations.query import quarantine, units
from audit_platform.operations.query.cold import Place as LogPlace
from audit_platform.operations.query.cold import place_of, standing_of
from audit_platform.operations.query.model import (
    EventCopy,
    EventFound,
    IsCancelled,
    Place,
    Standing,
    Tier,
    never,
)
from audit_platform.operations.query.reach import completeness
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import Scope, Source, scope_of_days
from audit_platform.operations.query.units import Unit
from audit_platform.ports import HOT_COPY_DAYS, EventClock, EventQuery
from audit_platform.record import bloom, layout, merkle, sealed
from audit_platform.record.chain import Verdict
from audit_platform.record.columns import (
    Ints,
    Mask,
    canonical_lines,
    hashes_of,
    ints_of,
    stored_lines,
)
from audit_platform.record.digests import sha256_hex
from audit_platform.record.lines import FIRST_MS
from audit_platform.record.proofs import EventProof

_EVENT_ID: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_ENTRY_ID: Final = re.compile(r"[0-9a-f]{32}")

_FIRST_DAY: Final = "0001-01-02"
_LAST_DAY: Final = "9999-12-30"
#: So near to the last day that there are not as many after it as are looked at.
_NEAR_THE_END: Final = "9999-12-20"
_LAST_MS: Final = layout.day_start_ms("9999-12-31") + layout.MS_PER_DAY - 1
_ID_MS: Final = 2**48


class NotAnId(AuditPlatformError):
    """What was asked for is neither an eventId nor an eventHash nor a quarantine entry's id."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that was found: `row` counts in its row group."""

    unit: Unit
    row: int
    event_hash: bytes
    event_id: str
    place: LogPlace


def event_by_id(
    reader: Reader, tenant_id: str, asked: str, *, is_cancelled: IsCancelled = never
) -> EventFound:
    """Everything that is held of an event of a tenant, or of a quarantine entry.

    `asked` is an eventId, an eventHash (64 hex digits) or an entry id (32). Not found is an answer.
    Raises `NotAnId`, `QueryCancelled`, `StoreUnavailable`.
    """
    search = _Finder(reader, tenant_id, is_cancelled)
    notes: list[str] = []
    rows: list[_Row] = []
    if _EVENT_ID.fullmatch(asked):
        rows = search.by_id(asked)
        if not rows and _is_in_hot(reader, tenant_id, asked, is_cancelled):
            notes.append("HOT holds the event: it is not archived yet")
    elif _HASH.fullmatch(asked):
        rows = search.by_hash(bytes.fromhex(asked))
    elif not _ENTRY_ID.fullmatch(asked):
        raise NotAnId(
            f"{asked!a} is no id",
            remedy="wanted an eventId (UUIDv7, lower case), an eventHash (64 hex digits) or the"
            " id of a quarantine entry (32 hex digits)",
        )
    scope = search.scope
    copies = [copy for row in search.counting(rows) if (copy := search.copy(row)) is not None]
    # What was refused came when its copies came, if there are any; else at any time.
    days = search.days if copies else (_FIRST_DAY, _LAST_DAY)
    entry_days = quarantine.quarantine_days(reader, tenant_id, *days)
    entries = quarantine.find(reader, scope, asked, entry_days, is_cancelled)
    return EventFound(
        tenant_id=tenant_id,
        asked=asked,
        copies=tuple(copies),
        quarantined=tuple(entries),
        verdict=_verdict(copies),
        completeness=completeness(reader, scope, Tier.COLD, notes),
    )


def _is_in_hot(reader: Reader, tenant_id: str, event_id: str, is_cancelled: IsCancelled) -> bool:
    try:
        for ms in _times_of(event_id):
            query = EventQuery(
                tenant_id, ms, ms + 1, clock=EventClock.EVENT, text=event_id, limit=1
            )
            if reader.platform.hot.search(query, is_cancelled=is_cancelled).num_rows:
                return True
    except HotUnavailable:
        pass  # HOT only says here why COLD has nothing
    return False


def _times_of(event_id: str) -> list[int]:
    """The event times that an eventId can stand for: its 48 bits wrap once in 9,999 years."""
    ms = int(event_id.replace("-", "")[:12], 16)
    return [t for t in (ms, ms - _ID_MS) if FIRST_MS <= t <= _LAST_MS]


def _verdict(copies: Sequence[EventCopy]) -> Verdict:
    if len({copy.event_hash for copy in copies}) < 2:  # noqa: PLR2004 - one event has one hash
        return Verdict.OK
    checksums = {_CHECKSUM.search(copy.stored) for copy in copies}
    return Verdict.RESENT if len({m[1] if m else b"" for m in checksums}) == 1 else Verdict.ID_REUSE


_CHECKSUM: Final = re.compile(rb'^\{"chainId":"[0-9a-f]{16}","checksum":"([0-9a-f]{64})"')


class _Finder:
    """Rows of a tenant by id."""

    def __init__(self, reader: Reader, tenant_id: str, is_cancelled: IsCancelled) -> None:
        self._reader, self._tenant_id, self._is_cancelled = reader, tenant_id, is_cancelled
        #: What was looked at, and its first and last day.
        self.scope = Scope(tenant_id)
        self.days = (_FIRST_DAY, _LAST_DAY)

    def _look_at(self, first: str, last: str) -> None:
        self.days = first, last
        unavailable = self.scope.unavailable
        self.scope = scope_of_days(self._reader, self._tenant_id, first, last)
        self.scope.unavailable |= unavailable

    def by_id(self, event_id: str) -> list[_Row]:
        """Rows with this eventId: those of the days around its time, or else of all days."""
        times = _times_of(event_id)
        day = layout.day_of(times[0]) if len(times) == 1 else _FIRST_DAY
        if _FIRST_DAY < day < _NEAR_THE_END:
            self._look_at(layout.next_day(day, -1), layout.next_day(day, HOT_COPY_DAYS))
            found = list(self._with_id(event_id, list(self.scope.days)))
            if found:
                return found
        near = set(self.scope.days)
        self._look_at(_FIRST_DAY, _LAST_DAY)
        return list(self._with_id(event_id, [d for d in self.scope.days if d not in near]))

    def by_hash(self, event_hash: bytes) -> list[_Row]:
        """The same by eventHash; with it come the other copies of its eventId."""
        wanted = np.frombuffer(event_hash, dtype=np.uint8)
        self._look_at(_FIRST_DAY, _LAST_DAY)
        for day in sorted(self.scope.days, reverse=True):
            for unit in self._units([day]):
                batch = self._read(unit, units.place_columns(unit.source))
                if batch is None:
                    continue
                same = (hashes_of(batch["event_hash"]) == wanted).all(axis=1)
                at = np.flatnonzero(same & units.counts_mask(unit, batch))
                if len(at):
                    ids = self._read(unit, ["event_id"])
                    event_id = "" if ids is None else ids["event_id"][int(at[0])].as_py()
                    found = self._rows(unit, batch, at, event_id)
                    known = self.by_id(event_id) if _EVENT_ID.fullmatch(event_id) else []
                    return [*found, *known]
        return []

    def _units(self, days: Sequence[str], value_hash: int | None = None) -> Iterator[Unit]:
        """Row groups of days, those that can hold an eventId when its hash is given."""
        wanted = set(days)
        for source in self.scope.sources:
            if source.day in wanted:
                found = units.units_of(self._reader, self.scope, [source], self._is_cancelled)
                if value_hash is not None and source.sealed:
                    yield from self._sieved(source, list(found), value_hash)
                else:
                    yield from found

    def _read(self, unit: Unit, columns: Sequence[str]) -> pa.RecordBatch | None:
        units.check(self._is_cancelled)
        return units.read(self._reader, self.scope, unit, columns)

    def _with_id(self, event_id: str, days: Sequence[str]) -> Iterator[_Row]:
        times = _times_of(event_id)
        value_hash = bloom.xxh64(event_id.encode())
        for day in sorted(days, reverse=True):
            for unit in self._units([day], value_hash):
                if not any(unit.may_hold_time("event_time", t, t + 1) for t in times):
                    continue
                when = self._read(unit, ["event_time"])
                if when is None or not _has_any(when["event_time"], times):
                    continue
                columns = ["event_id", *units.place_columns(unit.source)]
                batch = self._read(unit, columns)
                if batch is None:
                    continue
                same = units.equal_mask(batch, "event_id", event_id)
                at = np.flatnonzero(same & units.counts_mask(unit, batch))
                yield from self._rows(unit, batch, at, event_id)

    def _rows(self, unit: Unit, batch: pa.RecordBatch, at: Ints, event_id: str) -> list[_Row]:
        hashes = hashes_of(batch["event_hash"])
        return [
            _Row(unit, i, hashes[i].tobytes(), event_id, place_of(unit.source, batch, i))
            for i in at.tolist()
        ]

    def _sieved(self, source: Source, found: list[Unit], value_hash: int) -> list[Unit]:
        """Row groups of a sealed part whose Bloom filter lets an eventId through."""
        if not found:
            return []
        passed: list[Unit] = []
        try:
            filters = self._reader.footer(source.key, source.version_id).bloom
            with self._reader.platform.objects.open(source.key, source.version_id) as file:
                for unit in found:
                    at = bloom.block_of(*filters[unit.group.number], value_hash)
                    if at is None:
                        passed.append(unit)  # without a filter it may hold anything
                        continue
                    file.seek(at)
                    if bloom.may_hold(file.read(bloom.BLOCK_BYTES), value_hash):
                        passed.append(unit)
        except Recoverable:
            raise
        except units.UNREADABLE:
            self.scope.unavailable.add(source.key)
            return []
        return passed

    def counting(self, rows: Sequence[_Row]) -> list[_Row]:
        """One row for each eventHash: the copy that counts."""
        best: dict[bytes, _Row] = {}
        for row in sorted(rows, key=lambda r: r.place):
            best.setdefault(row.event_hash, row)
        return list(best.values())

    def copy(self, found: _Row) -> EventCopy | None:
        """The row with its bytes and proof; None (and told) when it cannot be read any more."""
        unit = found.unit
        rows = units.event_rows(self._reader, self.scope, unit, np.array([found.row]))
        if rows is None:
            return None
        canonical, stored = (
            rebuilt(
                rows,
                tenant_id=self.scope.tenant_id,
                checksum=sha256_hex(rows["payload"]),
                prev_hash=hashes_of(rows["prev_hash"]),
            )[0]
            .as_py()
            .encode()
            for rebuilt in (canonical_lines, stored_lines)
        )
        ingestion_ms = int(ints_of(rows["ingestion_time"])[0])
        standing = standing_of(unit.source)
        proof = None
        if standing is Standing.SEALED:
            proof = self._proof(found, ingestion_ms)
            # The manifest is good and the row group is not what it signs.
            standing = Standing.SEALED if proof else Standing.UNVERIFIED_DAY
        return EventCopy(
            event_hash=found.event_hash.hex(),
            stored=stored,
            proven=hashlib.sha256(canonical).digest() == found.event_hash,
            ingestion_ms=ingestion_ms,
            standing=standing,
            place=Place(unit.source.key, unit.source.version_id, unit.group.first_row + found.row),
            proof=proof,
        )

    def _proof(self, found: _Row, ingestion_ms: int) -> EventProof | None:
        """The inclusion proof of a sealed row, checked; None when the row group was changed."""
        unit = found.unit
        source = unit.source
        facts = self.scope.sealed[source.day].facts
        part = facts.parts[source.part]
        batch = self._read(unit, ["event_hash", "ingestion_time"])
        if batch is None or unit.group.number >= len(part.row_group_roots):
            return None
        path = merkle.prove_row(
            merkle.leaf_hashes(hashes_of(batch["event_hash"]), ints_of(batch["ingestion_time"])),
            [bytes.fromhex(r) for r in part.row_group_roots],
            [bytes.fromhex(p.root) for p in facts.parts],
            row=unit.group.first_row + found.row,
            rows=part.object.rows,
            group_rows=sealed.ROWS_PER_GROUP,
            part=source.part,
        )
        root = bytes.fromhex(facts.root)
        if not merkle.row_is_included(path, found.event_hash, ingestion_ms, root):
            return None
        return EventProof(
            tenant_id=self.scope.tenant_id,
            day=source.day,
            event_hash=found.event_hash.hex(),
            ingestion_ms=ingestion_ms,
            manifest_number=facts.number,
            manifest_key=facts.key,
            manifest_version_id=facts.version_id,
            manifest_sha256=facts.sha256,
            key_id=facts.key_id,
            part_key=part.object.key,
            part_root=part.root,
            day_root=facts.root,
            path=path,
        )


def _has_any(column: pa.Array, times: Sequence[int]) -> bool:
    ms = ints_of(column.cast(pa.int64()).fill_null(FIRST_MS - 1))
    hit: Mask = np.isin(ms, np.array(times, dtype=np.int64))
    return bool(hit.any())
