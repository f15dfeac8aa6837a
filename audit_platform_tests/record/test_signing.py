"""Signatures of edges: exact statements, known answers, and everything that must not verify."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record import signing

# RFC 8032 section 7.1, test 2.
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
KEY = Ed25519PrivateKey.from_private_bytes(SECRET)
KEYS = {signing.key_id_of(PUBLIC): PUBLIC.hex()}

PLACE: dict[str, Any] = {
    "tenantId": "north-clinic",
    "hospitalId": "main",
    "deviceId": "edge",
    "chainId": "00f1e2d3c4b5a697",
    "eventTime": "2024-03-01T12:00:00.123Z",
    "sequenceNumber": 3,
}
RUNS = [{"deviceId": "pump-1", "chainId": "00f1e2d3c4b5a697", "first": 4, "last": 9, "count": 6}]


def place() -> dict[str, Any]:
    names = {
        "tenantId": "tenant_id",
        "hospitalId": "hospital_id",
        "deviceId": "device_id",
        "chainId": "chain_id",
        "eventTime": "event_time",
        "sequenceNumber": "sequence_number",
    }
    return {names[k]: v for k, v in PLACE.items()}


def chain_start() -> dict[str, Any]:
    payload = signing.chain_start_payload(KEY, reason="restart", **place())
    return {**PLACE, "eventType": "chain_start", "payload": payload}


def loss() -> dict[str, Any]:
    payload = signing.loss_payload(KEY, runs=RUNS, **place())
    return {**PLACE, "eventType": "loss", "payload": payload}


def test_a_signature_of_the_rfc_is_good_and_any_change_of_it_is_not() -> None:
    assert signing.public_bytes(KEY) == PUBLIC
    assert signing.verify(PUBLIC, SIGNATURE, b"\x72")
    assert not signing.verify(PUBLIC, SIGNATURE, b"\x73")
    assert not signing.verify(PUBLIC, SIGNATURE[:-1] + b"\x01", b"\x72")
    assert not signing.verify(PUBLIC[:-1] + b"\x0d", SIGNATURE, b"\x72")


@given(st.binary(max_size=70), st.binary(max_size=70))
def test_malformed_keys_and_signatures_are_not_good_and_raise_nothing(a: bytes, b: bytes) -> None:
    assert not signing.verify(a, b, b"message")


def test_a_key_id_is_the_beginning_of_the_keys_hash() -> None:
    assert signing.key_id_of(PUBLIC) == hashlib.sha256(PUBLIC).hexdigest()[:16]


def test_the_statement_of_a_chain_start_is_byte_for_byte_the_stated_one() -> None:
    event = chain_start()
    bound = {
        **PLACE,
        "edgeKeyId": signing.key_id_of(PUBLIC),
        "publicKey": PUBLIC.hex(),
        "reason": "restart",
    }
    statement = b"audit-platform chain_start v1\n" + rfc8785.dumps(bound)
    assert signing.edge_statement(event) == statement
    assert event["payload"] == {
        "edgeKeyId": bound["edgeKeyId"],
        "publicKey": bound["publicKey"],
        "reason": "restart",
        "signature": KEY.sign(statement).hex(),
    }


def test_the_statement_of_a_loss_is_byte_for_byte_the_stated_one() -> None:
    bound = {
        **PLACE,
        "edgeKeyId": signing.key_id_of(PUBLIC),
        "publicKey": PUBLIC.hex(),
        "runs": RUNS,
    }
    wanted = b"audit-platform loss v1\n" + rfc8785.dumps(bound)
    assert signing.edge_statement(loss()) == wanted


def test_a_good_signed_event_has_no_problem() -> None:
    assert signing.problem_of_signed_event(chain_start(), KEYS) == ""
    assert signing.problem_of_signed_event(loss(), KEYS) == ""


@pytest.mark.parametrize("name", sorted(PLACE))
def test_an_event_signed_for_one_place_is_wrong_at_another(name: str) -> None:
    for event in (chain_start(), loss()):
        event[name] = 4 if name == "sequenceNumber" else "elsewhere"
        assert "signature is wrong" in signing.problem_of_signed_event(event, KEYS)


def test_what_a_signed_event_says_is_bound_by_its_signature() -> None:
    event = chain_start()
    event["payload"]["reason"] = "restored"
    assert "signature is wrong" in signing.problem_of_signed_event(event, KEYS)
    event = loss()
    event["payload"]["runs"][0]["last"] = 10
    assert "signature is wrong" in signing.problem_of_signed_event(event, KEYS)


def test_a_signature_of_one_kind_does_not_stand_for_another() -> None:
    event = loss()
    event["payload"] |= {"reason": "restart"}
    event["eventType"] = "chain_start"
    assert "signature is wrong" in signing.problem_of_signed_event(event, KEYS)


def test_an_unknown_key_and_a_foreign_public_key_are_named() -> None:
    assert "not known" in signing.problem_of_signed_event(chain_start(), {})
    other = signing.public_bytes(Ed25519PrivateKey.generate()).hex()
    event = chain_start()
    event["payload"]["publicKey"] = other
    assert "not that of edge key" in signing.problem_of_signed_event(event, KEYS)
    # Who puts another key under a known id, signed well, is still not believed.
    key_id = next(iter(KEYS))
    assert "not that of edge key" in signing.problem_of_signed_event(chain_start(), {key_id: other})


@pytest.mark.parametrize(
    "payload",
    [None, 7, [], {}, {"edgeKeyId": 1}, {"signature": 3}, {"signature": "zz"}, {"publicKey": None}],
    ids=repr,
)
def test_a_malformed_signed_event_is_a_problem_and_raises_nothing(payload: object) -> None:
    for event in (chain_start(), loss()):
        whole = (
            {**event["payload"], **payload} if payload and isinstance(payload, dict) else payload
        )
        assert signing.problem_of_signed_event({**event, "payload": whole}, KEYS)
    assert signing.problem_of_signed_event({**chain_start(), "eventType": "alarm"}, KEYS)
    assert signing.problem_of_signed_event({}, KEYS)


def test_a_known_key_that_is_no_hex_verifies_nothing() -> None:
    event = chain_start()
    event["payload"]["publicKey"] = "no hex"
    assert "signature is wrong" in signing.problem_of_signed_event(
        event, {next(iter(KEYS)): "no hex"}
    )
