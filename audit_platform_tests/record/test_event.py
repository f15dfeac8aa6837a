"""The event at the door: what is accepted, what is refused by which name, what stays a link."""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.errors import EventRefused
from audit_platform.record.event import (
    MAX_EVENT_BYTES,
    CheckedEvent,
    canonical_of_stored,
    check_event,
    complete_event,
    derive_event_id,
    event_hash,
    format_time_ms,
    link_of,
    stored_line,
)

TENANT = "north-clinic"
INGESTION_TIME = b"2024-03-01T12:00:00.500Z"

payloads = st.dictionaries(
    st.text(max_size=8),
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e6, 1e6)
    | st.text(max_size=12) | st.lists(st.integers(-9, 9), max_size=3),
    max_size=5,
)  # fmt: skip


def derived_id(event: dict[str, Any], ms: int) -> str:
    """The eventId by the words of the specification, with the standard library only."""
    said = "\n".join(
        str(event[k]) for k in ("tenantId", "deviceId", "eventTime", "sequenceNumber", "checksum")
    )
    raw = bytearray((ms % 2**48).to_bytes(6, "big") + hashlib.sha256(said.encode()).digest()[:10])
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return str(uuid.UUID(bytes=bytes(raw)))


def event(ms: int = 1_709_294_400_123, **changes: Any) -> dict[str, Any]:
    """A good event with `changes`; checksum and eventId are derived unless they are changed."""
    value: dict[str, Any] = {
        "tenantId": TENANT,
        "hospitalId": "north-clinic/main",
        "deviceId": "pump-0007",
        "chainId": "00f1e2d3c4b5a697",
        "eventType": "pump_rate_change",
        "eventVersion": 1,
        "eventTime": format_time_ms(ms),
        "sequenceNumber": 41,
        "schemaRef": "pump_rate_change/1",
        "payload": {"rate": 12.5, "unit": "mL/h"},
        "prevHash": "ab" * 32,
        "criticality": "normal",
    } | changes
    if isinstance(value["payload"], dict):
        checksum = hashlib.sha256(rfc8785.dumps(value["payload"])).hexdigest()
        value.setdefault("checksum", checksum)
        value.setdefault("eventId", derived_id(value, ms))
    return value


def line_of(value: dict[str, Any]) -> bytes:
    return rfc8785.dumps(value)


def refusal(line: bytes, tenant_id: str = TENANT) -> tuple[str, str]:
    with pytest.raises(EventRefused) as caught:
        check_event(line, tenant_id)
    assert caught.value.reason
    assert caught.value.remedy
    return caught.value.slug, caught.value.field


def test_a_good_event_is_taken_as_it_is() -> None:
    line = line_of(event())
    checked = check_event(line, TENANT)
    assert checked == CheckedEvent(
        canonical=line,
        device_id="pump-0007",
        event_type="pump_rate_change",
        event_version=1,
        schema_ref="pump_rate_change/1",
        payload={"rate": 12.5, "unit": "mL/h"},
        chain_id="00f1e2d3c4b5a697",
        sequence_number=41,
        event_time_ms=1_709_294_400_123,
    )
    assert checked.canonical is line


def test_the_event_id_of_a_known_event_is_the_known_one() -> None:
    """`printf '{"rate":12.5,"unit":"mL/h"}' | sha256sum`, and so on by the words of the design."""
    checksum = hashlib.sha256(b'{"rate":12.5,"unit":"mL/h"}').hexdigest()
    assert checksum == "cf059a8d1b270924c2e762e5f9e8a83b74e3adeed576be4ae27c810b5946d4c5"
    derived = derive_event_id(TENANT, "pump-0007", "2024-03-01T12:00:00.123Z", 41, checksum)
    assert derived == "018df9e2-b27b-7a99-9d36-749ce6116500"


