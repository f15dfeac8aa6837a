"""Whatever a log record holds becomes rows: decoded or as bytes, and counted either way."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.operations import log_events
from audit_platform.ports import LogRecord
from audit_platform.record.columns import hashes_of, stored_lines
from audit_platform.record.deadletter import Body, Refusal, entries_for, record_values
from audit_platform.record.digests import sha256_hex
from audit_platform.record.landing import LANDING_SCHEMA, WHOLE_RECORD
from audit_platform.record.layout import (
    DLQ_TOPIC,
    EVENTS_TOPIC,
    LANDING,
    MS_PER_DAY,
    PREFIX_OF_TOPIC,
    RangeAddress,
    day_of,
)
from audit_platform.record.quarantine import QUARANTINE_SCHEMA, from_table
from audit_platform.services.archive_range import BuiltRange, build_range
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.archive_world import stored

TODAY = day_of(START_MS)
USUAL = {"v": "1", "tenant": "north", "count": "1"}


def log_record(
    value: bytes,
    headers: dict[str, str] | None = None,
    *,
    offset: int = 0,
    topic: str = EVENTS_TOPIC,
) -> LogRecord:
    return LogRecord(topic, 0, offset, START_MS, value, USUAL if headers is None else headers)


def built(*records: LogRecord, topic: str = EVENTS_TOPIC) -> BuiltRange:
    address = RangeAddress(PREFIX_OF_TOPIC[topic], 1, 0, records[0].offset)
    return build_range(topic, address, records[-1].offset + 1, records)


def table_of(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


def value_of(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def test_rows_give_back_every_stored_line_at_its_place() -> None:
    first, second = stored(3), stored(2, first=3)
    found = built(
        log_record(value_of(first.lines), USUAL | {"count": "3"}, offset=7),
        log_record(value_of(second.lines), USUAL | {"count": "2"}, offset=9),
    )
    (only,) = found.objects
    table = table_of(only.data)
    assert table.schema.equals(LANDING_SCHEMA)
    assert table["log_offset"].to_pylist() == [7, 7, 7, 9, 9]
    assert table["log_index"].to_pylist() == [0, 1, 2, 0, 1]
    assert table["raw"].null_count == 5
    rows = table.combine_chunks().to_batches()[0]
    rebuilt = stored_lines(
        rows,
        tenant_id="north",
        checksum=sha256_hex(rows["payload"]),
        prev_hash=hashes_of(rows["prev_hash"]),
    )
    assert [line.encode() for line in rebuilt.to_pylist()] == first.lines + second.lines
    assert (found.events, found.undecodable, found.raw_rows) == (5, 0, 0)


GOOD = value_of(stored(2).lines)


@pytest.mark.parametrize(
    ("value", "headers", "tenant", "events"),
    [
        (GOOD, {"v": "1", "count": "2"}, "platform", 2),
        (GOOD, {"v": "1", "tenant": "No/Such", "count": "2"}, "platform", 2),
        (GOOD, {"v": "2", "tenant": "north", "count": "2"}, "north", 2),
        (GOOD, {"tenant": "north", "count": "2"}, "north", 2),
        (GOOD, {"v": "1", "tenant": "north"}, "north", 1),
        (GOOD, {"v": "1", "tenant": "north", "count": "two"}, "north", 1),
        (GOOD, {"v": "1", "tenant": "north", "count": "-2"}, "north", 1),
        (GOOD, {"v": "1", "tenant": "north", "count": "9999999999"}, "north", 1),
        (GOOD, {"v": "1", "tenant": "north", "count": "3"}, "north", 3),
        (GOOD[:-1], {"v": "1", "tenant": "north", "count": "1"}, "north", 1),
        (b"\xff\x00", {}, "platform", 1),
        (b"", {}, "platform", 1),
    ],
)
def test_a_record_that_is_not_as_stated_lands_as_one_raw_row(
    value: bytes, headers: dict[str, str], tenant: str, events: int
) -> None:
    found = built(log_record(value, headers))
    (only,) = found.objects
    (row,) = table_of(only.data).to_pylist()
    assert (only.tenant_id, only.day, only.rows, only.events) == (tenant, TODAY, 1, events)
    assert (row["log_index"], row["raw"]) == (WHOLE_RECORD, value)
    assert all(row[name] is None for name in row if name not in {"log_offset", "log_index", "raw"})
    assert (found.events, found.undecodable, found.raw_rows) == (events, events, 1)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{}",
        b"\xff\xfe",
        stored(1, "south").lines[0],
        stored(1).lines[0].replace(b'"batteryPercent":0', b'"batteryPercent":1'),
        stored(1).lines[0].replace(b'"ingestionTime":"2026', b'"ingestionTime":"0000'),
        stored(1).lines[0].replace(b'"eventTime":"2026', b'"eventTime":"0000'),
        stored(1).lines[0].replace(b'"criticality":"low",', b""),
        stored(1).lines[0] + b" ",
    ],
)
def test_a_line_that_the_columns_do_not_rebuild_lands_raw_beside_the_good_ones(bad: bytes) -> None:
    good = stored(2).lines
    found = built(log_record(value_of([good[0], bad, good[1]]), USUAL | {"count": "3"}))
    (only,) = found.objects
    rows = {row["log_index"]: row for row in table_of(only.data).to_pylist()}
    assert rows[1]["raw"] == bad
    assert rows[1]["event_hash"] is None
    assert rows[0]["sequence_number"] == 0
    assert rows[2]["sequence_number"] == 1
    assert (found.events, found.undecodable, found.raw_rows, only.events) == (3, 0, 1, 3)


def test_a_raw_line_goes_to_the_day_on_which_its_record_was_appended() -> None:
    late = stored(1, ingested_ms=START_MS - MS_PER_DAY)
    found = built(log_record(value_of([*late.lines, b"x"]), USUAL | {"count": "2"}))
    days = [(o.day, o.rows) for o in found.objects]
    assert days == [(day_of(START_MS - MS_PER_DAY), 1), (TODAY, 1)]


def test_a_record_without_events_is_covered_and_makes_no_object() -> None:
    found = built(log_record(b"", USUAL | {"count": "0"}))
    assert found.objects == ()
    assert [(r.offset, r.count) for r in found.records] == [(0, 0)]


def test_values_are_parsed_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [stored(2, first=2 * n) for n in range(6)]
    records = [
        log_record(value_of(part.lines), USUAL | {"count": "2"}, offset=n)
        for n, part in enumerate(parts)
    ]
    whole = built(*records).objects[0]
    monkeypatch.setattr(log_events, "PARSE_BYTES", 2 * len(records[0].value) + 10)
    pieces = built(*records).objects[0]
    assert table_of(pieces.data).equals(table_of(whole.data))
    assert len(table_of(pieces.data)) == 12


def test_the_name_of_an_object_holds_its_digest() -> None:
    found = built(log_record(GOOD, USUAL | {"count": "2"}, offset=42))
    (only,) = found.objects
    wanted = f"{LANDING}/tenant=north/day={TODAY}/g1-p0-o{42:020d}-{only.sha256[:16]}.parquet"
    assert only.key == wanted


header_text = st.sampled_from(["1", "2", "north", "platform", "x" * 64, "", "-1", "0", "é", "3"])
lines = st.lists(
    st.one_of(
        st.binary(max_size=40), st.sampled_from([*stored(3).lines, *stored(1, "south").lines])
    ),
    max_size=4,
)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.binary(max_size=60), lines.map(value_of)),
            st.dictionaries(st.sampled_from(["v", "tenant", "count", "x"]), header_text),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([EVENTS_TOPIC, DLQ_TOPIC]),
)
def test_no_content_of_the_log_stops_a_range_and_nothing_of_it_is_dropped(
    contents: list[tuple[bytes, dict[str, str], bool]], topic: str
) -> None:
    records = []
    for offset, (value, headers, usual) in enumerate(contents):
        right = {"v": "1", "tenant": "north", "count": str(value.count(b"\n"))}
        records.append(log_record(value, right if usual else headers, offset=offset, topic=topic))
    found = built(*records, topic=topic)
    assert found.events == sum(o.events for o in found.objects)
    assert [r.offset for r in found.records] == list(range(len(records)))
    rows: dict[int, dict[int, bytes | None]] = {r.offset: {} for r in records}
    for o in found.objects:
        table = table_of(o.data)
        assert len(table) == o.rows > 0
        for row in table.to_pylist():
            assert row["log_index"] not in rows[row["log_offset"]]
            rows[row["log_offset"]][row["log_index"]] = row["raw"]
    for record in records:
        places = rows[record.offset]
        if WHOLE_RECORD in places:
            assert places == {WHOLE_RECORD: record.value}
            continue
        kept = record.value.split(b"\n")[:-1]
        assert sorted(places) == list(range(len(kept)))
        assert all(raw in {None, kept[index]} for index, raw in places.items())


# ---------------------------------------------------------------------------------- dead letters


def dead_letters(count: int, *, received_ms: int = START_MS, size: int = 10) -> list[bytes]:
    """Log record values with `count` refused lines of `size` bytes."""
    body = Body("north", received_ms, "gateway-1", "ab" * 32)
    refusal = Refusal("bad_json", "$", "not JSON", "send JSON")
    entries = [
        e for n in range(count) for e in entries_for(body, n + 1, b"x" * size, refusal, None)
    ]
    return [value for value, _ in record_values(entries)]


def test_dead_letters_come_back_from_quarantine_as_they_were() -> None:
    values = dead_letters(3)
    found = built(
        *(log_record(v, USUAL | {"count": "3"}, topic=DLQ_TOPIC) for v in values), topic=DLQ_TOPIC
    )
    (only,) = found.objects
    table = table_of(only.data)
    assert table.schema.equals(QUARANTINE_SCHEMA)
    rows = from_table(table, "north")
    assert b"".join(r.entry.to_line() + b"\n" for r in rows if r.entry) == values[0]
    assert (only.rows, only.events, found.events, found.undecodable) == (3, 3, 3, 0)


def test_a_dead_letter_in_several_records_is_one_event() -> None:
    values = dead_letters(1, size=1_500_000)
    assert len(values) == 3
    counts = ["1", "0", "0"]
    records = [
        log_record(v, USUAL | {"count": c}, offset=n, topic=DLQ_TOPIC)
        for n, (v, c) in enumerate(zip(values, counts, strict=True))
    ]
    found = built(*records, topic=DLQ_TOPIC)
    (only,) = found.objects
    assert (only.rows, only.events, found.events) == (3, 1, 1)


def test_dead_letters_go_to_the_day_on_which_they_were_received() -> None:
    value = dead_letters(1, received_ms=START_MS - 1)[0]
    found = built(log_record(value, topic=DLQ_TOPIC), topic=DLQ_TOPIC)
    assert [o.day for o in found.objects] == [day_of(START_MS - 1)]


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"not an entry\n", USUAL),
        (dead_letters(1)[0], USUAL | {"count": "2"}),
        (dead_letters(1)[0], USUAL | {"tenant": "south"}),
        (dead_letters(1)[0], {"tenant": "north", "count": "1"}),
        (dead_letters(1, received_ms=300_000_000_000_000)[0], USUAL),
        (b"", USUAL | {"count": "0"}),
    ],
)
def test_a_dead_letter_record_that_is_not_as_stated_is_kept_whole(
    value: bytes, headers: dict[str, str]
) -> None:
    found = built(log_record(value, headers, topic=DLQ_TOPIC), topic=DLQ_TOPIC)
    (only,) = found.objects
    (row,) = from_table(table_of(only.data), only.tenant_id)
    assert (row.log_index, row.entry, row.raw) == (WHOLE_RECORD, None, value)
    assert found.undecodable == int(headers["count"])
