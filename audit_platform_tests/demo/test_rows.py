"""The rows that benchmarks run on: right chains, no line twice, as compressible as real rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import islice
from pathlib import Path

import orjson

from audit_platform.demo.mapping import tenant_ids
from audit_platform.record import layout
from audit_platform.record.event import check_event
from audit_platform.record.schemas import registry
from benchmarks import rows

EVENTS = 20_000


def test_every_line_is_a_good_event_in_a_right_chain_over_all_passes() -> None:
    tenant = rows._Tenant("eicu-79", *rows._templates("eicu-79"), 2)
    heads: dict[str, str] = {}
    following: dict[str, int] = {}
    times: dict[str, int] = {}
    starts: dict[str, str] = {}
    for line in tenant.lines():
        event = check_event(line[:-1], "eicu-79")
        assert event.canonical == line[:-1]
        registry().validate(event.event_type, event.event_version, event.schema_ref, event.payload)
        prev_hash = orjson.loads(line)["prevHash"]
        event_hash = hashlib.sha256(line[:-1]).hexdigest()
        if event.event_type == "chain_start":
            starts[event.chain_id] = event_hash
            assert prev_hash == layout.ZERO_HASH
        else:
            assert prev_hash == heads.get(event.device_id, starts[event.chain_id])
            assert event.event_time_ms >= times.get(event.device_id, 0)
        assert event.sequence_number == following.get(event.device_id, 0)
        heads[event.device_id] = event_hash
        following[event.device_id] = event.sequence_number + 1
        times[event.device_id] = event.event_time_ms
    assert len(starts) == rows.GROUPS
    assert sum(following.values()) == rows.GROUPS * (2 * len(tenant._said) + 1)


def test_no_line_is_there_twice_and_bodies_have_five_hundred_events() -> None:
    seen: set[bytes] = set()
    sizes: Counter[int] = Counter()
    for body in rows.bodies(EVENTS):
        lines = body.ndjson.splitlines()
        assert len(lines) == body.events
        sizes[len(lines)] += 1
        seen.update(lines)
    assert len(seen) == EVENTS
    assert sizes[500] >= EVENTS // 500 - len(tenant_ids())


def test_the_same_number_gives_the_same_bytes() -> None:
    first, second = (list(islice(rows.bodies(EVENTS), 3)) for _ in range(2))
    assert first == second


def test_a_million_events_have_ten_thousand_devices() -> None:
    """Every copy of every device speaks in the first pass already."""
    devices = {
        (tenant, device)
        for tenant in tenant_ids()
        for said in rows._templates(tenant)[1]
        for device in said.devices
    }
    events = sum(len(rows._templates(t)[1]) for t in tenant_ids())
    assert len(devices) >= 10_000
    assert rows.GROUPS * events <= 1_000_000


def test_they_compress_as_the_real_rows_do_within_a_fifth() -> None:
    ours, real = rows.zstd_ratio(rows.bodies(100_000)), rows.zstd_ratio(rows.real_bodies())
    assert real > 2
    assert 0.8 <= ours / real <= 1.2


def test_payloads_repeat_about_as_often_as_in_the_real_rows_over_all_passes() -> None:
    """As many passes as a million events have."""

    def distinct(lines: list[bytes]) -> float:
        return len({orjson.loads(line)["checksum"] for line in lines}) / len(lines)

    def numbers_apart(lines: list[bytes]) -> float:
        said = [orjson.loads(line) for line in lines]
        readings = [
            orjson.dumps(e["payload"]["reading"]) for e in said if "reading" in e["payload"]
        ]
        return len(set(readings)) / len(readings)

    tenant = rows._Tenant("eicu-79", *rows._templates("eicu-79"), 4)
    real = [
        line
        for body in rows.real_bodies()
        if body.tenant_id == "eicu-79"
        for line in body.ndjson.splitlines()
    ]
    ours = list(tenant.lines())
    assert distinct(ours) >= 0.8 * distinct(real)
    # Copies differ in what they measured too, not only in whose stay it was.
    assert numbers_apart(ours) * rows.GROUPS * 4 >= 4 * numbers_apart(real)


def test_the_cache_gives_back_what_was_made_and_is_not_made_again(tmp_path: Path) -> None:
    made = list(rows.bodies(2_600))
    cache = rows.cached(2_600, tmp_path)
    assert list(cache.bodies()) == made
    assert cache.events == 2_600 == sum(b.events for b in made)
    stamp = (tmp_path / "bodies.bin").stat().st_mtime_ns
    assert list(rows.cached(2_600, tmp_path).bodies()) == made
    assert (tmp_path / "bodies.bin").stat().st_mtime_ns == stamp


def test_a_moved_number_is_another_number_in_canonical_form() -> None:
    for number in ("10", "97", "1400", "36.6", "0.05", "12345.123456"):
        for step in range(9):
            text = rows._moved(number, step)
            assert orjson.dumps(orjson.loads(text)).decode() == text
            assert 0 <= float(number) - float(text) < 60 or abs(float(text) - float(number)) < 1