@given(payloads, st.integers(0, 2**53 - 1), st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_every_completed_event_is_accepted_and_is_its_canonical_bytes(
    payload: dict[str, Any], sequence: int, ms: int
) -> None:
    said = {
        "deviceId": "bed:4/b",
        "eventType": "bed_position",
        "eventVersion": 2,
        "eventTime": format_time_ms(ms),
        "sequenceNumber": sequence,
        "payload": payload,
    }
    completed = complete_event(
        said,
        tenant_id=TENANT,
        hospital_id="main",
        chain_id="0123456789abcdef",
        prev_hash="0" * 64,
        criticality="low",
    )
    value = orjson.loads(completed.canonical)
    assert completed.canonical == rfc8785.dumps(json.loads(completed.canonical))
    assert completed.event_hash == hashlib.sha256(completed.canonical).digest()
    assert value["checksum"] == hashlib.sha256(rfc8785.dumps(payload)).hexdigest()
    assert completed.event_id == value["eventId"] == derived_id(value, ms)
    assert uuid.UUID(completed.event_id).version == 7
    assert value["schemaRef"] == "bed_position/2"
    checked = check_event(completed.canonical, TENANT)
    assert (checked.sequence_number, checked.event_time_ms) == (sequence, ms)
    assert checked.payload == value["payload"]


@given(payloads, st.randoms(use_true_random=False))
def test_any_spelling_of_an_event_gives_the_same_canonical_event(
    payload: dict[str, Any], shuffle: random.Random
) -> None:
    value = event(payload=payload)
    names = list(value)
    shuffle.shuffle(names)
    shuffled = {n: value[n] for n in names}
    for ascii_only, indent in ((True, None), (False, 1)):
        spelt = json.dumps(shuffled, ensure_ascii=ascii_only, indent=indent)
        assert check_event(spelt.encode(), TENANT) == check_event(line_of(value), TENANT)


@given(st.data())
def test_any_changed_bytes_give_an_event_or_a_named_refusal(data: st.DataObject) -> None:
    line = bytearray(line_of(event()))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(line) - 1))
        line[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        checked: CheckedEvent | None = check_event(bytes(line), TENANT)
    except EventRefused:
        checked = None
    if checked is not None:
        assert checked.canonical == rfc8785.dumps(json.loads(bytes(line)))


def outcome(line: bytes) -> object:
    try:
        return check_event(line, TENANT)
    except EventRefused as e:
        return e.slug, e.field, e.reason


near_misses = st.one_of(
    st.text(max_size=70),
    st.from_regex(r"[0-9a-fA-F]{64}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
    st.from_regex(r"[0-9a-zA-Z-]{36}", fullmatch=True),
    st.from_regex(r"20[0-9]{2}-[0-3][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\.[0-9]{3}Z"),
    st.integers(-5, 2**54),
    st.floats(-5, 2e3),
    st.none() | st.booleans() | st.just({"a": 1}) | st.just([]),
)


@given(st.dictionaries(st.sampled_from(sorted(event())), near_misses, min_size=1, max_size=2))
def test_the_fast_and_the_slow_path_say_the_same_of_changed_fields(changes: dict[str, Any]) -> None:
    line = orjson.dumps(event() | changes, option=orjson.OPT_SORT_KEYS)
    assert outcome(line) == outcome(b" " + line)


def test_a_line_with_trailing_carriage_return_is_canonicalised() -> None:
    line = line_of(event())
    assert check_event(line + b"\r", TENANT).canonical == line


def test_integral_numbers_with_a_point_are_the_same_event() -> None:
    line = line_of(event(payload={"rate": 37}))
    spelt = line.replace(b'"rate":37', b'"rate":37.0').replace(b":41,", b":41.0,")
    assert check_event(spelt, TENANT).canonical == line


@pytest.mark.parametrize(
    ("changes", "slug", "field"),
    [
        ({"tenantId": "south-clinic"}, "other_tenant", "tenantId"),
        ({"tenantId": "-x"}, "other_tenant", "tenantId"),
        ({"tenantId": 7}, "wrong_type", "tenantId"),
        ({"deviceId": ""}, "bad_form", "deviceId"),
        ({"deviceId": "pump 7"}, "bad_form", "deviceId"),
        ({"deviceId": "x" * 129}, "bad_form", "deviceId"),
        ({"deviceId": "pümp"}, "bad_form", "deviceId"),
        ({"deviceId": 7}, "wrong_type", "deviceId"),
        ({"hospitalId": 'a"b'}, "bad_form", "hospitalId"),
        ({"eventType": None}, "wrong_type", "eventType"),
        ({"schemaRef": "a\\b"}, "bad_form", "schemaRef"),
        ({"chainId": "00F1E2D3C4B5A697"}, "bad_form", "chainId"),
        ({"chainId": "00f1"}, "bad_form", "chainId"),
        ({"criticality": "urgent"}, "bad_form", "criticality"),
        ({"eventVersion": 0}, "bad_form", "eventVersion"),
        ({"eventVersion": 1000}, "bad_form", "eventVersion"),
        ({"eventVersion": "1"}, "wrong_type", "eventVersion"),
        ({"eventVersion": True}, "wrong_type", "eventVersion"),
        ({"eventVersion": 1.5}, "wrong_type", "eventVersion"),
        ({"sequenceNumber": -1}, "sequence_range", "sequenceNumber"),
        ({"sequenceNumber": "41"}, "wrong_type", "sequenceNumber"),
        ({"prevHash": "AB" * 32}, "bad_form", "prevHash"),
        ({"prevHash": "ab" * 31}, "bad_form", "prevHash"),
        ({"prevHash": "ab" * 33}, "bad_form", "prevHash"),
        ({"payload": [1]}, "wrong_type", "payload"),
        ({"payload": "x"}, "wrong_type", "payload"),
        ({"eventTime": "2024-03-01T12:00:00Z"}, "bad_time", "eventTime"),
        ({"eventTime": "2024-03-01 12:00:00.123Z"}, "bad_time", "eventTime"),
        ({"eventTime": "2024-03-01T12:00:00.123+00:00"}, "bad_time", "eventTime"),
        ({"eventTime": "2023-02-29T12:00:00.123Z"}, "bad_time", "eventTime"),
        ({"eventTime": "2024-03-01T24:00:00.123Z"}, "bad_time", "eventTime"),
        ({"eventTime": "2016-12-31T23:59:60.000Z"}, "bad_time", "eventTime"),
        ({"eventTime": "0000-01-01T00:00:00.000Z"}, "bad_time", "eventTime"),
        ({"eventTime": 1_709_294_400_123}, "wrong_type", "eventTime"),
        ({"checksum": "0" * 64}, "bad_checksum", "checksum"),
        ({"checksum": "0" * 63}, "bad_form", "checksum"),
        ({"checksum": "A" * 64}, "bad_form", "checksum"),
        ({"eventId": "00000000-0000-7000-8000-000000000000"}, "bad_event_id", "eventId"),
        ({"eventId": "0" * 36}, "bad_form", "eventId"),
        ({"ingestionTime": "2024-03-01T12:00:00.500Z"}, "server_field", "ingestionTime"),
        ({"color": "red"}, "unknown_field", "color"),
    ],
)
def test_each_bad_field_is_named(changes: dict[str, Any], slug: str, field: str) -> None:
    # Hashes are derived from the changed fields, so nothing but the form can be wrong.
    value = {"checksum": "0" * 64, "eventId": str(uuid.UUID(int=0))} | event(**changes)
    assert refusal(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)) == (slug, field)


@pytest.mark.parametrize("name", sorted(event()))
def test_a_missing_field_is_named(name: str) -> None:
    value = event()
    del value[name]
    assert refusal(line_of(value)) == ("missing_field", name)


@pytest.mark.parametrize(
    "number", ["9007199254740992", "9999999999999999", "1e300", "1" + "0" * 400]
)
def test_a_sequence_beyond_2_53_is_named(number: str) -> None:
    line = line_of(event()).replace(b'"sequenceNumber":41', b'"sequenceNumber":' + number.encode())
    assert refusal(line) == ("sequence_range", "sequenceNumber")


def test_a_sequence_beyond_2_53_is_named_when_its_event_id_is_right() -> None:
    value = event(sequenceNumber=2**53)
    assert refusal(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)) == (
        "sequence_range",
        "sequenceNumber",
    )


