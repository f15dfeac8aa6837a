"""A tenant's day of the excerpt, completed into chains and judged, with the sender's receipts.

Belongs here: what tests of the checkers start from, without any process. Does not: a checker.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from audit_platform.demo.mapping import device_events
from audit_platform.errors import EventRefused
from audit_platform.record import layout
from audit_platform.record.event import complete_event
from audit_platform.record.schemas import registry
from audit_platform.record.times import format_time_ms

CHAIN = "0123456789abcdef"


@dataclass
class Completed:
    """Canonical events, as accepted and as refused by their schemas."""

    tenant_id: str
    accepted_lines: list[bytes] = field(default_factory=list)
    refused_lines: list[bytes] = field(default_factory=list)

    def note(self, home: Path) -> None:
        """Write what was sent and what was acknowledged, as an edge with receipts does."""
        lines = [(line, "accepted") for line in self.accepted_lines]
        lines += [(line, "refused") for line in self.refused_lines]
        sent = b""
        receipts = b""
        for line, outcome in lines:
            event = {
                "tenantId": self.tenant_id,
                "eventId": orjson.loads(line)["eventId"],
                "eventHash": hashlib.sha256(line).hexdigest(),
            }
            sent += orjson.dumps(event) + b"\n"
            receipts += orjson.dumps(event | {"outcome": outcome}) + b"\n"
        (home / "sent.ndjson").write_bytes(sent)
        (home / "receipts.ndjson").write_bytes(receipts)


def completed(tenant_id: str, day: str) -> Completed:
    """The tenant's laid day."""
    made = Completed(tenant_id)
    heads: dict[str, str] = {}
    numbers: dict[str, int] = {}
    start = layout.day_start_ms(day)
    for event in device_events(tenant_id):
        number = numbers.get(event.device_id, 0)
        done = complete_event(
            {
                "deviceId": event.device_id,
                "eventType": event.event_type,
                "eventVersion": event.event_version,
                "eventTime": format_time_ms(start + event.event_offset_ms),
                "sequenceNumber": number,
                "payload": event.payload,
            },
            tenant_id=tenant_id,
            hospital_id=event.hospital_id,
            chain_id=CHAIN,
            prev_hash=heads.get(event.device_id, layout.ZERO_HASH),
            criticality=registry().criticality(event.event_type, event.event_version),
        )
        numbers[event.device_id] = number + 1
        heads[event.device_id] = done.event_hash.hex()
        try:
            schema_ref = registry().schema_ref(event.event_type, event.event_version)
            registry().validate(event.event_type, event.event_version, schema_ref, event.payload)
        except EventRefused:
            made.refused_lines.append(done.canonical)
        else:
            made.accepted_lines.append(done.canonical)
    return made
