"""Ed25519 under the record: what is signed, byte by byte, and whether a signature is good.

A statement is a context line and the JCS bytes of the fields that it binds, so no signature of one
kind can stand for another. Belongs here: statements of edges (`chain_start`, `loss`), key ids, the
check. Does not: keeping private keys (the `Keys` port), the manifest's fields (`manifest.py`).
Source: design section 3 (chains, losses), 5 (manifest); RFC 8032, RFC 8785; `docs/formats.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit_platform.errors import EventRefused
from audit_platform.record.canonical import canonical_bytes

CHAIN_START: Final = "chain_start"
LOSS: Final = "loss"

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

#: What an edge signs of its own events: the envelope that places the event, and these of its
#: payload. What is not listed is bound by the event's place in its chain only.
_CONTEXT: Final = {
    CHAIN_START: b"audit-platform chain_start v1\n",
    LOSS: b"audit-platform loss v1\n",
}
_PLACE: Final = ("chainId", "deviceId", "eventTime", "hospitalId", "sequenceNumber", "tenantId")
_SAID: Final = {
    CHAIN_START: ("edgeKeyId", "publicKey", "reason"),
    LOSS: ("edgeKeyId", "publicKey", "runs"),
}


def key_id_of(public_key: bytes) -> str:
    """First 16 hex digits of SHA-256 of the 32 raw bytes of a public key."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 raw bytes of a private key's public key."""
    return key.public_key().public_bytes_raw()


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) over `message` is by this key. False for malformed bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def edge_statement(event: Mapping[str, Any]) -> bytes:
    """The bytes that an edge signs for one of its events (`chain_start` or `loss`).

    `event` has the envelope and a payload; its signature, if any, is not looked at. Raises
    `KeyError` for a missing field or another event type, `EventRefused` for what JSON cannot say.
    """
    kind, payload = event["eventType"], event["payload"]
    bound = {name: event[name] for name in _PLACE}
    bound |= {name: payload[name] for name in _SAID[kind]}
    return _CONTEXT[kind] + canonical_bytes(bound)


def chain_start_payload(
    key: Ed25519PrivateKey,
    *,
    tenant_id: str,
    hospital_id: str,
    device_id: str,
    chain_id: str,
    event_time: str,
    sequence_number: int,
    reason: str,
) -> dict[str, Any]:
    """The signed payload of a `chain_start` event that stands at this place."""
    place = {
        "chainId": chain_id,
        "deviceId": device_id,
        "eventTime": event_time,
        "hospitalId": hospital_id,
        "sequenceNumber": sequence_number,
        "tenantId": tenant_id,
    }
    return _signed(key, CHAIN_START, place, {"reason": reason})


def loss_payload(
    key: Ed25519PrivateKey,
    *,
    tenant_id: str,
    hospital_id: str,
    device_id: str,
    chain_id: str,
    event_time: str,
    sequence_number: int,
    runs: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The signed payload of a `loss` event that stands at this place.

    Each run has deviceId, chainId, first, last (sequence numbers that were dropped) and count.
    """
    place = {
        "chainId": chain_id,
        "deviceId": device_id,
        "eventTime": event_time,
        "hospitalId": hospital_id,
        "sequenceNumber": sequence_number,
        "tenantId": tenant_id,
    }
    return _signed(key, LOSS, place, {"runs": [dict(r) for r in runs]})


def _signed(
    key: Ed25519PrivateKey, kind: str, place: Mapping[str, Any], said: Mapping[str, Any]
) -> dict[str, Any]:
    public = public_bytes(key)
    payload = {**said, "edgeKeyId": key_id_of(public), "publicKey": public.hex()}
    statement = edge_statement({**place, "eventType": kind, "payload": payload})
    return {**payload, "signature": key.sign(statement).hex()}


def problem_of_signed_event(event: Mapping[str, Any], edge_keys: Mapping[str, str]) -> str:
    """What is wrong with an edge's signed event; "" when its key is known and its signature good.

    `event` is a decoded canonical event; `edge_keys` maps key ids to public keys in hex, as a
    manifest lists them. Never raises for what an event may hold.
    """
    # 1. The event is one that edges sign, and has the members that the statement binds.
    try:
        statement = edge_statement(event)
        key_id, claimed = event["payload"]["edgeKeyId"], event["payload"]["publicKey"]
        signature = bytes.fromhex(event["payload"]["signature"])
    except (KeyError, TypeError, ValueError, EventRefused) as e:
        return f"a signed event lacks a member or has a malformed one: {e!r}"
    # 2. The key that it names is one that was registered for this tenant.
    known = edge_keys.get(key_id) if isinstance(key_id, str) else None
    if known is None:
        return f"signed by edge key {key_id!a}, which is not known"
    # 3. The public key beside it is that key.
    if claimed != known:
        return f"the public key in the event is not that of edge key {key_id}"
    # 4. The signature is good.
    if not verify(_unhex(known), signature, statement):
        return "the edge's signature is wrong"
    return ""


def _unhex(text: str) -> bytes:
    """Bytes of hex digits; none for other text, which verifies nothing."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