def test_the_largest_sequence_is_taken() -> None:
    assert (
        check_event(line_of(event(sequenceNumber=2**53 - 1)), TENANT).sequence_number == 2**53 - 1
    )


@pytest.mark.parametrize(
    ("line", "slug"),
    [
        (b"", "bad_json"),
        (b"[]", "not_an_object"),
        (b'"x"', "not_an_object"),
        (b"7", "not_an_object"),
        (b"\xff", "bad_utf8"),
        (b"[" * 10**6, "too_deep"),
    ],
)
def test_what_is_no_event_at_all_is_refused_by_name(line: bytes, slug: str) -> None:
    assert refusal(line)[0] == slug


def test_a_payload_with_bad_json_is_refused_with_its_path() -> None:
    line = line_of(event())
    assert refusal(line.replace(b"12.5", b"NaN"))[0] == "not_a_number"
    assert refusal(line.replace(b"12.5", b"1e999")) == ("number_range", "payload.rate")
    assert refusal(line.replace(b'"mL/h"', b'"\\ud800"')) == ("lone_surrogate", "payload.unit")
    assert refusal(line.replace(b'"unit"', b'"rate"')) == ("duplicate_key", "rate")
    assert refusal(line.replace(b'"tenantId"', b'"deviceId"')) == ("duplicate_key", "deviceId")


