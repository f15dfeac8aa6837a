"""Dead-letter entries: what was refused comes back byte for byte, whatever it was."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.errors import RecordMalformed
from audit_platform.record.deadletter import (
    CHUNK_BYTES,
    MAX_RECORD_BYTES,
    MAX_RECORD_ENTRIES,
    MAX_TEXT,
    Body,
    DeadLetter,
    Refusal,
    assemble,
    entries_for,
    entry_id_of,
    record_entries,
    record_values,
)
from audit_platform.record.event import EventLink
from audit_platform.record.quarantine import (
    QUARANTINE_SCHEMA,
    QuarantineRow,
    from_table,
    quarantine_rows,
    to_table,
)

BODY = Body("st-anna", 1_768_000_000_123, "ingest-1", "ab" * 32)
REFUSAL = Refusal("schema_violation", "payload.rate", "is not a number", "send a number")
LINK = EventLink(
    hospital_id="h1",
    device_id="pump-1",
    chain_id="0123456789abcdef",
    sequence_number=2**53 - 1,
    event_hash="1" * 64,
    prev_hash="2" * 64,
    event_id="019b2c3d-0000-7000-8000-000000000000",
    event_time="2026-01-09T23:06:40.123Z",
    checksum="3" * 64,
)


def letters(
    data: bytes, line: int = 1, refusal: Refusal = REFUSAL, link: EventLink | None = LINK
) -> list[DeadLetter]:
    return entries_for(BODY, line, data, refusal, link)


def test_an_entry_has_exactly_the_published_form() -> None:
    [entry] = letters(b"\xff")
    assert entry.to_line() == (
        b'{"batchId":"'
        + b"ab" * 32
        + b'","bytes":"/w==","chunk":0,"chunks":1,"entryId":"'
        + hashlib.sha256(b"ab" * 32 + b"\n1\n\xff").hexdigest()[:32].encode()
        + b'","field":"payload.rate","gateway":"ingest-1","line":1,"link":{'
        b'"chainId":"0123456789abcdef","checksum":"' + b"3" * 64 + b'","deviceId":"pump-1",'
        b'"eventHash":"' + b"1" * 64 + b'","eventId":"019b2c3d-0000-7000-8000-000000000000",'
        b'"eventTime":"2026-01-09T23:06:40.123Z","hospitalId":"h1","prevHash":"'
        + b"2"
        * 64
        + b'","sequenceNumber":9007199254740991},"reason":"is not a number",'
        b'"receivedMs":1768000000123,"remedy":"send a number","sha256":"'
        + hashlib.sha256(b"\xff").hexdigest().encode()
        + b'","slug":"schema_violation","stage":"ingest","tenantId":"st-anna"}'
    )


@given(
    data=st.binary(max_size=300),
    texts=st.tuples(st.text(), st.text(), st.text()),
    link=st.sampled_from([None, LINK]),
)
def test_an_entry_survives_line_record_table_and_parquet(
    data: bytes, texts: tuple[str, str, str], link: EventLink | None
) -> None:
    entries = letters(data, 7, Refusal("bad_json", *texts), link)
    [(value, count)] = record_values(entries)
    assert count == 1
    rows = quarantine_rows(41, value)
    assert rows == [QuarantineRow(41, 0, entries[0], None)]
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(rows), sink)
    read = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert from_table(read, "st-anna") == rows
    assert assemble(entries).whole[0].data == data


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(0, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (2 << 20, 4), (16 << 20, 32)],
)
def test_a_large_line_is_cut_into_records_of_at_most_1_mib_and_joined_again(
    size: int, chunks: int
) -> None:
    data = random.Random(size).randbytes(size)
    worst = Refusal("bad_json", "\x01" * 10_000, "\x01" * 10_000, "\U0001f600" * 10_000)
    entries = letters(data, 3, worst)
    assert len(entries) == chunks
    records = list(record_values(entries))
    assert all(len(value) <= MAX_RECORD_BYTES for value, _ in records)
    assert sum(count for _, count in records) == 1
    read = [entry for value, _ in records for entry in record_entries(value)]
    joined = assemble(reversed(read))
    assert joined.incomplete == []
    assert [(e.data, e.chunk, e.chunks) for e in joined.whole] == [(data, 0, 1)]


def test_many_small_lines_share_records_and_each_is_counted_once() -> None:
    entries = [e for n in range(1, 1202) for e in letters(b"x%d" % n, n)]
    records = list(record_values(entries))
    assert [count for _, count in records] == [MAX_RECORD_ENTRIES, MAX_RECORD_ENTRIES, 201]
    assert [e for value, _ in records for e in record_entries(value)] == entries


def test_a_record_is_cut_before_it_grows_over_the_limit() -> None:
    entries = [e for n in range(1, 9) for e in letters(bytes(300_000), n)]
    sizes = [(len(value), count) for value, count in record_values(entries)]
    assert len(sizes) == 4
    assert all(size <= MAX_RECORD_BYTES and count == 2 for size, count in sizes)


def test_an_entry_sent_twice_is_joined_once_and_one_with_a_missing_chunk_is_named() -> None:
    big, small = letters(bytes(CHUNK_BYTES + 1), 1), letters(b"x", 2)
    joined = assemble([*small, *big[:1], *small])
    assert [e.line for e in joined.whole] == [2]
    assert joined.incomplete == [big[0].entry_id]


def test_a_chunk_with_other_bytes_is_not_joined() -> None:
    first, second = letters(bytes(CHUNK_BYTES + 1))
    assert assemble([first, replace(second, data=b"y")]).whole == []


def test_the_entry_id_tells_body_line_and_bytes_apart() -> None:
    ids = {
        entry_id_of("ab" * 32, 1, b"1\n"),
        entry_id_of("ab" * 32, 1, b"1"),
        entry_id_of("ab" * 32, 11, b""),
        entry_id_of("cd" * 32, 1, b"1"),
    }
    assert len(ids) == 4


def test_texts_are_cut_and_lone_surrogates_replaced_so_that_the_bytes_are_kept() -> None:
    [entry] = letters(b"x", 1, Refusal("bad_json", "a\ud800b", "r" * 501, ""))
    assert (entry.field, entry.reason) == ("a?b", "r" * MAX_TEXT)
    assert DeadLetter.from_line(entry.to_line()) == entry


WRONG = {
    "entryId": "XY",
    "tenantId": 1,
    "receivedMs": -1,
    "gateway": None,
    "batchId": "ab",
    "line": 2**31,
    "stage": [],
    "slug": {},
    "field": 1.5,
    "reason": False,
    "remedy": None,
    "chunk": True,
    "chunks": 0,
    "bytes": "%%%%",
    "sha256": "A" * 64,
    "link": {"deviceId": "x"},
}


@pytest.mark.parametrize("field", WRONG)
def test_an_entry_with_one_wrong_field_is_malformed(field: str) -> None:
    value = orjson.loads(letters(b"x")[0].to_line())
    assert value.keys() == WRONG.keys()
    value[field] = WRONG[field]
    with pytest.raises(RecordMalformed):
        DeadLetter.from_line(orjson.dumps(value))


@pytest.mark.parametrize("field", ["chainId", "eventHash", "prevHash", "checksum"])
def test_a_link_with_a_hash_that_is_not_hex_is_malformed(field: str) -> None:
    value = orjson.loads(letters(b"x")[0].to_line())
    value["link"][field] = "Z" * len(value["link"][field])
    with pytest.raises(RecordMalformed):
        DeadLetter.from_line(orjson.dumps(value))


@given(st.binary(max_size=200))
def test_any_bytes_in_the_topic_become_a_raw_row_and_never_an_error(value: bytes) -> None:
    rows = quarantine_rows(5, value)
    assert rows == [QuarantineRow(5, 0, None, value)]
    assert from_table(to_table(rows), "t") == rows


@given(st.data())
def test_a_damaged_record_is_a_raw_row_or_entries_and_never_an_error(data: st.DataObject) -> None:
    [(value, _)] = record_values([*letters(b"abc"), *letters(b"def", 2, link=None)])
    at = data.draw(st.integers(0, len(value) - 1))
    damaged = value[:at] + bytes([data.draw(st.integers(0, 255))]) + value[at + 1 :]
    rows = quarantine_rows(5, damaged)
    assert from_table(to_table(rows), "st-anna") == [
        replace(r, entry=replace(r.entry, tenant_id="st-anna")) if r.entry else r for r in rows
    ]


def test_an_empty_table_keeps_the_schema_and_another_schema_is_refused() -> None:
    assert to_table([]).schema == QUARANTINE_SCHEMA
    with pytest.raises(RecordMalformed):
        from_table(pa.table({"x": [1]}), "t")
