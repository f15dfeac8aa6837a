"""Stored lines become columns and come back byte for byte, or are kept as they are."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from audit_platform.record import columns, digests, lines

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
    checksum = digests.sha256_column(parsed.batch["payload"])
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
        checksum = digests.sha256_column(parsed.batch["payload"])
        previous = columns.hashes_of(parsed.batch["prev_hash"])
        rebuilt = columns.stored_lines(
            parsed.batch, tenant_id=TENANT, checksum=checksum, prev_hash=previous
        )
        assert [t.encode() for t in rebuilt.to_pylist()] == [changed]


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