def test_an_event_is_too_large_by_its_own_bytes_and_by_its_canonical_bytes() -> None:
    room = MAX_EVENT_BYTES - len(line_of(event(payload={"note": ""})))
    largest = line_of(event(payload={"note": "x" * room}))
    assert len(check_event(largest, TENANT).canonical) == MAX_EVENT_BYTES
    assert len(stored_line(largest, INGESTION_TIME) + b"\n") <= 2**20
    assert refusal(line_of(event(payload={"note": "x" * (room + 1)}))) == ("too_large", "")
    assert refusal(largest + b" ") == ("too_large", "")
    # 0.0000012 is longer in canonical form than 12e-7.
    grown = event(payload={"note": "x" * (room - 13), "x": 1.2e-6})
    line = line_of(grown).replace(b"0.0000012", b"12e-7")
    assert len(line) <= MAX_EVENT_BYTES < len(line_of(grown))
    assert refusal(line) == ("too_large", "")


def test_nesting_has_one_limit_on_the_fast_and_the_slow_path() -> None:
    for depth, fine in ((62, True), (63, False)):
        payload: dict[str, Any] = {"a": json.loads("[" * depth + "]" * depth)}
        line = line_of(event(payload=payload))
        for spelling in (line, line + b" "):
            if fine:
                assert check_event(spelling, TENANT).canonical == line
            else:
                assert refusal(spelling)[0] == "too_deep"


def test_another_tenant_is_not_named_in_the_refusal() -> None:
    with pytest.raises(EventRefused) as caught:
        check_event(line_of(event(tenantId="south-clinic")), TENANT)
    assert "south" not in str(caught.value)


# -------------------------------------------------------------------------------------- storing


