"""Bad lines: each gets its own name, its bytes are kept, and nothing beside it is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_platform.record.deadletter import MAX_RECORD_BYTES, entry_id_of
from audit_platform.record.event import canonical_of_stored, link_of
from audit_platform.record.layout import DLQ_TOPIC
from audit_platform.record.schemas import SchemaRegistry, registry
from audit_platform.services.ingest_body import MAX_EVENTS_PER_BODY, BodyChecker
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.ingest_world import TENANT, World, body_of, event, open_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("ingest")) as opened:
        yield opened


def changed(**fields: Any) -> bytes:
    """A good event with fields changed (None: taken out), canonical otherwise."""
    decoded = orjson.loads(event(9)) | fields
    kept = {name: value for name, value in decoded.items() if value is not None}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)


GOOD = event(7)
TOO_LARGE = GOOD.replace(b'"uptimeSeconds":7', b'"a":"%b"' % (b"x" * (2 << 20)))

#: Every bad input of a line: (bytes, slug, field, whether it stays a link of its chain).
BAD: dict[str, tuple[bytes, str, str, bool]] = {
    "not JSON": (b"hello", "bad_json", "", False),
    "cut off": (GOOD[:-20], "bad_json", "", False),
    "not an object": (b"[1]", "not_an_object", "", False),
    "binary": (b"\x00\xff\xfe\x80", "bad_utf8", "", False),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "byte_order_mark", "", False),
    "a wrong type": (changed(deviceId=7), "wrong_type", "deviceId", False),
    "a payload that is no object": (changed(payload=[1]), "wrong_type", "payload", False),
    "a missing field": (changed(prevHash=None), "missing_field", "prevHash", False),
    "an unknown field": (changed(extra=1), "unknown_field", "extra", False),
    "a server's field": (
        changed(ingestionTime="2026-01-01T00:00:00.000Z"), "server_field", "ingestionTime", False,
    ),
    "a bad id": (changed(deviceId="pump 1"), "bad_form", "deviceId", False),
    "an event id that names another event": (
        changed(sequenceNumber=8), "bad_event_id", "eventId", True,
    ),
    "a wrong checksum": (
        changed(payload={"uptimeSeconds": 1}), "bad_checksum", "checksum", True,
    ),
    "a sequence beyond 2^53": (
        changed(sequenceNumber=2**53), "sequence_range", "sequenceNumber", False,
    ),
    "a negative sequence": (changed(sequenceNumber=-1), "sequence_range", "sequenceNumber", False),
    "a short prevHash": (changed(prevHash="0" * 63), "bad_form", "prevHash", False),
    "an upper-case prevHash": (changed(prevHash="A" * 64), "bad_form", "prevHash", False),
    "a time that is none": (
        changed(eventTime="2026-02-30T00:00:00.000Z"), "bad_time", "eventTime", False,
    ),
    "an unknown event type": (
        event(3, event_type="teleported"), "unknown_event_type", "eventType", True,
    ),
    "what only the platform says": (
        event(3, event_type="operator_action"), "reserved", "eventType", True,
    ),
    "another schema": (
        event(3, schema_ref="heartbeat/2"), "bad_schema_ref", "schemaRef", True,
    ),
    "a schema violation": (
        event(3, payload={"uptimeSeconds": -1}), "schema_violation", "payload.uptimeSeconds", True,
    ),
    "another tenant": (event(3, tenant="other"), "other_tenant", "tenantId", False),
    "duplicate keys": (
        GOOD.replace(b'"uptimeSeconds":7', b'"a":1,"a":2'), "duplicate_key", "a", False,
    ),
    "NaN": (GOOD.replace(b":7}", b":NaN}"), "not_a_number", "", False),
    "a lone surrogate": (
        GOOD.replace(b":7}", b':"\\ud800"}'), "lone_surrogate", "payload.uptimeSeconds", False,
    ),
    "a depth bomb": (
        GOOD.replace(b":7}", b":" + b"[" * 100_000 + b"]" * 100_000 + b"}"), "too_deep", "", False,
    ),
    "open brackets only": (b"[" * 200_000, "too_deep", "", False),
    "a number beyond 2^53": (
        GOOD.replace(b":7}", b":%d}" % 2**60), "number_range", "payload.uptimeSeconds", False,
    ),
    "an event of 2 MiB": (TOO_LARGE, "too_large", "", True),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_refused_by_its_name_and_kept_and_its_neighbours_are_stored(
    world: World, name: str
) -> None:
    line, slug, field, is_link = BAD[name]
    world.clock.advance(1000)
    before = world.stored()
    body = body_of(event(1), line, event(2))
    answer = world.post(body)
    assert answer.status == 202
    receipt = answer.json
    assert receipt["accepted"] == 2
    stored = [canonical_of_stored(s) for s in world.stored() if s not in before]
    assert stored == [event(1), event(2)]
    [refused] = receipt["refused"]
    batch = hashlib.sha256(body).hexdigest()
    assert (refused["line"], refused["slug"], refused["field"]) == (2, slug, field)
    assert refused["entryId"] == entry_id_of(batch, 2, line)
    assert refused["reason"]
    assert refused["remedy"]
    link = link_of(line, TENANT)
    assert (link is not None) == is_link
    assert refused["eventHash"] == (link.event_hash if link else None)
    [entry] = [e for e in world.dead_letters() if e.received_ms == world.clock.ms]
    assert entry.data == line
    assert entry.sha256 == hashlib.sha256(line).hexdigest()
    assert entry.link == link
    assert (entry.tenant_id, entry.gateway, entry.batch_id) == (TENANT, "gateway-1", batch)
    assert (entry.entry_id, entry.stage, entry.slug) == (refused["entryId"], "ingest", slug)
    assert (entry.field, entry.reason) == (refused["field"], refused["reason"])
    assert all(len(r.value) <= MAX_RECORD_BYTES for r in world.records(DLQ_TOPIC))


def test_the_receipt_names_dead_letter_records_as_they_stand_in_the_log(world: World) -> None:
    world.clock.advance(1000)
    receipt = world.post(body_of(b"{", TOO_LARGE, b"[", event(1))).json
    kept = [r for r in receipt["records"] if r["topic"] == DLQ_TOPIC]
    held = {(r.partition, r.offset): r for r in world.records(DLQ_TOPIC)}
    assert sum(r["count"] for r in kept) == 3
    assert len({r["partition"] for r in kept}) == 1
    for said in kept:
        record = held[said["partition"], said["offset"]]
        assert record.headers == {"v": "1", "tenant": TENANT, "count": str(said["count"])}
        assert hashlib.sha256(record.value).hexdigest()[:16] == said["digest"]
    mine = [e for e in world.dead_letters() if e.received_ms == world.clock.ms]
    assert [e.data for e in mine] == [b"{", TOO_LARGE, b"["]


def test_a_body_of_nothing_but_bad_lines_is_kept_whole(world: World) -> None:
    world.clock.advance(1000)
    lines = [b"bad %d" % n for n in range(MAX_EVENTS_PER_BODY)]
    receipt = world.post_zstd(body_of(*lines)).json
    assert receipt["accepted"] == 0
    assert [r["line"] for r in receipt["refused"]] == list(range(1, len(lines) + 1))
    mine = [e for e in world.dead_letters() if e.received_ms == world.clock.ms]
    assert [e.data for e in mine] == lines


def test_the_same_bad_body_sent_again_names_the_same_entries(world: World) -> None:
    body = body_of(b"bad", b"worse")
    first, second = world.post(body).json, world.post(body).json
    assert [r["entryId"] for r in first["refused"]] == [r["entryId"] for r in second["refused"]]


class _Failing(SchemaRegistry):
    """A registry whose check itself fails, by an error that nobody foresaw."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(registry()._schemas)
        self.error = error

    def validate(self, event_type: str, version: int, schema_ref: str, payload: object) -> None:
        del event_type, version, schema_ref, payload
        raise self.error


