"""Refused lines by cause: how many, since when, one of them to look at, and their ids.

A cause is the reason's slug, the schema that the line names, and the path of what is wrong. Belongs
here: counting by cause. Does not: single entries (`query/entries.py`), decisions (`records.py`).
Source: the mission's row 12 (the operator looks at what was refused, by cause).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.operations.query import quarantine, units
from audit_platform.operations.query.model import Completeness, IsCancelled, Tier, never
from audit_platform.operations.query.reach import completeness
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.scope import days_between, scope_of_days
from audit_platform.record.decision import MAX_LINES

_COLUMNS: Final = ("entry_id", "chunk", "received_ms", "slug", "field", "reason", "bytes")

#: The last member of that name: in canonical form nothing of the payload can stand behind it.
_SCHEMA_REF: Final = r'(?s)^.*"schemaRef"\s*:\s*"(?P<ref>[A-Za-z0-9._:/-]{1,128})"'

_INDEX: Final = re.compile(r"\[\d+\]")

#: Causes that are told apart; what comes after them is counted as one, without a cause. A sender
#: gone mad could else make as many as it sends lines.
MAX_CAUSES: Final = 200


@dataclass(slots=True)
class Cluster:
    """Lines refused for one cause. `entries` are the first `MAX_LINES` of their ids, in order."""

    slug: str
    schema_ref: str
    path: str
    first_ms: int
    last_ms: int
    reason: str
    count: int = 0
    entries: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Clusters:
    """Causes, the most frequent first."""

    clusters: tuple[Cluster, ...]
    completeness: Completeness


def clusters_of(
    reader: Reader,
    tenant_id: str,
    from_ms: int,
    to_ms: int,
    *,
    is_cancelled: IsCancelled = never,
) -> Clusters:
    """Archived entries of a tenant that came in `from_ms <= t < to_ms`, by cause, each once.

    Raises `QueryCancelled`, `StoreUnavailable`; objects that cannot be read are told, not raised.
    """
    first, last = days_between(from_ms, to_ms)
    scope = scope_of_days(reader, tenant_id, first, last)
    found: dict[tuple[str, str, str], Cluster] = {}
    seen: set[str] = set()
    for day in quarantine.quarantine_days(reader, tenant_id, first, last):
        for place in quarantine.objects_of(reader, scope, day):
            units.check(is_cancelled)
            table = quarantine.read_object(reader, scope, place, _COLUMNS)
            if table is not None:
                _count(table, from_ms, to_ms, seen, found)
    ordered = sorted(found.values(), key=lambda c: (-c.count, c.slug, c.schema_ref, c.path))
    return Clusters(tuple(ordered), completeness(reader, scope, Tier.COLD, []))


def _count(
    table: pa.Table,
    from_ms: int,
    to_ms: int,
    seen: set[str],
    found: dict[tuple[str, str, str], Cluster],
) -> None:
    received = table["received_ms"].cast(pa.int64())
    wanted = pc.and_(pc.greater_equal(received, from_ms), pc.less(received, to_ms))
    rows = table.filter(pc.and_(wanted, pc.equal(table["chunk"], 0)))
    refs = pc.extract_regex(rows["bytes"], pattern=_SCHEMA_REF)
    names = ("entry_id", "slug", "field", "reason")
    times = rows["received_ms"].cast(pa.int64()).to_pylist()
    columns = [rows[name].to_pylist() for name in names]
    for entry_id, slug, wrong, reason, ref, ms in zip(
        *columns, refs.to_pylist(), times, strict=True
    ):
        if entry_id in seen:
            continue
        seen.add(entry_id)
        schema_ref = ref["ref"].decode() if ref else ""
        cause = (slug, schema_ref, _INDEX.sub("[]", wrong))
        if cause not in found and len(found) >= MAX_CAUSES:
            cause = ("", "", "")
        cluster = found.get(cause)
        if cluster is None:
            cluster = found[cause] = Cluster(*cause, first_ms=ms, last_ms=ms, reason=reason)
        cluster.first_ms, cluster.last_ms = min(cluster.first_ms, ms), max(cluster.last_ms, ms)
        cluster.count += 1
        if len(cluster.entries) < MAX_LINES:
            cluster.entries.append(entry_id)
