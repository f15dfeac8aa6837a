"""Incidents and their ends keep what they say, and the same findings are the same incident."""

from __future__ import annotations

from dataclasses import replace

import pytest

from audit_platform.errors import RecordMalformed
from audit_platform.record import layout
from audit_platform.record.incident import (
    MAX_FINDINGS,
    Ended,
    Incident,
    Resolution,
    incident_of,
)
from audit_platform.record.report import Entry, Step

DAY = "2026-03-01"
ENTRIES = [
    Entry(Step.OBJECTS, "another SHA-256", key="cold/v1/p", tenant_id="north", day=DAY),
    Entry(Step.ROWS, "another hash", device_id="pump-2", chain_id="a" * 16, sequence=7),
    Entry(Step.ROWS, "another hash", device_id="pump-1", chain_id="a" * 16, sequence=3),
]


def test_an_incident_reads_back_as_it_was_signed() -> None:
    made = incident_of("north", DAY, 3, ENTRIES, 9).signed("k" * 16, b"s" * 64)
    read = Incident.from_bytes("x", made.to_bytes())
    assert read == made
    assert read.statement() == made.statement()
    assert read.devices == ("pump-1", "pump-2")


def test_the_same_findings_in_another_order_at_another_time_are_the_same_incident() -> None:
    first = incident_of("north", DAY, 3, ENTRIES, 9)
    again = incident_of("north", DAY, 3, reversed(ENTRIES), 99)
    assert first.incident_id == again.incident_id
    assert incident_of("north", DAY, 4, ENTRIES, 9).incident_id != first.incident_id
    assert incident_of("south", DAY, 3, ENTRIES, 9).incident_id != first.incident_id
    assert incident_of("north", DAY, 3, ENTRIES[:2], 9).incident_id != first.incident_id


def test_findings_beyond_a_number_are_counted_only() -> None:
    many = [replace(ENTRIES[1], sequence=n) for n in range(MAX_FINDINGS + 5)]
    made = incident_of("north", DAY, 3, many, 9)
    assert (made.found, len(made.findings)) == (MAX_FINDINGS + 5, MAX_FINDINGS)


def test_an_end_reads_back_as_it_was_signed() -> None:
    at = ("north", DAY, "0" * 16)
    made = Resolution(*at, Ended.ACCEPTED, 0, "auditor-7", "beide Kopien fehlen: ü", 9)
    made = made.signed("k" * 16, b"s" * 64)
    assert Resolution.from_bytes("x", made.to_bytes()) == made


def test_names_of_both_records_parse_to_where_they_belong() -> None:
    opened = layout.incident_key("north", DAY, "0" * 16)
    ended = layout.resolution_key("north", DAY, "0" * 16)
    assert layout.parse_incident(opened) == ("north", DAY, "0" * 16, False)
    assert layout.parse_incident(ended) == ("north", DAY, "0" * 16, True)
    assert layout.parse_incident(f"{opened}x") is None
    assert opened.startswith(layout.incidents_prefix("north", DAY))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"kind":"incident","version":1}'])
def test_other_bytes_are_refused_with_their_name(data: bytes) -> None:
    with pytest.raises(RecordMalformed, match="here"):
        Incident.from_bytes("here", data)
    with pytest.raises(RecordMalformed, match="here"):
        Resolution.from_bytes("here", data.replace(b"incident", b"incident_resolution"))
