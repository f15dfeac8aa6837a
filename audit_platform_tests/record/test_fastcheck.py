"""The fast check says "good" only where the truth says so, with the same result."""

from __future__ import annotations

import hashlib
import random
import uuid
from datetime import datetime
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.errors import EventRefused
from audit_platform.record import fastcheck
from audit_platform.record.event import (
    MAX_EVENT_BYTES,
    check_event,
    complete_event,
    derive_event_id,
    stored_line,
)
from audit_platform.record.fastcheck import FastCheck
from audit_platform.record.layout import ZERO_HASH, partition_of
from audit_platform.record.schemas import EventSchema, SchemaRegistry

TENANT = "st-anna"
PARTITIONS = 7
NOW = b"2026-03-01T00:00:00.000Z"


def _schema(name: str, version: int, schema: dict[str, Any]) -> EventSchema:
    validator = jsonschema_rs.Draft202012Validator(schema)
    return EventSchema(name, version, f"{name}/{version}", "normal", "any", validator)


#: One type takes any payload, so that nothing but the form of the bytes decides; one does not.
REGISTRY = SchemaRegistry(
    {
        ("anything", 1): _schema("anything", 1, {"type": "object"}),
        ("rate", 2): _schema(
            "rate", 2, {"required": ["rate"], "properties": {"rate": {"maximum": 9}}}
        ),
    }
)


def event(payload: dict[str, Any], device: str = "pump-1", sequence: int = 4, **said: Any) -> bytes:
    kind = said.pop("kind", ("anything", 1))
    return complete_event(
        {
            "deviceId": device,
            "eventType": kind[0],
            "eventVersion": kind[1],
            "eventTime": said.pop("time", "2024-02-29T23:59:59.999Z"),
            "sequenceNumber": sequence,
            "payload": payload,
        },
        tenant_id=said.pop("tenant", TENANT),
        hospital_id="h/1",
        chain_id="0123456789abcdef",
        prev_hash=ZERO_HASH,
        **said,
    ).canonical


def with_payload(text: bytes) -> bytes:
    """A line around this very payload text, whose checksum and eventId are right for its bytes."""
    time = "2024-02-29T23:59:59.999Z"
    checksum = hashlib.sha256(text).hexdigest()
    event_id = derive_event_id(TENANT, "pump-1", time, 4, checksum)
    plain = event({})
    old = orjson.loads(plain)
    return (
        plain.replace(old["checksum"].encode(), checksum.encode())
        .replace(old["eventId"].encode(), event_id.encode())
        .replace(b'"payload":{}', b'"payload":' + text)
    )


def truth(line: bytes) -> tuple[int, bytes, int] | None:
    """(partition, stored line, eventTime) by the one-line check, or None when it refuses."""
    try:
        checked = check_event(line, TENANT)
        REGISTRY.validate(
            checked.event_type, checked.event_version, checked.schema_ref, checked.payload
        )
    except EventRefused:
        return None
    home = partition_of(TENANT, checked.device_id, PARTITIONS)
    return home, stored_line(checked.canonical, NOW) + b"\n", checked.event_time_ms


def fast(lines: list[bytes], check: FastCheck | None = None) -> dict[int, tuple[int, bytes, int]]:
    found = (check or FastCheck(REGISTRY, PARTITIONS)).check(
        b"".join(line + b"\n" for line in lines), len(lines), TENANT
    )
    inserted = b',"ingestionTime":"%b"' % NOW
    stored = [a + inserted + b for a, b in zip(found.heads, found.tails, strict=True)]
    rows = zip(found.partitions, stored, found.event_time_ms.tolist(), strict=True)
    return dict(zip(found.lines, rows, strict=True))


def assert_sound(lines: list[bytes]) -> dict[int, tuple[int, bytes, int]]:
    sure = fast(lines)
    assert list(sure) == sorted(sure)
    for number, row in sure.items():
        assert row == truth(lines[number])
    return sure


