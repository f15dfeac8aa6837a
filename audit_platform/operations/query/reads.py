"""Who looked at what: the platform's own events about one tenant.

Belongs here: finding reads and refusals that concern a tenant, and what of them its people may see.
Does not: writing them (`own_events.py` and query-api), access.
Source: issue "One machine, whole" (access); design section 8 (reserved tenant).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
import pyarrow as pa

from audit_platform.operations.query.model import Completeness, IsCancelled, never
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.search import search
from audit_platform.ports import EventPosition, EventQuery
from audit_platform.record.columns import ints_of
from audit_platform.record.layout import PLATFORM_TENANT

#: Event types that say who looked at what.
READ_TYPES: Final = frozenset({"record_read", "access_refused"})

#: Rows of one look: those that name the tenant's words without being about it are passed over.
_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Read:
    """One read or refusal; `payload` is as its schema has it.

    `keyId`, `keyTenant`, `role` and `subject` are left out when it was none of the tenant's own.
    """

    event_type: str
    event_id: str
    event_hash: str
    time_ms: int
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reads:
    """Reads ascending by time; `next` is the position of the last one when there are more."""

    reads: tuple[Read, ...]
    next: EventPosition | None
    completeness: Completeness


def reads_of(
    reader: Reader,
    tenant_id: str,
    from_ms: int,
    to_ms: int,
    *,
    after: EventPosition | None = None,
    limit: int = 100,
    is_cancelled: IsCancelled = never,
) -> Reads:
    """Reads and refusals that concern a tenant, recorded in `from_ms <= t < to_ms`.

    Raises as `search`.
    """
    # The tenant's name stands in each of them, so its words find them all, and some others.
    query = EventQuery(PLATFORM_TENANT, from_ms, to_ms, text=tenant_id, after=after, limit=_BATCH)
    found: list[tuple[Read, EventPosition]] = []
    while True:
        page = search(reader, query, is_cancelled=is_cancelled)
        found += _about(page.rows, tenant_id)
        if page.next is None or len(found) > limit:
            more = found[limit - 1][1] if len(found) > limit else None
            return Reads(tuple(read for read, _ in found[:limit]), more, page.completeness)
        query = replace(query, after=page.next)


def _about(rows: pa.Table, tenant_id: str) -> Iterator[tuple[Read, EventPosition]]:
    """Reads of one page that concern the tenant, and where each stands."""
    times = ints_of(rows["ingestion_time"].combine_chunks()).tolist()
    columns = (rows[name].to_pylist() for name in _COLUMNS)
    for ms, (kind, event_id, event_hash, device, number, text) in zip(
        times, zip(*columns, strict=True), strict=True
    ):
        payload = orjson.loads(text) if kind in READ_TYPES else {}
        if payload.get("tenant") != tenant_id:
            continue
        if payload.get("keyTenant") != tenant_id:
            # Another tenant's people are not this tenant's business; that somebody tried, is.
            payload = {name: value for name, value in payload.items() if name not in _WHO}
        read = Read(kind, event_id, event_hash.hex(), ms, payload)
        yield read, EventPosition(ms, device, number, event_hash)


_COLUMNS: Final = (
    "event_type",
    "event_id",
    "event_hash",
    "device_id",
    "sequence_number",
    "payload",
)
_WHO: Final = frozenset({"keyId", "keyTenant", "role", "subject"})
