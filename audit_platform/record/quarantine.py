"""The quarantine table: archived dead letters as columns, and back.

Belongs here: `QUARANTINE_SCHEMA`, the rows of a dead-letter log record, the way to a table and
back. Does not: the entry's own form (`deadletter.py`), Parquet options, writing objects.
Source: design sections 5 (the dead-letter topic is archived the same way) and 7; `docs/formats.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from audit_platform.errors import RecordMalformed
from audit_platform.record.deadletter import DeadLetter, record_entries
from audit_platform.record.event import EventLink

#: One row an entry, or one row a log record that could not be decoded (only `raw` is set then).
QUARANTINE_SCHEMA: Final = pa.schema(
    [
        pa.field("log_offset", pa.int64(), nullable=False),
        pa.field("log_index", pa.int32(), nullable=False),
        pa.field("entry_id", pa.string()),
        pa.field("received_ms", pa.timestamp("ms", tz="UTC")),
        pa.field("gateway", pa.string()),
        pa.field("batch_id", pa.string()),
        pa.field("line", pa.int32()),
        pa.field("stage", pa.string()),
        pa.field("slug", pa.string()),
        pa.field("field", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("remedy", pa.string()),
        pa.field("chunk", pa.int32()),
        pa.field("chunks", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("bytes", pa.binary()),
        pa.field("link_hospital_id", pa.string()),
        pa.field("link_device_id", pa.string()),
        pa.field("link_chain_id", pa.string()),
        pa.field("link_sequence_number", pa.int64()),
        pa.field("link_event_hash", pa.string()),
        pa.field("link_prev_hash", pa.string()),
        pa.field("link_event_id", pa.string()),
        pa.field("link_event_time", pa.string()),
        pa.field("link_checksum", pa.string()),
        pa.field("raw", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """A row of quarantine: entry number `log_index` of the log record at `log_offset`.

    Either `entry` is set, or `raw`: the whole value of a log record that is not dead letters.
    """

    log_offset: int
    log_index: int
    entry: DeadLetter | None
    raw: bytes | None


def quarantine_rows(log_offset: int, value: bytes) -> list[QuarantineRow]:
    """The rows of one log record. Never raises: a value that does not decode is one raw row."""
    try:
        entries = record_entries(value)
    except RecordMalformed:
        return [QuarantineRow(log_offset, 0, None, value)]
    return [QuarantineRow(log_offset, n, entry, None) for n, entry in enumerate(entries)]


def to_table(rows: Sequence[QuarantineRow]) -> pa.Table:
    """Rows as a table of `QUARANTINE_SCHEMA`. The tenant is not a column: it is in the key."""
    return pa.Table.from_pylist([_to_columns(row) for row in rows], schema=QUARANTINE_SCHEMA)


def _to_columns(row: QuarantineRow) -> dict[str, Any]:
    columns: dict[str, Any] = {"log_offset": row.log_offset, "log_index": row.log_index}
    entry = row.entry
    if entry is None:
        return columns | {"raw": row.raw}
    for name in _ENTRY_COLUMNS:
        columns[name] = getattr(entry, name)
    columns["bytes"] = entry.data
    if entry.link is not None:
        for name in _LINK_COLUMNS:
            columns[f"link_{name}"] = getattr(entry.link, name)
    return columns


def from_table(table: pa.Table, tenant_id: str) -> list[QuarantineRow]:
    """The rows of a quarantine object of one tenant: the inverse of `to_table`.

    Raises `RecordMalformed` when the table has another schema.
    """
    if not table.schema.equals(QUARANTINE_SCHEMA):
        raise RecordMalformed("quarantine", "schema", "not the columns of quarantine")
    # As integers: a time in a table may lie outside what datetime can hold.
    position = table.schema.get_field_index("received_ms")
    received = table.column(position).cast(pa.int64())
    plain_table = table.set_column(position, "received_ms", received)
    return [_from_columns(columns, tenant_id) for columns in plain_table.to_pylist()]


def _from_columns(columns: dict[str, Any], tenant_id: str) -> QuarantineRow:
    place = columns["log_offset"], columns["log_index"]
    if columns["entry_id"] is None:
        return QuarantineRow(*place, None, columns["raw"])
    link = None
    if columns["link_event_hash"] is not None:
        link = EventLink(**{name: columns[f"link_{name}"] for name in _LINK_COLUMNS})
    own = {name: columns[name] for name in _ENTRY_COLUMNS}
    entry = DeadLetter(tenant_id=tenant_id, data=columns["bytes"], link=link, **own)
    return QuarantineRow(*place, entry, None)


_LINK_COLUMNS: Final = tuple(
    f.name.removeprefix("link_") for f in QUARANTINE_SCHEMA if f.name.startswith("link_")
)
_ENTRY_COLUMNS: Final = tuple(
    f.name
    for f in QUARANTINE_SCHEMA
    if f.name not in {"log_offset", "log_index", "bytes", "raw"} and not f.name.startswith("link_")
)