GOOD = [
    event({}),
    event({"rate": 9, "unit": "mL/h"}, "pump-2", kind=("rate", 2), criticality="critical"),
    event({"a": [1, 2.5, {"b": None}], "é": "ü€", "x": "1e5 and 1.0"}, "m:1/b.c_d-e", 0),
    event({"deep": [[[[{}]]]], "t": True}, "x" * 128, 2**53 - 1, criticality="low"),
    event({"v": 'a"b\\c\n'}, "y", time="0001-01-01T00:00:00.000Z"),
    event({"v": 0.25}, "z", time="9999-12-31T23:59:59.999Z", criticality="high"),
]  # fmt: skip


def test_every_canonical_line_is_sure_and_equal_to_the_one_line_check() -> None:
    assert list(assert_sound(GOOD)) == list(range(len(GOOD)))


def test_lines_that_are_not_sure_do_not_change_those_beside_them() -> None:
    mixed = [b"", GOOD[0], b"{", b'"' * 200, GOOD[1], GOOD[2] + b"\r", b" " + GOOD[3], GOOD[4]]
    assert list(assert_sound(mixed)) == [1, 4, 7]


def test_no_line_of_a_device_that_is_not_known_is_sure() -> None:
    block = b"".join(line + b"\n" for line in GOOD)
    check = FastCheck(REGISTRY, PARTITIONS)
    for known, sure in (
        (frozenset([b"pump-2", b"y", b"pump-"]), [1, 4]),
        (frozenset[bytes](), []),
        (None, list(range(len(GOOD)))),
    ):
        found = check.check(block, len(GOOD), TENANT, known)
        assert list(found.lines) == sure
        assert len(found.heads) == len(found.partitions) == len(found.event_time_ms) == len(sure)


def test_a_block_without_any_event_has_no_sure_line() -> None:
    check = FastCheck(REGISTRY, PARTITIONS)
    found = check.check(b"\n\n", 2, TENANT)
    assert (list(found.lines), found.heads) == ([], [])


#: Payload texts that one comparison of a whole block might let pass.
FORMS = [
    b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a":1.0}', b'{"a":[1.0]}', b'{"a":1.0,"b":2}',
    b'{"a":-0}', b'{"a":-0.0}', b'{"a":1e5}', b'{"a":1E5}', b'{"a":1e-6}', b'{"a":0.000001}',
    b'{"a":1e-7}', b'{"a":1.5e-7}', b'{"a":0.00001}', b'{"a":1e22}', b'{"a":1e21}', b'{"a":1e16}',
    b'{"a":10000000000000000.0}', b'{"a":9007199254740991}', b'{"a":9007199254740992}',
    b'{"a":-9007199254740993}', b'{"a":123456789012345678901234567890}', b'{"a":01}', b'{"a":+1}',
    b'{"a":.5}', b'{"a":1.}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e999}', b'{"a" :1}',
    b'{"a":1 }', b"{}{}", b'{"a":1},{"b":2}', b'{"a":"\\u0041"}', b'{"a":"\\/"}',
    b'{"a":"\\u001F"}', b'{"a":"\\ud800"}', b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}',
    b'{"\xf0\x9f\x98\x80":1,"\xef\xbf\xbf":2}',
    b'{"\xef\xbf\xbf":2,"\xf0\x9f\x98\x80":1}', b'{"a":"\x7f\xc2\x80"}', b'{"a":\ttrue}',
    b'{"a":tru}',
    b'{"a":' + b"[" * 61 + b"]" * 61 + b"}", b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
    b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", b'{"a":100000000000000000000.5}',
    b'{"a":4503599627370495.5}', b'{"a":0.1000000000000000055}', b'{"a":5e-324}',
]  # fmt: skip


@pytest.mark.parametrize("text", FORMS, ids=repr)
def test_a_payload_whose_checksum_fits_its_bytes_is_sure_only_when_it_is_canonical(
    text: bytes,
) -> None:
    line = with_payload(text)
    sure = assert_sound([GOOD[0], line, GOOD[1]])
    assert {0, 2} <= sure.keys()


def test_the_forms_tried_are_some_good_and_some_bad() -> None:
    verdicts = [truth(with_payload(text)) is not None for text in FORMS]
    assert 5 < sum(verdicts) < len(FORMS) - 5


