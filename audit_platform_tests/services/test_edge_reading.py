"""Reading what devices send: together or one by one it is the same, and nothing is an exception."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_platform.errors import EventRefused
from audit_platform.record.canonical import canonical_bytes
from audit_platform.record.event import MAX_EVENT_BYTES
from audit_platform.record.schemas import registry
from audit_platform.record.together import decode_plain, encode_canonical
from audit_platform.services import edge_shapes
from audit_platform.services.edge_entry import ready, said_again
from audit_platform.services.edge_reading import Read, Reader
from audit_platform_tests.services.edge_world import line, said

NOW = "2026-03-01T12:00:00.000Z"


def reader() -> Reader:
    return Reader(registry(), "north", "h-1", "edge-1")


def read(
    *lines: bytes, by: Reader | None = None, now: Callable[[], str] = lambda: NOW
) -> list[Read | EventRefused]:
    """What each line is; and what is ready to be placed is what one event by itself would be."""
    batch = (by or reader()).read(lines, now)
    assert len(batch.found) == len(lines)
    found: list[Read | EventRefused] = []
    for n, event in enumerate(batch.found):
        if isinstance(event, EventRefused):
            found.append(event)
        else:
            said = said_again(event, "h-1")
            assert event == ready(said, "north")
            found.append(Read(said, batch.flags.get(n)))
    return found


def plain(found: Read | EventRefused) -> object:
    """Something that can be compared."""
    if isinstance(found, EventRefused):
        return (found.slug, found.field, found.reason, found.remedy)
    return found


def one(data: bytes) -> Read:
    [found] = read(data)
    assert isinstance(found, Read), found
    return found


def refusal(data: bytes) -> EventRefused:
    [found] = read(data)
    assert isinstance(found, EventRefused), found
    assert found.reason
    assert found.remedy
    return found


# ----------------------------------------------------------------------------- together or alone

odd_numbers = st.sampled_from(
    [
        "1.0",
        "-0",
        "-0.0",
        "1e3",
        "1E-7",
        "1e-6",
        "123456789012345678",
        "9007199254740993",
        "NaN",
        "12345678901234567890123",
        "0.00001",
        "1e400",
        "5e-324",
        "18446744073709551616",
    ]
)
texts = st.text(max_size=6) | st.sampled_from([":", '":', " :", "\\", '"', "\U00010000", "\ufb01"])
payload_texts = st.recursive(
    st.one_of(
        odd_numbers,
        st.integers(-(2**53) + 1, 2**53 - 1).map(str),
        st.floats(0.5, 1e6).map(repr),
        texts.map(json.dumps),
        texts.map(lambda t: json.dumps(t, ensure_ascii=False)),
        st.sampled_from(["true", "null"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: "[" + ", ".join(parts) + "]")
        | st.lists(st.tuples(texts, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{json.dumps(k)}: {v}" for k, v in pairs) + "}"
        )
    ),
    max_leaves=5,
)
objects = st.lists(st.tuples(texts, payload_texts), max_size=3).map(
    lambda pairs: "{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in pairs) + "}"
)

fields = {
    "deviceId": st.sampled_from(['"pump-1"', '"pump-2"', '"edge-1"', '"p p"', '":x"', "7"]),
    "eventType": st.sampled_from(['"heartbeat"', '"vital_reading"', '"loss"', '"new"', "[]"]),
    "eventVersion": st.sampled_from(["1", "1", "1.0", "true", "0", "2"]),
    "eventTime": st.sampled_from(['"2026-03-01T00:00:00.000Z"', '"2026-03-01T00:00:60.000Z"', "1"]),
    "sequenceNumber": st.sampled_from(["0", "7", "7.0", "-1", "9007199254740992", '"1"', "true"]),
    "payload": objects | payload_texts,
}
optional = {
    "schemaRef": st.sampled_from(['"heartbeat/1"', '"other/1"', '""', "null", "1"]),
    "criticality": st.sampled_from(['"low"', '"highest"', '""', "null", "{}"]),
    "tenantId": st.just('"north"'),
}


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line that is nearly an event, or none at all."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=30).filter(lambda b: b"\n" not in b))
    good = st.just(None)
    pairs = []
    for name, choices in fields.items():
        value = draw(good | choices)
        if value is None:
            value = {
                "deviceId": '"pump-1"',
                "eventType": '"heartbeat"',
                "eventVersion": "1",
                "eventTime": '"2026-03-01T00:00:00.000Z"',
                "sequenceNumber": "7",
                "payload": '{"uptimeSeconds":7}',
            }[name]
        pairs += [(name, value)] * draw(st.sampled_from([1] * 9 + [0, 2]))
    for name, choices in optional.items():
        if draw(st.integers(0, 7)) == 0:
            pairs.append((name, draw(choices)))
    colon = draw(st.sampled_from([":", ": ", " :"]))
    shuffled = draw(st.permutations(pairs))
    comma = draw(st.sampled_from([",", ", "]))
    text = "{" + comma.join(f'"{name}"{colon}{value}' for name, value in shuffled) + "}"
    return text.encode("utf-8", "surrogatepass")


@settings(max_examples=150)
@given(st.lists(lines(), min_size=1, max_size=8))
def test_lines_read_together_are_what_each_is_by_itself(given_lines: list[bytes]) -> None:
    by = reader()
    alone = [plain(by._strictly(data, lambda: NOW)) for data in given_lines]
    together = [plain(found) for found in read(*given_lines)]
    assert together == alone


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_foreign_bytes_are_refused_and_never_an_exception(given_lines: list[bytes]) -> None:
    assert all(isinstance(found, EventRefused) for found in read(*given_lines))


@given(st.lists(objects, min_size=1, max_size=5))
def test_texts_that_are_not_doubtful_are_canonical(given_texts: list[str]) -> None:
    raw = [t.encode("utf-8", "surrogatepass") for t in given_texts]
    decoded = decode_plain(raw)
    if decoded is None:
        return
    values, _ = decoded
    encoded = encode_canonical(values)
    if encoded is None:
        return
    found, keys, doubtful = encoded
    assert len(found) == len(keys) == len(values)
    for n, value in enumerate(values):
        if n not in doubtful:
            assert found[n] == canonical_bytes(value)


def read_alone(by: Reader) -> list[bytes]:
    """The lines that a reader reads by themselves from now on."""
    strict: list[bytes] = []
    slow = by._strictly

    def counted(data: bytes, now: Any) -> Read | EventRefused:
        strict.append(data)
        return slow(data, now)

    by._strictly = counted  # type: ignore[method-assign, assignment] # the slow path is counted
    return strict


def test_most_lines_of_a_device_are_read_together() -> None:
    by = reader()
    given_lines = [line(n, f"pump-{n % 7}") for n in range(1000)]
    given_lines[500] = b'{"deviceId":'
    strict = read_alone(by)
    found = read(*given_lines, by=by)
    assert strict == [given_lines[500]]
    assert [n for n, f in enumerate(found) if isinstance(f, EventRefused)] == [500]


def laid_out(n: int, payload: dict[str, Any]) -> bytes:
    """An event in one of several layouts: other orders of fields, spaces, optional fields."""
    fields = said(n, payload=payload)
    if n % 2:
        fields = dict(sorted(fields.items()))
    if n % 3 == 0:
        fields = {"criticality": "high", **fields, "schemaRef": "heartbeat/1"}
    separators = (", ", ": ") if n % 5 == 0 else (",", ":")
    return json.dumps(fields, separators=separators, ensure_ascii=False).encode()


def test_lines_of_many_layouts_are_read_together_too() -> None:
    by = reader()
    strict = read_alone(by)
    given_lines = [laid_out(n, {"uptimeSeconds": n}) for n in range(200)]
    given_lines += [data + b"\r" for data in given_lines]
    found = read(*given_lines, by=by)
    assert strict == []
    assert [f.said.sequence for f in found if isinstance(f, Read)] == [*range(200)] * 2
    assert {f.said.kind.criticality for f in found if isinstance(f, Read)} == {"low", "high"}


@pytest.mark.parametrize(
    "payload",
    [
        {"sha256": "4e3"},  # looks like an exponent
        {"b": 1, "a": {"d": "\u00b5", "c": [1.5, None]}},  # keys in another order
        {"from": "v1.0", "note": "a: b, {c}"},
    ],
)
def test_payloads_that_only_look_odd_are_read_together(payload: dict[str, Any]) -> None:
    by = reader()
    strict = read_alone(by)
    found = read(*[laid_out(n, payload) for n in range(30) if n % 5], by=by)
    assert strict == []
    wanted = canonical_bytes(payload).decode()
    assert [f.said.payload for f in found if isinstance(f, Read)] == [wanted] * 24


def test_endless_layouts_are_read_right_and_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge_shapes, "MAX_SHAPES", 2)
    by = reader()
    strict = read_alone(by)
    found = read(*[laid_out(n, {"uptimeSeconds": n}) for n in range(30)], by=by)
    assert [f.said.sequence for f in found if isinstance(f, Read)] == [*range(30)]
    assert 0 < len(strict) < 30
    assert len(by._shapes._shapes) == 2


def test_an_event_with_other_bytes_around_it_on_lines_of_their_own_is_not_one_line() -> None:
    for data in (b"x\n" + line(), line() + b"\nx", line(1) + b"\n" + line(2)):
        assert refusal(data).slug == "bad_json"
    [good] = read(b"\n" + line() + b"\n")
    assert isinstance(good, Read)
    first, other = read(line(1), b"x\n" + line(2))
    assert isinstance(first, Read)
    assert isinstance(other, EventRefused)


def test_numbers_of_a_payload_that_its_schema_takes_are_put_in_canonical_form_too() -> None:
    found = one(line(payload={"batteryPercent": 50.0, "uptimeSeconds": 7}))
    assert found.said.payload == '{"batteryPercent":50,"uptimeSeconds":7}'
    assert found.flag is None


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("data", "slug", "field"),
    [
        (b"", "bad_json", ""),
        (b"\x00\x01", "bad_json", ""),
        (b"\xff", "bad_utf8", ""),
        (b"\xef\xbb\xbf{}", "byte_order_mark", ""),
        (b"[]", "not_an_object", ""),
        (b"7", "not_an_object", ""),
        (line(deviceId=None), "missing_field", "deviceId"),
        (line(sequenceNumber=None), "missing_field", "sequenceNumber"),
        (line(deviceId=7), "wrong_type", "deviceId"),
        (line(deviceId="a b"), "bad_form", "deviceId"),
        (line(sequenceNumber=-1), "sequence_range", "sequenceNumber"),
        (line(sequenceNumber=1.5), "wrong_type", "sequenceNumber"),
        (line(eventTime="yesterday"), "bad_time", "eventTime"),
        (line(eventVersion=0), "bad_form", "eventVersion"),
        (line(payload=[1]), "wrong_type", "payload"),
        (line(criticality="highest"), "bad_form", "criticality"),
        (line(criticality=""), "bad_form", "criticality"),
        (line(schemaRef=""), "bad_form", "schemaRef"),
        (line(tenantId="north"), "unknown_field", "tenantId"),
        (line(prevHash="0" * 64), "unknown_field", "prevHash"),
        (line(deviceId="edge-1"), "reserved", "deviceId"),
        (line(eventType="chain_start"), "reserved", "eventType"),
        (line(eventType="loss"), "reserved", "eventType"),
        (line(eventType="edge_clock"), "reserved", "eventType"),
        (line(eventType="event_repaired"), "reserved", "eventType"),
        (line(eventType="record_read"), "reserved", "eventType"),
        (b'{"deviceId":"a","deviceId":"b"}', "duplicate_key", "deviceId"),
        (line(payload={"x": "?"}).replace(b'"?"', b"1e400"), "number_range", "payload.x"),
        (line(payload={"x": "?"}).replace(b'"?"', b"NaN"), "not_a_number", ""),
        (line(payload={"x": "?"}).replace(b'"?"', b'"\\ud800"'), "lone_surrogate", "payload.x"),
        (line(payload={"x": "?"}).replace(b'"?"', b"[" * 100 + b"]" * 100), "too_deep", ""),
        (line(payload={"x": "y" * MAX_EVENT_BYTES}), "too_large", ""),
        (line(payload={"x": "y" * (MAX_EVENT_BYTES - 300)}), "too_large", ""),
    ],
)
def test_what_is_no_event_is_refused_with_its_field_and_a_remedy(
    data: bytes, slug: str, field: str
) -> None:
    found = refusal(data)
    assert (found.slug, found.field) == (slug, field)


def test_a_key_that_stands_twice_in_a_payload_is_refused_also_among_good_lines() -> None:
    twice = line(3).replace(b'{"uptimeSeconds":3}', b'{"uptimeSeconds":3,"uptimeSeconds":4}')
    spaced = twice.replace(b'"uptimeSeconds":4', b'"uptimeSeconds" :4')
    found = read(line(1), twice, line(2), spaced)
    slugs = [f.slug if isinstance(f, EventRefused) else "" for f in found]
    assert slugs == ["", "duplicate_key", "", "duplicate_key"]


# ---------------------------------------------------------------------------------------- events


def test_the_edge_fills_in_criticality_and_schema_from_the_registry() -> None:
    kind = one(line()).said.kind
    assert (kind.criticality, kind.schema_ref) == ("low", "heartbeat/1")
    given_kind = one(line(criticality="high", schemaRef="heartbeat/1")).said.kind
    assert (given_kind.criticality, given_kind.schema_ref) == ("high", "heartbeat/1")
    other = one(line(schemaRef="other/9"))
    assert other.said.kind.schema_ref == "other/9"
    assert other.flag is not None
    assert other.flag.slug == "bad_schema_ref"


def test_a_schema_violation_is_an_event_with_a_flag_that_names_the_field() -> None:
    found = one(line(payload={"uptimeSeconds": "x"}))
    assert found.said.payload == '{"uptimeSeconds":"x"}'
    assert found.flag is not None
    assert (found.flag.slug, found.flag.field) == ("schema_violation", "payload.uptimeSeconds")


def test_an_unknown_event_type_is_an_event_with_a_flag() -> None:
    found = one(line(eventType="coffee_made"))
    assert found.said.kind.criticality == "normal"
    assert found.flag is not None
    assert found.flag.slug == "unknown_event_type"


def test_a_device_without_a_clock_gets_the_edges_time() -> None:
    found = one(line(eventTime=None)).said
    assert (found.event_time, found.stamped) == (NOW, True)
    assert one(line()).said.stamped is False


def test_without_a_good_clock_an_event_without_a_time_is_refused() -> None:
    def no_clock() -> str:
        raise EventRefused("edge_clock_off", "eventTime", "the clock is wrong", remedy="set it")

    timeless, timed = read(line(eventTime=None), line(), now=no_clock)
    assert isinstance(timeless, EventRefused)
    assert timeless.slug == "edge_clock_off"
    assert isinstance(timed, Read)


def test_the_payload_is_put_in_canonical_form_whatever_its_spelling() -> None:
    spelt = json.dumps(said(payload={"b": 1.0, "a": "\u00b5"}), indent=1).encode()
    assert one(spelt).said.payload == '{"a":"\u00b5","b":1}'


def test_a_reader_that_is_asked_about_endless_names_does_not_grow_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("audit_platform.services.edge_reading._REMEMBERED", 10)
    by = reader()
    for n in range(100):
        [found] = read(line(0, f"pump-{n}", eventType=f"type_{n}"), by=by)
        assert isinstance(found, Read)
    assert len(by._devices) <= 10
    assert len(by._sorts) <= 10
