"""The feeder against the real ingest-gateway on embedded adapters: receipts equal the log."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

from audit_platform.demo.edge_state import EdgeFolder, edge_public_key
from audit_platform.demo.feeder import Feeder, Pace, Plan
from audit_platform.demo.mapping import device_events
from audit_platform.demo.numbers import numbers_of
from audit_platform.demo.sender import Sender
from audit_platform.ports import Platform, Role
from audit_platform.record import layout
from audit_platform.record.deadletter import record_entries
from audit_platform.record.event import canonical_of_stored
from audit_platform.services.ingest_gateway import build_app
from audit_platform.services.ingest_server import listen, make_server, serve
from audit_platform.settings import Settings
from audit_platform.wiring import open_platform
from audit_platform_tests.clocks import START_MS, ManualClock

TENANT = "eicu-79"


def _values(platform: Platform, topic: str) -> list[bytes]:
    values = []
    for partition in range(platform.log.describe(topic).partitions):
        start, end = platform.log.bounds(topic, partition)
        while start < end:
            records = platform.log.read(topic, partition, start, 1 << 20)
            values += [record.value for record in records]
            start = records[-1].offset + 1
    return values


def test_receipts_of_a_fed_day_are_what_the_log_and_the_dead_letters_hold(tmp_path: Path) -> None:
    settings = Settings.from_environment({"AUDIT_HOME": str(tmp_path / "platform")})
    clock = ManualClock(START_MS + layout.MS_PER_DAY)
    platform = open_platform(settings, clock=clock)
    platform.metadata.add_tenant(TENANT, START_MS)
    _, secret = platform.metadata.add_api_key(TENANT, Role.EDGE, START_MS)
    platform.metadata.add_edge_key(TENANT, edge_public_key(tmp_path / "edge"), START_MS)
    app = build_app(platform, settings)
    with listen("127.0.0.1", 0) as sock:
        server = make_server(app)
        thread = threading.Thread(target=serve, args=(server, sock))
        thread.start()
        try:
            sender = Sender(f"http://127.0.0.1:{sock.getsockname()[1]}", secret)
            folder = EdgeFolder(tmp_path / "edge")
            Feeder(Plan(TENANT, layout.day_of(START_MS)), folder, sender, Pace(clock)).run()
        finally:
            server.should_exit = True
            thread.join()
    try:
        stored = [
            line for v in _values(platform, layout.EVENTS_TOPIC) for line in v.splitlines() if line
        ]
        accepted = {hashlib.sha256(canonical_of_stored(line)).hexdigest() for line in stored}
        dead = [e for v in _values(platform, layout.DLQ_TOPIC) for e in record_entries(v)]
    finally:
        app.close()
        platform.close()
    receipts = [json.loads(line) for line in folder.receipts_path.read_text().splitlines()]
    said = {
        outcome: {r["eventHash"] for r in receipts if r.get("outcome") == outcome}
        for outcome in ("accepted", "refused")
    }
    expected = numbers_of(device_events(TENANT))
    assert said["accepted"] == accepted
    assert len(stored) == len(accepted)
    assert said["refused"] == {entry.sha256 for entry in dead}
    assert all(entry.link is not None for entry in dead)
    causes = sorted(f"{entry.slug}:{entry.field}" for entry in dead)
    assert causes == sorted(c for c, n in expected.refused.items() for _ in range(n))
    assert len(accepted) + len(dead) == expected.sent + 1