@pytest.mark.parametrize(
    "texts",
    [
        [b'{"a":[{}', b"{}]}", b"{},{}"],
        [b"{}}", b"{{}"],
        [b'{"a":"}', b'{"}'],
        [b'{"a":[{}', b'{}],"b":{}}', b"{},{}"],
    ],
)
def test_payloads_that_are_json_only_together_are_not_sure(texts: list[bytes]) -> None:
    lines = [with_payload(text) for text in texts]
    assert not fast(lines).keys()
    assert [truth(line) for line in lines] == [None] * len(lines)


@given(st.data())
def test_a_line_with_any_bytes_changed_is_sure_only_when_the_truth_takes_it(
    data: st.DataObject,
) -> None:
    line = bytearray(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(line) - 1))
        cut = data.draw(st.integers(0, 2))
        line[at : at + cut] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b'"', b",", b"}", b"{", b"0", b"1.0", b"e1"])
        )
    damaged = bytes(line).replace(b"\n", b" ")
    assert_sound([GOOD[1], damaged, GOOD[2]])


@given(
    st.dictionaries(
        st.text(max_size=6),
        st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
            | st.integers(-(2**54), 2**54) | st.text(max_size=6),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
            max_leaves=6,
        ),
        max_size=4,
    )
)  # fmt: skip
def test_any_payload_written_by_another_encoder_is_sure_only_when_it_is_canonical(
    payload: dict[str, Any],
) -> None:
    for options in (orjson.OPT_SORT_KEYS, 0):
        assert_sound([with_payload(orjson.dumps(payload, option=options))])


def _changed(field: str, value: Any) -> bytes:
    """A good line with one field changed, and all that is derived from it derived anew."""
    decoded = orjson.loads(GOOD[1]) | {field: value}
    if field == "payload":
        decoded["checksum"] = hashlib.sha256(
            orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        ).hexdigest()
    if field != "eventId":
        decoded["eventId"] = _derived(decoded)
    return orjson.dumps(decoded, option=orjson.OPT_SORT_KEYS)


def _derived(decoded: dict[str, Any]) -> str:
    """The eventId by the words of the specification, of the nearest time where that is none."""
    names = ("tenantId", "deviceId", "eventTime", "sequenceNumber", "checksum")
    said = "\n".join(str(decoded[name]) for name in names)
    time = MEANT.get(decoded["eventTime"], decoded["eventTime"])
    ms = int(datetime.fromisoformat(time).timestamp() * 1000)
    raw = bytearray((ms % 2**48).to_bytes(6, "big") + hashlib.sha256(said.encode()).digest()[:10])
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return str(uuid.UUID(bytes=bytes(raw)))


#: Texts that are no times -> the time that a careless reader would take them for.
MEANT = {
    "2023-02-29T00:00:00.000Z": "2023-03-01T00:00:00.000Z",
    "2024-02-30T00:00:00.000Z": "2024-03-01T00:00:00.000Z",
    "2024-01-01T24:00:00.000Z": "2024-01-02T00:00:00.000Z",
    "2024-01-01T00:60:00.000Z": "2024-01-01T01:00:00.000Z",
    "2024-01-01T00:00:60.000Z": "2024-01-01T00:01:00.000Z",
    "0000-01-01T00:00:00.000Z": "0001-01-01T00:00:00.000Z",
    "2024-13-01T00:00:00.000Z": "2025-01-01T00:00:00.000Z",
    "2024-13-01T00:00:07.000Z": "1970-01-01T00:00:07.000Z",
    "2024-01-01T00:00:00.000+": "2024-01-01T00:00:00.000Z",
    "2024-01-01T00:00:00,000Z": "2024-01-01T00:00:00.000Z",
    "2024-01-01 00:00:00.000Z": "2024-01-01T00:00:00.000Z",
    "2024-01-01T00:00:0a.000Z": "2024-01-01T00:00:49.000Z",
    "2024-01-01T00:00:00.0a0Z": "2024-01-01T00:00:00.490Z",
}


