"""Which of some events the record holds already: sealed, landed, or in the log.

Belongs here: one pass for many hashes. Does not: one event by id (`query/event.py`), HOT (it holds
nothing that these do not). Source: design section 4 (copies count once).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.errors import OffsetOutOfRange
from audit_platform.operations.query import units
from audit_platform.operations.query.model import IsCancelled
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import days_between, scope_of_days
from audit_platform.record import layout
from audit_platform.record.event import canonical_of_stored

#: Bytes of the log that are read at a time.
_READ_BYTES: Final = 4 * 1024 * 1024

_LAST_DAY: Final = "9999-12-30"


def held(
    reader: Reader,
    tenant_id: str,
    events: Mapping[str, tuple[str, int]],
    is_cancelled: IsCancelled,
) -> tuple[set[str], list[str]]:
    """(hashes of those of `events` that the record holds, what could not be looked at, in words).

    `events` maps an eventHash (hex) to its device and its eventTime (ms since 1970).

    Looks at days from the earliest event's on; of those, at row groups whose times and devices fit.
    Raises `QueryCancelled`, `StoreUnavailable`, `LogUnavailable`.
    """
    if not events:
        return set(), []
    wanted = {bytes.fromhex(digest) for digest in events}
    times = [ms for _, ms in events.values()]
    devices = {device for device, _ in events.values()}
    # Before the archive is looked at: what is archived meanwhile is then seen twice, not never.
    logged = _in_log(reader, tenant_id, wanted, is_cancelled)
    first, _ = days_between(min(times) - layout.MS_PER_DAY, max(times))
    scope = scope_of_days(reader, tenant_id, first, _LAST_DAY)
    fitting = [s for s in scope.sources if any(s.may_hold(device) for device in devices)]
    found = set(logged)
    hashes = pa.array(sorted(wanted), pa.binary(32))
    for unit in units.units_of(reader, scope, fitting, is_cancelled):
        if not unit.may_hold_time("event_time", min(times), max(times) + 1):
            continue
        batch = units.read(reader, scope, unit, units.place_columns(unit.source))
        if batch is None:
            continue
        here = batch["event_hash"].cast(pa.binary(32))
        mask = pc.and_(pc.is_in(here, value_set=hashes), units.counts_mask(unit, batch))
        found.update(h.hex() for h in here.filter(mask).to_pylist())
    lost = [f"{key} cannot be read" for key in sorted(scope.unavailable)]
    return found, [*dict.fromkeys(scope.problems), *lost]


def _in_log(
    reader: Reader, tenant_id: str, wanted: Collection[bytes], is_cancelled: IsCancelled
) -> set[str]:
    """Hashes of those that stand in the log behind what is archived."""
    log = reader.platform.log
    generation = reader.generation()
    topic = generation.topic(layout.EVENTS_TOPIC) if generation else None
    found: set[str] = set()
    for partition in range(log.describe(layout.EVENTS_TOPIC).partitions):
        at, end = log.bounds(layout.EVENTS_TOPIC, partition)
        if generation is not None and topic is not None:
            last = reader.last_range(layout.EVENTS_TOPIC, generation.number, partition, end)
            at = max(at, topic.start_offsets[partition], last.end_offset if last else 0)
        while at < end:
            units.check(is_cancelled)
            try:
                records = log.read(layout.EVENTS_TOPIC, partition, at, _READ_BYTES)
            except OffsetOutOfRange as e:
                at = e.start  # retention went on while we read
                continue
            if not records:
                break
            for record in records:
                if record.headers.get("tenant") == tenant_id:
                    found |= _of_lines(record.value, wanted)
                at = record.offset + 1
    return found


def _of_lines(value: bytes, wanted: Collection[bytes]) -> set[str]:
    found: set[str] = set()
    for line in value.split(b"\n"):
        try:
            digest = hashlib.sha256(canonical_of_stored(line)).digest()
        except ValueError:
            continue
        if digest in wanted:
            found.add(digest.hex())
    return found
