"""New events that say what refused ones meant: an epoch of its own for each proposal.

They are made once, when they are proposed, and kept in the proposal byte for byte: a replay that is
killed and goes on appends the very same events. Belongs here: completing and chaining them. Does
not: whether they are good (`judge.py`), approving, appending.
Source: design section 3 (chains, `chain_start`) and 7 ("a new event that names the old one").

The device's own chain is not touched: the refused event stays a link of it. A repaired payload is
said by the platform, so it stands under a device name of ours, which names the proposal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from audit_platform.errors import DecisionRefused, EventRefused, KeyUnknown
from audit_platform.operations.dlq.records import KEY_PURPOSE
from audit_platform.ports import Platform
from audit_platform.record import layout, signing
from audit_platform.record.deadletter import DeadLetter
from audit_platform.record.decision import Repaired
from audit_platform.record.event import complete_event
from audit_platform.record.schemas import SchemaRegistry
from audit_platform.record.times import format_time_ms

EVENT_REPAIRED: Final = "event_repaired"
_VERSION: Final = 1

#: Where these events belong when the refused bytes do not say a hospital.
_HOSPITAL: Final = "platform"

#: Repaired events of one proposal: a person wrote each of them.
MAX_REPAIRS: Final = 100


@dataclass(frozen=True, slots=True)
class Repair:
    """What a refused line should have said, by which type and version."""

    entry_id: str
    event_type: str
    event_version: int
    payload: Mapping[str, Any]


def repaired_events(
    platform: Platform,
    tenant_id: str,
    proposal_id: str,
    repairs: Sequence[Repair],
    letters: Mapping[str, DeadLetter],
    schemas: SchemaRegistry,
) -> tuple[Repaired, ...]:
    """The epoch's start and an event for each repair, in order.

    Raises `DecisionRefused` for a payload that its schema refuses; `KeysUnavailable`,
    `MetadataUnavailable`.
    """
    device_id = f"dlq-repair/{proposal_id}"
    now_ms = platform.clock.now_ms()
    hospitals = {link.hospital_id for e in letters.values() if (link := e.link) is not None}
    hospital = hospitals.pop() if len(hospitals) == 1 else _HOSPITAL
    said = [
        (
            "",
            signing.CHAIN_START,
            _start(platform, tenant_id, hospital, device_id, proposal_id, now_ms),
        ),
        *((r.entry_id, EVENT_REPAIRED, _payload(r, letters[r.entry_id], schemas)) for r in repairs),
    ]
    made: list[Repaired] = []
    head = layout.ZERO_HASH
    for number, (entry_id, event_type, payload) in enumerate(said):
        try:
            event = complete_event(
                {
                    "deviceId": device_id,
                    "eventType": event_type,
                    "eventVersion": _VERSION,
                    "eventTime": format_time_ms(now_ms),
                    "sequenceNumber": number,
                    "payload": payload,
                },
                tenant_id=tenant_id,
                hospital_id=hospital,
                chain_id=proposal_id,
                prev_hash=head,
                criticality=schemas.criticality(event_type, _VERSION),
            )
        except EventRefused as e:
            raise _bad(entry_id, e) from e
        head = event.event_hash.hex()
        made.append(Repaired(entry_id, event.canonical))
    return tuple(made)


def _bad(entry_id: str, error: EventRefused) -> DecisionRefused:
    return DecisionRefused(
        "bad_proposal",
        f"the repair of {entry_id}: {error.field}: {error.reason}",
        remedy=error.remedy or "mend the payload",
    )


def _payload(repair: Repair, letter: DeadLetter, schemas: SchemaRegistry) -> dict[str, Any]:
    ref = f"{repair.event_type}/{repair.event_version}"
    try:
        schemas.validate(repair.event_type, repair.event_version, ref, repair.payload)
    except EventRefused as e:
        raise _bad(repair.entry_id, e) from e
    payload: dict[str, Any] = {
        "entryId": letter.entry_id,
        "sha256": letter.sha256,
        "eventType": repair.event_type,
        "eventVersion": repair.event_version,
        "payload": dict(repair.payload),
    }
    if letter.link is not None:
        payload |= {
            "eventHash": letter.link.event_hash,
            "deviceId": letter.link.device_id,
            "chainId": letter.link.chain_id,
            "sequenceNumber": letter.link.sequence_number,
            "eventTime": letter.link.event_time,
        }
    return payload


def _start(
    platform: Platform, tenant_id: str, hospital: str, device_id: str, chain_id: str, now_ms: int
) -> dict[str, Any]:
    """The payload of the epoch's `chain_start`; its key is registered as one of the tenant's."""
    keys = [k for k in platform.keys.public_keys() if k.purpose == KEY_PURPOSE and k.active]
    key = keys[0] if keys else platform.keys.new(KEY_PURPOSE, now_ms)
    platform.metadata.add_edge_key(tenant_id, key.public_key, now_ms)
    payload = {
        "edgeKeyId": key.key_id,
        "publicKey": key.public_key.hex(),
        "reason": "repair of refused events",
    }
    statement = signing.edge_statement(
        {
            "chainId": chain_id,
            "deviceId": device_id,
            "eventTime": format_time_ms(now_ms),
            "eventType": signing.CHAIN_START,
            "hospitalId": hospital,
            "sequenceNumber": 0,
            "tenantId": tenant_id,
            "payload": payload,
        }
    )
    key_id, signature = platform.keys.sign(KEY_PURPOSE, statement)
    if key_id != key.key_id:
        raise KeyUnknown("the edge key was rotated this very moment", remedy="propose again")
    return payload | {"signature": signature.hex()}
