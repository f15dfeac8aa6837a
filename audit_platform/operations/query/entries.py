"""Quarantine as a list: what was refused, when and why, without the bytes.

Belongs here: entries of a tenant by the time at which they came, page by page. Does not: one entry
with its bytes (`event.py` finds it by id), the objects (`quarantine.py`), what becomes of an entry
(DLQ replay). Source: design sections 5 and 7; failure 12 (the operator looks at what was refused).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from audit_platform.operations.query import quarantine, units
from audit_platform.operations.query.model import Completeness, IsCancelled, Place, Tier, never
from audit_platform.operations.query.reach import completeness
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import days_between, scope_of_days

#: A list must not read megabytes of refused lines.
_PLAIN: Final = (
    "entry_id",
    "gateway",
    "batch_id",
    "line",
    "slug",
    "field",
    "reason",
    "remedy",
    "sha256",
)
_LISTED: Final = (*_PLAIN, "received_ms", "chunk", "link_device_id", "link_event_hash")


@dataclass(frozen=True, slots=True)
class EntryLine:
    """One entry without its bytes. `device_id` and `event_hash` are "" outside any chain."""

    entry_id: str
    received_ms: int
    gateway: str
    batch_id: str
    line: int
    slug: str
    field: str
    reason: str
    remedy: str
    sha256: str
    device_id: str
    event_hash: str
    place: Place


@dataclass(frozen=True, slots=True)
class EntryList:
    """Entries ascending by (received, id), each once; `next` is the last one's when there are more.

    What a gateway has refused is archived, and so listed here, about a minute later.
    """

    entries: tuple[EntryLine, ...]
    next: tuple[int, str] | None
    completeness: Completeness


def quarantine_entries(
    reader: Reader,
    tenant_id: str,
    from_ms: int,
    to_ms: int,
    *,
    after: tuple[int, str] | None = None,
    limit: int = 100,
    is_cancelled: IsCancelled = never,
) -> EntryList:
    """Archived entries of a tenant that came in `from_ms <= t < to_ms`, behind `after`.

    Raises `QueryCancelled`, `StoreUnavailable`; objects that cannot be read are told, not raised.
    """
    scope = scope_of_days(reader, tenant_id, *days_between(from_ms, to_ms))
    first, last = days_between(max(from_ms, after[0]) if after else from_ms, to_ms)
    found: dict[str, EntryLine] = {}
    for day in quarantine.quarantine_days(reader, tenant_id, first, last):
        if len(found) > limit:
            break
        for place in quarantine.objects_of(reader, scope, day):
            units.check(is_cancelled)
            table = quarantine.read_object(reader, scope, place, _LISTED)
            for line in _lines(table, place) if table is not None else ():
                is_wanted = from_ms <= line.received_ms < to_ms
                if is_wanted and (after is None or (line.received_ms, line.entry_id) > after):
                    found.setdefault(line.entry_id, line)
    ordered = sorted(found.values(), key=lambda line: (line.received_ms, line.entry_id))
    page = ordered[:limit]
    more = (page[-1].received_ms, page[-1].entry_id) if len(ordered) > limit else None
    return EntryList(tuple(page), more, completeness(reader, scope, Tier.COLD, []))


def _lines(table: pa.Table, place: tuple[str, str]) -> Iterator[EntryLine]:
    position = table.schema.get_field_index("received_ms")
    # As integers: a time in a table may lie outside what datetime can hold.
    received = table.column(position).cast(pa.int64())
    plain = table.set_column(position, "received_ms", received)
    for row, values in enumerate(plain.to_pylist()):
        # A later chunk says nothing new; a raw row is no entry.
        if values["entry_id"] is not None and values["chunk"] == 0:
            yield EntryLine(
                **{name: values[name] for name in _PLAIN},
                received_ms=values["received_ms"],
                device_id=values["link_device_id"] or "",
                event_hash=values["link_event_hash"] or "",
                place=Place(*place, row),
            )