@given(payloads)
def test_storing_inserts_the_ingestion_time_at_its_sorted_place(payload: dict[str, Any]) -> None:
    payload = {"ingestionTime": "x", "payload": {"payload": 1}} | payload
    canonical = line_of(event(payload=payload))
    stored = stored_line(canonical, INGESTION_TIME)
    value = json.loads(canonical) | {"ingestionTime": INGESTION_TIME.decode()}
    assert stored == rfc8785.dumps(value)
    assert canonical_of_stored(stored) == canonical


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        canonical_of_stored,
        lambda s: s.replace(b"12:00:00.500Z", b"12:00:00Z"),
        lambda s: s.replace(b"ingestionTime", b"ingestedTime"),
        lambda s: canonical_of_stored(s).replace(
            b'"rate":12.5', b'"a":1,"ingestionTime":"2024-03-01T12:00:00.500Z","payload":{}'
        ),
    ],
)
def test_what_is_no_stored_event_has_no_canonical_event(spoil: Any) -> None:
    stored = stored_line(line_of(event()), INGESTION_TIME)
    with pytest.raises(ValueError, match="not a stored event"):
        canonical_of_stored(spoil(stored))


# ---------------------------------------------------------------------------------------- links


def test_a_refused_event_with_a_good_envelope_is_still_a_link() -> None:
    value = event(checksum="0" * 64)
    link = link_of(line_of(value), TENANT)
    assert link is not None
    assert link.event_hash == hashlib.sha256(line_of(value)).hexdigest()
    assert link.event_hash == event_hash(line_of(value)).hex()
    assert (link.hospital_id, link.device_id) == (value["hospitalId"], value["deviceId"])
    assert (link.chain_id, link.sequence_number) == (value["chainId"], 41)
    assert (link.prev_hash, link.checksum) == (value["prevHash"], "0" * 64)
    assert (link.event_id, link.event_time) == (value["eventId"], value["eventTime"])


def test_a_link_is_the_hash_of_the_canonical_event_however_it_was_spelt() -> None:
    value = event()
    assert link_of(json.dumps(value, indent=2).encode(), TENANT) == link_of(line_of(value), TENANT)


def test_an_event_that_is_only_too_large_is_still_a_link() -> None:
    assert link_of(line_of(event(payload={"note": "x" * 2**21})), TENANT) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"tenantId": "south-clinic"},
        {"sequenceNumber": -1},
        {"deviceId": "a b"},
        {"eventTime": "2023-02-29T12:00:00.123Z"},
        {"prevHash": "x"},
        {"payload": 7},
        {"color": "red"},
        {"ingestionTime": "2024-03-01T12:00:00.500Z"},
        {"checksum": "x" * 64},
        {"eventId": "x" * 36},
    ],
)
def test_a_line_that_cannot_be_placed_is_no_link(changes: dict[str, Any]) -> None:
    assert link_of(line_of(event() | changes), TENANT) is None
    assert link_of(b"{", TENANT) is None


# ----------------------------------------------------------------------------------- completing


SAID: dict[str, Any] = {
    "deviceId": "pump-0007",
    "eventType": "pump_rate_change",
    "eventVersion": 1,
    "eventTime": "2024-03-01T12:00:00.123Z",
    "sequenceNumber": 41,
    "payload": {"rate": 12.5},
}


@pytest.mark.parametrize(
    ("changes", "slug", "field"),
    [
        ({"chainId": "0" * 16}, "unknown_field", "chainId"),
        ({"deviceId": "a b"}, "bad_form", "deviceId"),
        ({"sequenceNumber": 2**53}, "sequence_range", "sequenceNumber"),
        ({"payload": {"rate": float("nan")}}, "number_range", "payload.rate"),
        ({"payload": {"note": "x" * 2**20}}, "too_large", ""),
    ],
)
def test_an_edge_learns_what_a_device_said_wrong(
    changes: dict[str, Any], slug: str, field: str
) -> None:
    with pytest.raises(EventRefused) as caught:
        complete_event(
            SAID | changes,
            tenant_id=TENANT,
            hospital_id="main",
            chain_id="0" * 16,
            prev_hash="0" * 64,
        )
    assert (caught.value.slug, caught.value.field) == (slug, field)
