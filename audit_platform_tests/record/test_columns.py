"""Stored lines become columns and come back byte for byte, or are kept as they are."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record import columns, digests, lines
from audit_platform.record.times import parse_time_ms

TENANT = "eicu-79"

ids = st.text("ABCXYZabcxyz0189._:/-", min_size=1, max_size=128)
hex64 = st.binary(min_size=32, max_size=32).map(bytes.hex)
days = st.integers(-62_135_596_800_000, 253_402_300_799_999)  # years 0001 to 9999
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé😀", max_size=5), inner)
    ),
    max_leaves=8,
)


def time_text(ms: int) -> str:
    return str(np.datetime64(ms, "ms")) + "Z"


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    payload = draw(st.dictionaries(ids, json_values, max_size=4))
    return {
        "chainId": draw(st.binary(min_size=8, max_size=8)).hex(),
        "checksum": hashlib.sha256(rfc8785.dumps(payload)).hexdigest(),
        "criticality": draw(st.sampled_from(["low", "normal", "high", "critical"])),
        "deviceId": draw(ids),
        "eventId": "0190163d-8694-739b-aea5-966c26f8ad91",
        "eventTime": time_text(draw(days)),
        "eventType": draw(ids),
        "eventVersion": draw(st.integers(1, 999)),
        "hospitalId": draw(ids),
        "ingestionTime": time_text(draw(days)),
        "payload": payload,
        "prevHash": draw(hex64),
        "schemaRef": draw(ids),
        "sequenceNumber": draw(st.integers(0, 2**53 - 1)),
        "tenantId": TENANT,
    }


def line_of(event: dict[str, Any]) -> bytes:
    return rfc8785.dumps(event)


@given(st.lists(events(), max_size=6))
def test_every_stored_line_is_rebuilt_and_hashed_as_rfc_8785_says(
    batch: list[dict[str, Any]],
) -> None:
    wanted = [line_of(e) for e in batch]
    parsed = lines.parse_stored(b"".join(line + b"\n" for line in wanted), TENANT)
    assert parsed.bad == []
    assert parsed.lines.tolist() == list(range(len(wanted)))
    for event, row in zip(batch, parsed.batch.to_pylist(), strict=True):
        canonical = rfc8785.dumps({k: v for k, v in event.items() if k != "ingestionTime"})
        assert row["event_hash"] == hashlib.sha256(canonical).digest()
        assert row["prev_hash"].hex() == event["prevHash"]
        assert row["sequence_number"] == event["sequenceNumber"]
    checksum = digests.sha256_hex(parsed.batch["payload"])
    previous = columns.hashes_of(parsed.batch["prev_hash"])
    rebuilt = columns.stored_lines(
        parsed.batch, tenant_id=TENANT, checksum=checksum, prev_hash=previous
    )
    assert [line.encode() for line in rebuilt.to_pylist()] == wanted


@given(events(), st.data())
def test_a_changed_byte_never_changes_a_row_unseen(
    event: dict[str, Any], data: st.DataObject
) -> None:
    line = bytearray(line_of(event))
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    changed = bytes(line)
    parsed = lines.parse_stored(changed + b"\n", TENANT)
    count = changed.count(b"\n") + 1
    assert len(parsed.lines) + len(parsed.bad) == count
    for number, raw in parsed.bad:
        assert changed.split(b"\n")[number] == raw
    if len(parsed.lines):
        checksum = digests.sha256_hex(parsed.batch["payload"])
        previous = columns.hashes_of(parsed.batch["prev_hash"])
        rebuilt = columns.stored_lines(
            parsed.batch, tenant_id=TENANT, checksum=checksum, prev_hash=previous
        )
        assert [t.encode() for t in rebuilt.to_pylist()] == [changed]


#: A stored line as it must stand, written down once more in another way.
WHOLE_LINE = re.compile(
    rb'{"chainId":"([^"]{16})","checksum":"([0-9a-f]{64})","criticality":"[^"]*","deviceId":"[^"]*"'
    rb',"eventId":"[^"]{36}","eventTime":"([^"]{24})","eventType":"[^"]*"'
    rb',"eventVersion":(0|[1-9][0-9]{0,9}),"hospitalId":"[^"]*","ingestionTime":"([^"]{24})"'
    rb',"payload":(.*),"prevHash":"[0-9a-f]{64}","schemaRef":"[^"]*"'
    rb',"sequenceNumber":(?:0|[1-9][0-9]{0,15}),"tenantId":"%b"}' % TENANT.encode(),
    re.DOTALL,
)


def is_whole(line: bytes) -> bool:
    """Whether a stored line is one, by a regular expression."""
    found = WHOLE_LINE.fullmatch(line)
    if found is None or int(found[4]) > 2**31 - 1:
        return False
    try:
        line.decode()
        times = [parse_time_ms(found[n].decode()) for n in (3, 5)]
    except ValueError:
        return False
    return len(times) == 2 and hashlib.sha256(found[6]).hexdigest().encode() == found[2]


def with_checksum(line: bytes) -> bytes:
    """The line with the checksum of what stands for its payload, where there is room for it."""
    start, end = line.find(b'"payload":'), line.rfind(b',"prevHash":"')
    at = line.find(b'"checksum":"') + 12
    if min(start, end) < 0 or at < 12 or len(line) < at + 64:
        return line
    checksum = hashlib.sha256(line[start + 10 : end]).hexdigest().encode()
    return line[:at] + checksum + line[at + 64 :]


pieces = st.sampled_from(b'" \\ , 0 9 : - { } A \0 \xff \xc3\xa9 # 01 ""'.split(b" ")) | (
    st.sampled_from([b'"payload":{}', b',"prevHash":"', b"x" * 50, b"9" * 16, b"2147483648"])
)


@given(st.lists(events(), min_size=1, max_size=5), st.data())
def test_bytes_changed_at_random_are_judged_as_a_regular_expression_does(
    batch: list[dict[str, Any]], data: st.DataObject
) -> None:
    changed: list[bytes] = []
    for event in batch:
        line = line_of(event)
        for _ in range(data.draw(st.integers(0, 2))):
            quotes = [n for n, byte in enumerate(line) if byte == ord('"')]
            at = data.draw(st.integers(0, len(line)) | st.sampled_from(quotes or [0]))
            at += data.draw(st.integers(0, 3))
            gone = data.draw(st.sampled_from([0, 0, 1, 1, 2, 24]))
            line = line[:at] + data.draw(pieces | st.just(b"")) + line[at + gone :]
        changed.append(with_checksum(line) if data.draw(st.booleans()) else line)
    parsed = lines.parse_stored(b"".join(line + b"\n" for line in changed), TENANT)
    assert parsed.lines.tolist() == [n for n, line in enumerate(changed) if is_whole(line)]
    assert parsed.bad == [(n, line) for n, line in enumerate(changed) if not is_whole(line)]
    for n, row in zip(parsed.lines.tolist(), parsed.batch["event_hash"].to_pylist(), strict=True):
        at = changed[n].index(b',"ingestionTime":"')
        assert row == hashlib.sha256(changed[n][:at] + changed[n][at + 43 :]).digest()


@pytest.mark.parametrize("new", [b'"', b"0", b"9", b"A", b" ", b",", b"", b"\xff", b'""', b"00"])
def test_each_byte_of_a_line_counts(new: bytes) -> None:
    line = with_checksum(
        b'{"chainId":"%b","checksum":"%b","criticality":"low","deviceId":"pump-1","eventId":"%b"'
        b',"eventTime":"2026-11-24T00:00:00.000Z","eventType":"t","eventVersion":12'
        b',"hospitalId":"h","ingestionTime":"2026-11-24T00:00:00.001Z","payload":{"a":[1]}'
        b',"prevHash":"%b","schemaRef":"t/1","sequenceNumber":1234567890,"tenantId":"%b"}'
        % (b"0" * 16, b"0" * 64, b"e" * 36, b"0" * 64, TENANT.encode())
    )
    assert is_whole(line)
    changed = [line[:at] + new + line[at + 1 :] for at in range(len(line))]
    changed += [with_checksum(one) for one in changed]
    parsed = lines.parse_stored(b"\n".join(changed), TENANT)
    assert parsed.lines.tolist() == [n for n, one in enumerate(changed) if is_whole(one)]
    assert len(parsed.bad) > len(line)


def test_values_longer_than_any_identifier_are_found() -> None:
    device, schema = b"d" * 3000, b"s" * 3000
    payload = b'{"a":1}'
    line = with_checksum(
        b'{"chainId":"%b","checksum":"%b","criticality":"","deviceId":"%b","eventId":"%b"'
        b',"eventTime":"2026-11-24T00:00:00.000Z","eventType":"t","eventVersion":2147483647'
        b',"hospitalId":"h","ingestionTime":"2026-11-24T00:00:00.001Z","payload":%b'
        b',"prevHash":"%b","schemaRef":"%b","sequenceNumber":9999999999999999,"tenantId":"%b"}'
        % (b"0" * 16, b"0" * 64, device, b"e" * 36, payload, b"0" * 64, schema, TENANT.encode())
    )
    assert is_whole(line)
    bad = [
        line.replace(device + b'"', device),
        line.replace(b'"' + schema, schema),
        line.replace(b":2147483647", b":2147483648"),
        line.replace(b":9999999999999999", b":99999999999999999"),
    ]
    parsed = lines.parse_stored(b"\n".join([line, *bad, line]), TENANT)
    assert parsed.lines.tolist() == [0, 5]
    assert parsed.bad == list(enumerate(bad, start=1))
    row = parsed.batch.to_pylist()[1]
    assert (row["device_id"], row["schema_ref"]) == (device.decode(), schema.decode())
    assert (row["event_version"], row["sequence_number"]) == (2**31 - 1, 10**16 - 1)


@given(st.binary(max_size=600))
def test_any_bytes_are_kept_as_bad_lines(raw: bytes) -> None:
    parsed = lines.parse_stored(raw, TENANT)
    expected = raw.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert len(parsed.batch) == 0
    assert [line for _, line in parsed.bad] == expected


def test_a_good_line_between_bad_ones_keeps_its_place() -> None:
    event = {
        "chainId": "00" * 8,
        "checksum": hashlib.sha256(b"{}").hexdigest(),
        "criticality": "low",
        "deviceId": "pump-1",
        "eventId": "0190163d-8694-739b-aea5-966c26f8ad91",
        "eventTime": "2026-11-24T00:00:00.000Z",
        "eventType": "heartbeat",
        "eventVersion": 1,
        "hospitalId": "h",
        "ingestionTime": "2026-11-24T00:00:00.001Z",
        "payload": {},
        "prevHash": "00" * 32,
        "schemaRef": "heartbeat/1",
        "sequenceNumber": 0,
        "tenantId": TENANT,
    }
    good = json.dumps(event, separators=(",", ":")).encode()
    other_tenant = good.replace(TENANT.encode(), b"eicu-80")
    wrong_checksum = good.replace(b'"payload":{}', b'"payload":{"a":1}')
    value = b"\n".join([b"x", good, other_tenant, b"\xff" + good, good, wrong_checksum]) + b"\n"
    parsed = lines.parse_stored(value, TENANT)
    assert parsed.lines.tolist() == [1, 4]
    assert [i for i, _ in parsed.bad] == [0, 2, 3, 5]


@given(st.lists(days, min_size=1, max_size=20))
def test_times_are_written_as_numpy_writes_them(times: list[int]) -> None:
    got = columns.time_text(np.array(times, dtype=np.int64)).to_pylist()
    assert got == [time_text(ms) for ms in times]


def test_blocks_cover_all_rows_once_and_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = pa.array(["x" * (i % 7) * 100 for i in range(100)])
    rows = pa.RecordBatch.from_pydict({"payload": payload})
    monkeypatch.setattr(columns, "MAX_BLOCK_BYTES", 5000)
    cut = list(columns.blocks(rows.slice(3)))
    assert pa.Table.from_batches(cut)["payload"].to_pylist() == payload.to_pylist()[3:]
    assert len(cut) > 10
    assert list(columns.blocks(rows.slice(0, 0))) == []