class _PanicLikeRust(BaseException):
    """What a panic of a Rust library is to Python: no `Exception`."""


@pytest.mark.parametrize("error", [RuntimeError("x"), RecursionError(), _PanicLikeRust()])
def test_a_check_that_fails_by_itself_refuses_the_line_and_keeps_its_bytes(
    error: BaseException,
) -> None:
    checker = BodyChecker(_Failing(error), "gateway-1", 1, 1)
    odd = b" " + event(1)  # not canonical: the one-line check looks at it
    checked = checker.check(body_of(event(0), odd, event(2)), TENANT, START_MS)
    assert [r.refusal.slug for r in checked.refused] == ["internal_check_failed"]
    assert checked.refused[0].event_hash == hashlib.sha256(event(1)).hexdigest()
    [record] = checked.events
    assert record.headers["count"] == "2"
    [letters] = checked.dead_letters
    assert letters.headers["count"] == "1"


_GOOD_BODY = body_of(*(event(n, f"d{n % 3}") for n in range(6)))


@settings(max_examples=150)
@given(data=st.data())
def test_no_body_ever_gives_a_5xx_and_every_line_is_accepted_or_refused(
    world: World, data: st.DataObject
) -> None:
    body = bytearray(_GOOD_BODY)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(body)))
        cut = data.draw(st.integers(0, 40))
        body[at : at + cut] = data.draw(
            st.binary(max_size=8) | st.sampled_from([b"\n", b"\r\n", b"\n\n", b"{}", b'"', b"\x00"])
        )
    body = bytearray(data.draw(st.just(bytes(body)) | st.binary(max_size=200)))
    answer = world.post(bytes(body))
    lines = [line for line in bytes(body).split(b"\n") if line.strip(b" \t\r")]
    if not lines:
        assert (answer.status, answer.problem()) == (400, "empty_body")
        return
    assert answer.status == 202
    receipt = answer.json
    assert receipt["accepted"] + len(receipt["refused"]) == len(lines)
    assert sum(r["count"] for r in receipt["records"]) == len(lines)