def test_the_derivation_of_these_tests_is_the_true_one() -> None:
    assert _changed("hospitalId", "h/1") == GOOD[1]
    assert truth(_changed("deviceId", "pump-9")) is not None
    assert truth(_changed("eventTime", "2020-01-01T00:00:00.001Z")) is not None
    assert truth(_changed("payload", {"rate": 1})) is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenantId", "st-annb"), ("tenantId", "st-anna2"), ("tenantId", "t"),
        ("deviceId", "pump 2"), ("deviceId", ""), ("deviceId", "x" * 129), ("deviceId", "pümp"),
        ("hospitalId", "h 1"), ("hospitalId", ""), ("eventType", "unknown"), ("eventVersion", 3),
        ("eventVersion", 0), ("schemaRef", "rate/1"), ("schemaRef", ""), ("criticality", "urgent"),
        ("criticality", "lowx"), ("chainId", "0123456789abcdeF"), ("chainId", "0123456789abcde"),
        ("checksum", "0" * 64), ("checksum", "0" * 63), ("prevHash", "G" * 64),
        ("prevHash", "0" * 63), ("sequenceNumber", 2**53), ("sequenceNumber", -1),
        ("sequenceNumber", 9999999999999999), ("eventId", "0" * 36), ("eventId", "x" * 36),
        ("payload", {"rate": 10}), ("payload", {}), ("payload", []), ("extra", 1),
        *(("eventTime", text) for text in MEANT),
    ],
)  # fmt: skip
def test_a_line_with_one_wrong_field_is_not_sure(field: str, value: Any) -> None:
    line = _changed(field, value)
    assert truth(line) is None
    assert list(assert_sound([GOOD[0], line, GOOD[2]])) == [0, 2]


def test_a_uuid_without_its_hyphens_in_place_is_not_sure() -> None:
    good = orjson.loads(GOOD[1])["eventId"]
    moved = good.replace("-", "", 1) + "-"
    assert not fast([_changed("eventId", moved)]).keys()


@pytest.mark.parametrize("field", ["checksum", "eventId", "eventTime", "prevHash"])
def test_a_line_feed_inside_a_field_of_fixed_length_does_not_join_two_lines(field: str) -> None:
    value = orjson.loads(GOOD[1])[field].encode()
    broken = GOOD[1].replace(value, value[:5] + b"\n" + value[6:])
    lines = [GOOD[0], *broken.split(b"\n"), GOOD[2]]
    assert len(lines) == 4
    assert list(assert_sound(lines)) == [0, 3]
    assert list(assert_sound([*lines, b""])) == [0, 3]


def test_an_event_over_the_limit_is_not_sure_and_one_at_the_limit_is() -> None:
    room = MAX_EVENT_BYTES - len(event({"a": ""}))
    largest = event({"a": "x" * room})
    over = with_payload(b'{"a":"%b"}' % (b"x" * (room + 2)))
    assert len(largest) == MAX_EVENT_BYTES < len(over)
    assert list(assert_sound([GOOD[0], largest, over])) == [0, 1]


def test_names_are_forgotten_before_they_fill_the_memory_and_results_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fastcheck, "MAX_REMEMBERED", 10)
    check = FastCheck(REGISTRY, PARTITIONS)
    shuffled = random.Random(3)
    for n in range(40):
        time = f"2024-01-{n % 28 + 1:02d}T00:{n:02d}:00.000Z"
        lines = [event({}, f"d{shuffled.randrange(30)}", time=time) for _ in range(6)]
        sure = fast(lines, check)
        assert [sure[i] for i in range(6)] == [truth(line) for line in lines]
        assert sum(map(len, check._devices.values())) <= 10


def test_devices_of_two_tenants_with_one_name_have_their_own_partitions() -> None:
    check = FastCheck(SchemaRegistry(dict(REGISTRY._schemas)), 4096)
    other = "south"
    line = event({}, tenant=other)
    mine = check.check(GOOD[0] + b"\n", 1, TENANT)
    theirs = check.check(line + b"\n", 1, other)
    assert mine.partitions == [partition_of(TENANT, "pump-1", 4096)]
    assert theirs.partitions == [partition_of(other, "pump-1", 4096)]
    assert (mine.heads, mine.tails) != (theirs.heads, theirs.tails)
