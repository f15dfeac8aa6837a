"""Refused lines in quarantine: found by id, and as links of a device's chain.

Belongs here: which quarantine objects a question concerns, and reading them. Does not: the entry's
form (`record/deadletter.py`, `record/quarantine.py`). Source: design sections 5 and 7.

Quarantine is small beside landing: objects of a day are listed and read whole, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.errors import RecordMalformed, Recoverable
from audit_platform.operations.query import units
from audit_platform.operations.query.model import IsCancelled, Place, Quarantined
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import Scope, listed_days
from audit_platform.record import layout
from audit_platform.record.deadletter import DeadLetter, assemble
from audit_platform.record.links import EventLink
from audit_platform.record.manifest import QuarantinedLink
from audit_platform.record.parquet import read_columns
from audit_platform.record.quarantine import QUARANTINE_SCHEMA, from_table

#: Columns by which an entry is found: its own id, and those of the event that it still is.
_IDS: Final = ("entry_id", "link_event_id", "link_event_hash")

_Object = tuple[str, str]


def objects_of(reader: Reader, scope: Scope, day: str) -> Iterator[_Object]:
    """Quarantine objects of a day that range records name."""
    prefix = layout.range_objects_prefix(layout.QUARANTINE, scope.tenant_id, day)
    for version in reader.platform.objects.versions(prefix):
        parsed = layout.parse_range_object(version.key)
        if parsed is None or version.is_delete_marker:
            continue
        try:
            found = reader.range_at(parsed[0])
        except RecordMalformed as e:
            scope.problems.append(e.reason)
            continue
        place = (version.key, version.version_id)
        if found is not None and place in {(o.key, o.version_id) for o in found.objects}:
            yield place


def read_object(
    reader: Reader, scope: Scope, place: tuple[str, str], columns: Iterable[str]
) -> pa.Table | None:
    """These columns of an object; None, and noted in the scope, when it cannot be read."""
    try:
        with reader.platform.objects.open(*place) as file:
            return read_columns(file, list(columns))
    except Recoverable:
        raise
    except units.UNREADABLE:
        scope.unavailable.add(place[0])
        return None


def links_of(
    reader: Reader, scope: Scope, device_id: str, days: Iterable[str], is_cancelled: IsCancelled
) -> list[QuarantinedLink]:
    """Refused events of these days that are links of a device's chains."""
    names = [n for n in QUARANTINE_SCHEMA.names if n.startswith("link_")]
    found: dict[str, QuarantinedLink] = {}
    for day in days:
        for place in objects_of(reader, scope, day):
            units.check(is_cancelled)
            table = read_object(reader, scope, place, ["entry_id", "slug", "chunk", *names])
            if table is None:
                continue
            of_device = pc.and_(
                pc.equal(table["chunk"], 0), pc.equal(table["link_device_id"], device_id)
            )
            for row in table.filter(of_device).to_pylist():
                link = EventLink(**{n.removeprefix("link_"): row[n] for n in names})
                found.setdefault(
                    link.event_hash, QuarantinedLink(row["entry_id"], row["slug"], link)
                )
    return list(found.values())


def quarantine_days(reader: Reader, tenant_id: str, first: str, last: str) -> list[str]:
    """Days of which quarantine holds anything of a tenant."""
    return list(listed_days(reader, layout.QUARANTINE, tenant_id, first, last))


def find(
    reader: Reader, scope: Scope, asked: str, days: Iterable[str], is_cancelled: IsCancelled
) -> list[Quarantined]:
    """Entries with this entry id, or that refused an event with this eventId or eventHash."""
    entries: dict[str, list[DeadLetter]] = {}
    places: dict[str, Place] = {}
    for day in days:
        for place in objects_of(reader, scope, day):
            units.check(is_cancelled)
            ids = read_object(reader, scope, place, _IDS)
            if ids is None:
                continue
            hits = [pc.equal(ids[name], asked).fill_null(fill_value=False) for name in _IDS]
            mask = pc.or_(pc.or_(hits[0], hits[1]), hits[2])
            if not pc.any(mask).as_py():
                continue
            table = read_object(reader, scope, place, QUARANTINE_SCHEMA.names)
            if table is None:
                continue
            wanted = table.filter(mask).cast(QUARANTINE_SCHEMA)
            at = pc.indices_nonzero(mask).to_pylist()
            for i, row in zip(at, from_table(wanted, scope.tenant_id), strict=True):
                if row.entry is not None:
                    entries.setdefault(row.entry.entry_id, []).append(row.entry)
                    places.setdefault(row.entry.entry_id, Place(*place, i))
    return [_told(found, places[entry_id]) for entry_id, found in entries.items()]


def _told(chunks: list[DeadLetter], place: Place) -> Quarantined:
    joined = assemble(chunks).whole
    first = joined[0] if joined else min(chunks, key=lambda e: e.chunk)
    return Quarantined(
        entry_id=first.entry_id,
        slug=first.slug,
        field=first.field,
        reason=first.reason,
        remedy=first.remedy,
        received_ms=first.received_ms,
        data=first.data,
        whole=bool(joined),
        event_hash=first.link.event_hash if first.link else "",
        place=place,
    )
