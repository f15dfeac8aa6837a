"""Good bodies: what is stored, where, and what the receipt and the metrics say of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest

from audit_platform.record.event import canonical_of_stored
from audit_platform.record.layout import EVENTS_TOPIC, partition_of, short_digest
from audit_platform.services.ingest_body import MAX_RECORD_BYTES, StoredLines, _records
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.ingest_world import TENANT, World, body_of, event, open_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path / "home") as opened:
        yield opened


def test_a_body_is_stored_and_its_receipt_names_every_record(world: World) -> None:
    lines = [event(n // 5, f"pump-{n % 5}") for n in range(40)]
    body = body_of(*lines)
    answer = world.post_zstd(body)
    assert (answer.status, answer.headers["content-type"]) == (202, "application/json")
    receipt = answer.json
    assert receipt.keys() == {"batchId", "accepted", "refused", "records"}
    assert receipt["batchId"] == hashlib.sha256(body).hexdigest()
    assert (receipt["accepted"], receipt["refused"]) == (40, [])
    held = {(r.topic, r.partition, r.offset): r for r in world.records(EVENTS_TOPIC)}
    assert len(held) == len(receipt["records"])
    for said in receipt["records"]:
        record = held[said["topic"], said["partition"], said["offset"]]
        assert said["digest"] == short_digest(record.value)
        assert said["count"] == record.value.count(b"\n")
        assert record.headers == {"v": "1", "tenant": TENANT, "count": str(said["count"])}
    assert sum(said["count"] for said in receipt["records"]) == 40
    assert sorted(canonical_of_stored(line) for line in world.stored()) == sorted(lines)
    assert world.dead_letters() == []


def test_every_event_gets_the_same_ingestion_time_and_its_devices_partition(world: World) -> None:
    world.clock.ms = START_MS + 42
    world.post(body_of(*(event(n, f"d{n}") for n in range(30))))
    for record in world.records(EVENTS_TOPIC):
        for line in record.value[:-1].split(b"\n"):
            stored = orjson.loads(line)
            assert stored["ingestionTime"] == "2026-03-01T00:00:00.042Z"
            assert record.partition == partition_of(TENANT, stored["deviceId"], 3)


def test_the_order_of_a_devices_events_is_kept_across_lines_that_are_not_canonical(
    world: World,
) -> None:
    lines = [event(n) for n in range(300)]
    sent = [b" " + line if n % 7 == 0 else line for n, line in enumerate(lines)]
    assert world.post(body_of(*sent)).json["accepted"] == 300
    assert [canonical_of_stored(line) for line in world.stored()] == lines


def test_a_line_that_is_not_canonical_is_stored_in_its_canonical_form(world: World) -> None:
    line = event(3)
    backwards = dict(reversed(orjson.loads(line).items()))
    loose = orjson.dumps(backwards, option=orjson.OPT_INDENT_2)
    assert world.post(loose.replace(b"\n", b" ") + b"\r\n").json["accepted"] == 1
    assert [canonical_of_stored(stored) for stored in world.stored()] == [line]


def test_blank_lines_are_no_events_and_the_last_line_needs_no_feed(world: World) -> None:
    body = b"\n\r\n" + event(0) + b"\n  \t\n\n" + event(1)
    answer = world.post(body)
    assert (answer.json["accepted"], answer.json["refused"]) == (2, [])


def test_a_record_is_cut_before_it_grows_over_1_mib() -> None:
    lines = [b"x" * 399_999 + b"\n"] * 5 + [b"y" * (MAX_RECORD_BYTES - 1) + b"\n", b"z\n"]
    halves = StoredLines([line[:1] for line in lines], [line[1:] for line in lines])
    records = list(_records(TENANT, 2, halves, b""))
    assert [r.headers["count"] for r in records] == ["2", "2", "1", "1", "1"]
    assert max(len(r.value) for r in records) == MAX_RECORD_BYTES
    assert b"".join(r.value for r in records) == b"".join(lines)


def test_a_record_holds_at_most_500_events(world: World) -> None:
    many = [event(n) for n in range(1100)]
    receipt = world.post(body_of(*many)).json
    assert [r["count"] for r in receipt["records"]] == [500, 500, 100]
    assert [canonical_of_stored(line) for line in world.stored()] == many


def test_bodies_one_after_another_keep_their_order(world: World) -> None:
    for n in range(20):
        assert world.post(body_of(event(n))).status == 202
    numbers = [orjson.loads(line)["sequenceNumber"] for line in world.stored()]
    assert numbers == list(range(20))


def test_bodies_of_several_connections_at_once_are_all_stored(world: World) -> None:
    bodies = [body_of(*(event(n, f"d{k}") for n in range(50))) for k in range(12)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(world.post_zstd, bodies))
    assert [a.json["accepted"] for a in answers] == [50] * 12
    assert len(set(world.stored())) == 600


def test_the_same_body_sent_again_has_the_same_batch_id_and_is_stored_again(world: World) -> None:
    body = body_of(event(0))
    first, second = world.post(body).json, world.post_zstd(body).json
    assert first["batchId"] == second["batchId"]
    assert first["records"] != second["records"]
    assert len(world.stored()) == 2


def test_the_metrics_count_what_was_accepted(world: World) -> None:
    body = body_of(event(0), event(1, ms=START_MS + 5000), b"{")
    world.post(body)
    assert world.metric("audit_ingest_accepted_events_total") == 2
    assert world.metric("ingestion_validation_failures_total", '{slug="bad_json"}') == 1
    assert world.metric("audit_ingest_responses_total", '{slug="",status="202"}') == 1
    assert world.metric("audit_ingest_body_bytes_total", '{form="plain"}') == len(body)
    assert world.metric("audit_ingest_body_bytes_total", '{form="wire"}') == len(body)
    assert world.metric("audit_ingest_skew_seconds_bucket", '{le="0.0"}') == 1
    assert world.metric("audit_ingest_skew_seconds_bucket", '{le="+Inf"}') == 2
    assert world.metric("audit_ingest_append_seconds_count") == 1
    assert world.metric("audit_ingest_inflight_bodies") == 0
    assert world.metric("audit_ingest_inflight_bytes") == 0
