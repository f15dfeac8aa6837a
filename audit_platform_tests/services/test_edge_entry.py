"""Spool entries: what can be derived is left out, and comes back byte for byte."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.errors import RecordMalformed
from audit_platform.ports import Entry
from audit_platform.record.canonical import canonical_bytes
from audit_platform.record.event import check_event, complete_event
from audit_platform.record.layout import ZERO_HASH
from audit_platform.record.times import format_time_ms
from audit_platform.services.edge_entry import (
    Columns,
    Place,
    Said,
    canonical,
    conflict_entry,
    decode,
    encode,
    kind_of,
    lines_of,
    name,
    ready,
    ready_all,
    stored_line,
)

PLACE = Place("0123456789abcdef", "h-1", "north", "pump-1")

names = st.from_regex(r"[A-Za-z0-9._:/-]{1,20}", fullmatch=True)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-1e6, 1e6)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
payloads = st.dictionaries(st.text(max_size=6), values, max_size=4)
events = st.fixed_dictionaries(
    {
        "eventTime": st.integers(-62_135_596_800_000, 253_402_300_799_999).map(format_time_ms),
        "sequenceNumber": st.integers(0, 2**53 - 1),
        "eventType": names,
        "eventVersion": st.integers(1, 999),
        "criticality": st.sampled_from(["low", "normal", "high", "critical"]),
        "schemaRef": st.just("") | names,
        "payload": payloads,
        "stamped": st.booleans(),
    }
)


def entry(data: bytes) -> Entry:
    return Entry(0, 0, "pump-1", "low", 1, data)


def as_said(value: dict[str, Any]) -> Said:
    kind = kind_of(
        value["eventType"],
        value["eventVersion"],
        value["criticality"],
        value["schemaRef"],
        PLACE.hospital_id,
    )
    text = canonical_bytes(value["payload"]).decode()
    return Said("pump-1", value["eventTime"], value["sequenceNumber"], kind, text, value["stamped"])


@given(st.lists(events, min_size=1, max_size=5))
def test_lines_come_back_as_complete_event_makes_them(given_events: list[dict[str, Any]]) -> None:
    prev_hash, wanted = ZERO_HASH, []
    for value in given_events:
        completed = complete_event(
            {
                "deviceId": "pump-1",
                **{
                    name: value[name]
                    for name in (
                        "eventType",
                        "eventVersion",
                        "eventTime",
                        "sequenceNumber",
                        "payload",
                    )
                },
            },
            tenant_id="north",
            hospital_id="h-1",
            chain_id=PLACE.chain_id,
            prev_hash=prev_hash,
            schema_ref=value["schemaRef"],
            criticality=value["criticality"],
        )
        wanted.append(completed.canonical)
        prev_hash = completed.event_hash.hex()
    data = encode(PLACE, ZERO_HASH, [stored_line(as_said(value)) for value in given_events])
    assert lines_of(entry(data)) == wanted
    for made in wanted:
        assert check_event(made, "north").canonical == made


@given(events)
def test_decoding_gives_what_was_encoded(value: dict[str, Any]) -> None:
    found = decode(encode(PLACE, "ab" * 32, [stored_line(as_said(value))]))
    assert found is not None
    assert (found.place, found.prev_hash) == (PLACE, "ab" * 32)
    assert found.events == [as_said(value)]


@given(events)
def test_what_can_be_derived_is_not_stored(value: dict[str, Any]) -> None:
    event = as_said(value)
    second = event._replace(sequence=(event.sequence + 1) % 2**53)
    named = name(event, "north")
    made = canonical(event, named, PLACE, ZERO_HASH)
    data = encode(PLACE, ZERO_HASH, [stored_line(event), stored_line(second)])
    head = hashlib.sha256(made).hexdigest()
    for derived in (named.checksum, named.event_id, head):
        assert derived.encode() not in data


@given(events, events)
def test_the_digest_tells_what_the_device_gave(
    value: dict[str, Any], other: dict[str, Any]
) -> None:
    one, two = as_said(value), as_said(other)
    same = one == two or (
        one.stamped and two.stamped and one == two._replace(event_time=one.event_time)
    )
    digests = name(one, "north").digest, name(two, "north").digest
    assert (digests[0] == digests[1]) is same
    later = one._replace(event_time=format_time_ms(0), stamped=True)
    assert name(later, "north").digest == name(one._replace(stamped=True), "north").digest
    assert 0 < digests[0] < 2**64


def test_a_digest_is_never_the_one_that_means_not_taken() -> None:
    event = Said("pump-1", format_time_ms(0), 7, kind_of("new", 1, "low", "", "h-1"), "{}", False)  # noqa: FBT003 - a tuple's column
    digest = name(event, "north").digest
    kind = event.kind._replace(tag=event.kind.tag ^ digest)
    columns = Columns(
        ["pump-1"],
        [b"pump-1"],
        [event.event_time.encode()],
        np.zeros(1, np.int64),
        [7],
        [b"7"],
        [kind],
        [b"{}"],
    )
    assert ready_all(columns, "north") == [ready(event._replace(kind=kind), "north")]
    assert ready_all(columns, "north")[0].digest == 1


def test_a_line_that_joins_no_chain_comes_back_as_it_is() -> None:
    made = orjson.dumps({"deviceId": "pump-1"})
    assert lines_of(entry(conflict_entry(made))) == [made]
    assert decode(conflict_entry(made)) is None


@given(st.binary(max_size=60) | st.text(alphabet="e1c \n{}09af-", max_size=60).map(str.encode))
def test_bytes_of_others_are_named_and_nothing_else_happens(data: bytes) -> None:
    try:
        decode(data)
    except RecordMalformed as e:
        assert e.where == "spool entry"  # noqa: PT017 - not raising is good too


@pytest.mark.parametrize("data", [b"", b"e2 a b c d e", b"e1 a", b"\xff", b"e1 a b c d e\nx"])
def test_a_damaged_entry_is_malformed(data: bytes) -> None:
    with pytest.raises(RecordMalformed):
        decode(data)
