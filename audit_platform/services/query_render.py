"""Answers as JSON: rows of events, timelines, single events, lists.

Belongs here: from results of the query operations to the members that `query_models.py` describes.
Does not: asking, HTTP. Runs in the threads of queries.
Source: design section 3 (fields of an event).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
import pyarrow as pa

from audit_platform.operations.dlq.records import Decision
from audit_platform.operations.query.entries import EntryLine
from audit_platform.operations.query.model import (
    EventCopy,
    EventFound,
    Place,
    Quarantined,
    Timeline,
)
from audit_platform.operations.query.timeline import SKEW_MS
from audit_platform.ports import EventClock, EventPosition
from audit_platform.record.columns import ints_of
from audit_platform.record.times import format_time_ms

_COLUMNS: Final = {
    "hospitalId": "hospital_id",
    "deviceId": "device_id",
    "chainId": "chain_id",
    "eventType": "event_type",
    "eventVersion": "event_version",
    "eventId": "event_id",
    "sequenceNumber": "sequence_number",
    "schemaRef": "schema_ref",
    "criticality": "criticality",
    "standing": "standing",
}


def event_rows(rows: pa.Table, tenant_id: str) -> list[dict[str, Any]]:
    """Rows of `ANSWER_SCHEMA` as JSON objects; payloads are put in as the text they are."""
    columns = {name: rows[column].to_pylist() for name, column in _COLUMNS.items()}
    event_ms, ingestion_ms = times_of(rows)
    hashes = rows["event_hash"].to_pylist()
    previous = rows["prev_hash"].to_pylist()
    payloads = rows["payload"].to_pylist()
    told = []
    for i in range(len(rows)):
        skew = event_ms[i] - ingestion_ms[i]
        told.append(
            {
                "tenantId": tenant_id,
                **{name: values[i] for name, values in columns.items()},
                "eventTime": format_time_ms(event_ms[i]),
                "ingestionTime": format_time_ms(ingestion_ms[i]),
                "payload": orjson.Fragment(payloads[i]),
                "prevHash": previous[i].hex(),
                "eventHash": hashes[i].hex(),
                "skewSeconds": skew / 1000,
                "skewed": abs(skew) > SKEW_MS,
            }
        )
    return told


def times_of(rows: pa.Table) -> tuple[list[int], list[int]]:
    """(event times, ingestion times) of rows in milliseconds since 1970."""
    event = ints_of(rows["event_time"].combine_chunks()).tolist()
    return event, ints_of(rows["ingestion_time"].combine_chunks()).tolist()


def position_of(rows: pa.Table, row: int, clock: EventClock) -> EventPosition:
    """Where a row stands in a search."""
    name = "event_time" if clock is EventClock.EVENT else "ingestion_time"
    return EventPosition(
        ms=int(ints_of(rows[name].combine_chunks())[row]),
        device_id=rows["device_id"][row].as_py(),
        sequence_number=rows["sequence_number"][row].as_py(),
        event_hash=rows["event_hash"][row].as_py(),
    )


def fitting(rows: pa.Table, max_bytes: int) -> int:
    """How many of the first rows have payloads of at most `max_bytes` together; one at least."""
    size = 0
    for i, payload in enumerate(rows["payload"]):
        size += payload.as_buffer().size
        if size > max_bytes and i:
            return i
    return len(rows)


def timeline_rows(found: Timeline, tenant_id: str, count: int) -> list[dict[str, Any]]:
    """The first `count` entries of a timeline."""
    rows = event_rows(found.rows.slice(0, count), tenant_id)
    for row, entry in zip(rows, found.entries[:count], strict=True):
        row["standing"] = str(entry.standing)
        row["skewed"] = entry.skewed
        row["verdicts"] = [str(v) for v in entry.verdicts]
        row["marks"] = [m.to_json() for m in entry.marks]
        row["copies"] = [c.to_json() for c in entry.copies]
    return rows


def place(where: Place) -> dict[str, Any]:
    """Where something stands."""
    return {"key": where.key, "versionId": where.version_id, "row": where.row}


def event(found: EventFound, request_id: str) -> dict[str, Any]:
    """One event with all that is held of it."""
    return {
        "requestId": request_id,
        "tenantId": found.tenant_id,
        "asked": found.asked,
        "verdict": str(found.verdict),
        "copies": [_copy(c) for c in found.copies],
        "quarantined": [refused_line(q) for q in found.quarantined],
        "completeness": found.completeness.to_json(),
    }


def _copy(copy: EventCopy) -> dict[str, Any]:
    return {
        "eventHash": copy.event_hash,
        "standing": str(copy.standing),
        "ingestionTime": format_time_ms(copy.ingestion_ms),
        "storedBase64": base64.b64encode(copy.stored).decode("ascii"),
        "storedText": copy.stored.decode("utf-8", "replace"),
        "proven": copy.proven,
        "place": place(copy.place),
        "proof": copy.proof.to_json() if copy.proof else None,
    }


def refused_line(line: Quarantined) -> dict[str, Any]:
    """A refused line with its bytes."""
    try:
        text: str | None = line.data.decode()
    except UnicodeDecodeError:
        text = None
    return {
        "entryId": line.entry_id,
        "received": format_time_ms(line.received_ms),
        "slug": line.slug,
        "field": line.field,
        "reason": line.reason,
        "remedy": line.remedy,
        "whole": line.whole,
        "bytesBase64": base64.b64encode(line.data).decode("ascii"),
        "text": text,
        "eventHash": line.event_hash or None,
        "place": place(line.place),
    }


def decisions(found: Iterable[Decision]) -> list[dict[str, Any]]:
    """What was decided about an entry."""
    return [
        {
            "proposalId": d.proposal_id,
            "action": str(d.action),
            "state": str(d.state),
            "became": d.became or None,
            "proposed": format_time_ms(d.at_ms),
        }
        for d in found
    ]


def entry_lines(
    lines: Iterable[EntryLine], decided: Mapping[str, Iterable[Decision]]
) -> list[dict[str, Any]]:
    """Refused lines of a list, with what was decided about each."""
    return [
        {
            "entryId": line.entry_id,
            "received": format_time_ms(line.received_ms),
            "gateway": line.gateway,
            "batchId": line.batch_id,
            "line": line.line,
            "slug": line.slug,
            "field": line.field,
            "reason": line.reason,
            "remedy": line.remedy,
            "sha256": line.sha256,
            "deviceId": line.device_id or None,
            "eventHash": line.event_hash or None,
            "place": place(line.place),
            "decisions": decisions(decided.get(line.entry_id, ())),
        }
        for line in lines
    ]
