"""Events that the platform says itself: completed, stamped, durable, as if an edge had sent them.

A process of ours that has something to say for the record (query-api: who looked at what) is a
device of the tenant `platform` with its own epoch and one chain. Belongs here: opening that chain,
completing events, appending them. Does not: what is said (the services), waiting and batching.
Source: design sections 3 (chains), 4 (log records), 8 (reserved tenant).
"""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from audit_platform.errors import KeysUnavailable
from audit_platform.ports import NewRecord, Platform, PublicKey
from audit_platform.record import layout, signing
from audit_platform.record.event import CompletedEvent, complete_event, stored_line
from audit_platform.record.schemas import registry
from audit_platform.record.times import format_time_ms

#: Where these events belong: no hospital, but a place of that form is needed.
HOSPITAL: Final = "platform"

#: Purpose of the key that signs our `chain_start`.
KEY_PURPOSE: Final = "edge"

#: Events in one log record (design section 4). One of ours is at most about 1.5 KB, so a record
#: stays below 1 MiB.
MAX_RECORD_EVENTS: Final = 500

#: A host's name as part of a device id, which has 128 characters at most.
_HOST_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class OwnEvent:
    """What is to be said: a type and version of the registry, and its payload."""

    event_type: str
    payload: Mapping[str, Any]
    version: int = 1


class OwnSource:
    """One process as a source of events. Not thread safe: one thread appends.

    Nothing is opened before the first `append`, so a process whose log or metadata is away can
    start. When an append fails, its bytes may be in the log all the same: the next one first
    appends the very same bytes again (copies count once), so the chain never forks.
    """

    def __init__(self, platform: Platform, program: str) -> None:
        self._platform = platform
        chain_id = secrets.token_hex(8)
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:_HOST_CHARS] or "-"
        # One epoch a process: the chain's own random name tells processes of one host apart.
        self.device_id = f"{program}/{host}/{chain_id}"
        self._chain = _Chain(self.device_id, chain_id)
        self._partition = -1
        self._pending: list[NewRecord] = []

    def append(self, events: Sequence[OwnEvent]) -> list[CompletedEvent]:
        """Complete events in order and make them durable; all of them are when this returns.

        The first call announces the epoch by a signed `chain_start`. Raises the ports'
        `…Unavailable`: nothing is promised. `EventRefused` for a payload that its schema refuses:
        nothing was appended.
        """
        if self._pending:
            self._flush()
        now_ms = self._platform.clock.now_ms()
        chain = replace(self._chain)
        done: list[CompletedEvent] = []
        if chain.next_number == 0:
            self._partition = self._own_partition()
            start = OwnEvent("chain_start", self._signed_start(now_ms))
            done.append(chain.link(start, now_ms))
        announced = len(done)
        for event in events:
            schema_ref = f"{event.event_type}/{event.version}"
            registry().validate(event.event_type, event.version, schema_ref, event.payload)
            done.append(chain.link(event, now_ms))
        # From here on these numbers are used, whatever becomes of the append.
        self._chain = chain
        self._pending = list(_records(done, now_ms, self._partition))
        self._flush()
        return done[announced:]

    def _flush(self) -> None:
        self._platform.log.append(layout.EVENTS_TOPIC, self._pending)
        self._pending = []

    def _own_partition(self) -> int:
        partitions = self._platform.log.describe(layout.EVENTS_TOPIC).partitions
        return layout.partition_of(layout.PLATFORM_TENANT, self.device_id, partitions)

    def _signed_start(self, now_ms: int) -> dict[str, Any]:
        """The payload of our `chain_start`; its key is registered as one of the tenant's edges."""
        platform = self._platform
        platform.metadata.add_tenant(layout.PLATFORM_TENANT, now_ms)
        key = self._edge_key(now_ms)
        platform.metadata.add_edge_key(layout.PLATFORM_TENANT, key.public_key, now_ms)
        payload = {
            "edgeKeyId": key.key_id,
            "publicKey": key.public_key.hex(),
            "reason": "start",
        }
        place = {
            "chainId": self._chain.chain_id,
            "deviceId": self.device_id,
            "eventTime": format_time_ms(now_ms),
            "eventType": signing.CHAIN_START,
            "hospitalId": HOSPITAL,
            "sequenceNumber": 0,
            "tenantId": layout.PLATFORM_TENANT,
        }
        statement = signing.edge_statement({**place, "payload": payload})
        key_id, signature = platform.keys.sign(KEY_PURPOSE, statement)
        if key_id != key.key_id:
            raise KeysUnavailable("the edge key was rotated this very moment", remedy="ask again")
        return payload | {"signature": signature.hex()}

    def _edge_key(self, now_ms: int) -> PublicKey:
        """The active key, made when there is none."""
        for key in self._platform.keys.public_keys():
            if key.purpose == KEY_PURPOSE and key.active:
                return key
        return self._platform.keys.new(KEY_PURPOSE, now_ms)


@dataclass(slots=True)
class _Chain:
    """Where a source's one chain stands."""

    device_id: str
    chain_id: str
    head: str = layout.ZERO_HASH
    next_number: int = 0

    def link(self, event: OwnEvent, now_ms: int) -> CompletedEvent:
        """The next event."""
        said = {
            "deviceId": self.device_id,
            "eventType": event.event_type,
            "eventVersion": event.version,
            "eventTime": format_time_ms(now_ms),
            "sequenceNumber": self.next_number,
            "payload": dict(event.payload),
        }
        completed = complete_event(
            said,
            tenant_id=layout.PLATFORM_TENANT,
            hospital_id=HOSPITAL,
            chain_id=self.chain_id,
            prev_hash=self.head,
            criticality=registry().criticality(event.event_type, event.version),
        )
        self.head = completed.event_hash.hex()
        self.next_number += 1
        return completed


def _records(events: Sequence[CompletedEvent], now_ms: int, partition: int) -> Iterator[NewRecord]:
    time = format_time_ms(now_ms).encode("ascii")
    for start in range(0, len(events), MAX_RECORD_EVENTS):
        lines = [stored_line(e.canonical, time) for e in events[start : start + MAX_RECORD_EVENTS]]
        headers = {"v": "1", "tenant": layout.PLATFORM_TENANT, "count": str(len(lines))}
        yield NewRecord(partition, b"".join(line + b"\n" for line in lines), headers)
