"""Rows as a stream of text with hashes and a total: NDJSON and CSV.

Belongs here: the two forms, pages behind a stream. Does not: searching (`search.py`), HTTP.
Source: issue "One machine, whole" (CSV and NDJSON export with hashes and a total).

NDJSON: a line for each event, `{"event":<stored event>,"eventHash":"…","standing":"…"}`, where the
stored event is its exact bytes; then one line `{"total":{…}}`. CSV (RFC 4180, UTF-8, CR LF): a head
line, a line for each event (`COLUMNS`), then one line whose first cell is `#total`. The total has
the number of rows and the SHA-256 over their 32-byte eventHashes in order, so that whoever has the
rows can tell whether some were cut off, left out or moved; a stream without its total is not whole.

Cells of CSV that a spreadsheet would take for a formula (they begin with = + - @, a tab or a line
end) get an apostrophe in front; `eventHash` never does, and NDJSON keeps the bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
import pyarrow as pa

from audit_platform.operations.query.model import (
    Completeness,
    ExportFormat,
    IsCancelled,
    Tier,
    never,
)
from audit_platform.operations.query.reader import Reader
from audit_platform.operations.query.search import search
from audit_platform.ports import EventQuery
from audit_platform.record.columns import (
    EVENT_SCHEMA,
    blocks,
    hashes_of,
    hex_text,
    ints_of,
    stored_lines,
    time_text,
)
from audit_platform.record.digests import sha256_column, sha256_hex

#: Rows of one page behind the stream: what is in memory, and a scan of the window each.
PAGE_ROWS: Final = 10_000

#: Columns of a CSV export, by the event's own names.
COLUMNS: Final = (
    "eventHash",
    "standing",
    "ingestionTime",
    "eventTime",
    "tenantId",
    "hospitalId",
    "deviceId",
    "chainId",
    "sequenceNumber",
    "eventType",
    "eventVersion",
    "criticality",
    "eventId",
    "schemaRef",
    "checksum",
    "prevHash",
    "payload",
)

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(slots=True)
class _Total:
    """What the last line says."""

    rows: int
    digest: Any
    tiers: list[Tier]
    missing: list[str]

    def add(self, hashes: list[bytes], tier: Tier, told: Completeness) -> None:
        self.rows += len(hashes)
        self.digest.update(b"".join(hashes))
        self.tiers += [] if tier in self.tiers else [tier]
        self.missing += [m for m in told.missing if m not in self.missing]

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "sha256OfEventHashes": self.digest.hexdigest(),
            "tiers": [str(tier) for tier in self.tiers],
            "missing": self.missing,
        }


def export(
    reader: Reader,
    query: EventQuery,
    form: ExportFormat,
    *,
    tier: Tier = Tier.AUTO,
    is_cancelled: IsCancelled = never,
) -> Iterator[bytes]:
    """All rows of a query (its `limit` is not looked at) in order, a piece for each page.

    Raises as `search`, also between pieces: then the total is missing.
    """
    total = _Total(0, hashlib.sha256(), [], [])
    if form is ExportFormat.CSV:
        yield _csv([COLUMNS])
    page: EventQuery | None = replace(query, limit=PAGE_ROWS)
    while page is not None:
        found = search(reader, page, tier=tier, is_cancelled=is_cancelled)
        for batch in found.rows.combine_chunks().to_batches():
            yield from _lines(batch, query.tenant_id, form)
        total.add(found.rows["event_hash"].to_pylist(), found.tier, found.completeness)
        page = replace(page, after=found.next) if found.next else None
    if form is ExportFormat.NDJSON:
        yield orjson.dumps({"total": total.to_json()}) + b"\n"
        return
    said = total.to_json()
    cells = [str(said["rows"]), said["sha256OfEventHashes"], " ".join(said["tiers"])]
    yield _csv([("#total", *cells, *said["missing"])])


def _lines(rows: pa.RecordBatch, tenant_id: str, form: ExportFormat) -> Iterator[bytes]:
    """Rows of `ANSWER_SCHEMA` as text, a piece for each block of them."""
    first = 0
    for events in blocks(rows.select(EVENT_SCHEMA.names)):
        standing = rows["standing"].slice(first, len(events)).to_pylist()
        first += len(events)
        if form is ExportFormat.CSV:
            yield _csv_rows(events, standing, tenant_id)
        else:
            yield _ndjson(events, standing, tenant_id)


def _ndjson(events: pa.RecordBatch, standing: list[str], tenant_id: str) -> bytes:
    lines = stored_lines(
        events,
        tenant_id=tenant_id,
        checksum=sha256_hex(events["payload"]),
        prev_hash=hashes_of(events["prev_hash"]),
    ).to_pylist()
    hashes = hex_text(hashes_of(events["event_hash"])).to_pylist()
    return "".join(
        f'{{"event":{line},"eventHash":"{h}","standing":"{s}"}}\n'
        for line, h, s in zip(lines, hashes, standing, strict=True)
    ).encode()


def _csv_rows(events: pa.RecordBatch, standing: list[str], tenant_id: str) -> bytes:
    columns: tuple[list[Any], ...] = (
        hex_text(hashes_of(events["event_hash"])).to_pylist(),
        standing,
        time_text(ints_of(events["ingestion_time"])).to_pylist(),
        time_text(ints_of(events["event_time"])).to_pylist(),
        [tenant_id] * len(events),
        events["hospital_id"].to_pylist(),
        events["device_id"].to_pylist(),
        events["chain_id"].to_pylist(),
        events["sequence_number"].to_pylist(),
        events["event_type"].to_pylist(),
        events["event_version"].to_pylist(),
        events["criticality"].to_pylist(),
        events["event_id"].to_pylist(),
        events["schema_ref"].to_pylist(),
        hex_text(sha256_column(events["payload"])).to_pylist(),
        hex_text(hashes_of(events["prev_hash"])).to_pylist(),
        events["payload"].to_pylist(),
    )
    return _csv(zip(*columns, strict=True))


def _csv(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([_safe(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def _safe(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
