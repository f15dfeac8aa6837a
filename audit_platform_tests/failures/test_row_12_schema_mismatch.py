"""Row 12: a payload does not fit its schema: refused aloud, kept with its bytes, its chain goes on.

Recovery (reject, or replay under another schema) is an operator's decision on the dead letters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from audit_platform.operations.manifests import read_history
from audit_platform.record import signing
from audit_platform.record.event import event_hash
from audit_platform_tests.failures.receipts import Receipts
from audit_platform_tests.services import ingest_world
from audit_platform_tests.services.ingest_world import TENANT
from audit_platform_tests.world import DAY, Edge, World


def beats(edge: Edge, ms: int) -> list[bytes]:
    """Three good events of each of two devices."""
    return [
        edge.event(device, "heartbeat", {"uptimeSeconds": n}, ms + n)
        for n in range(3)
        for device in ("pump-000", "pump-001")
    ]


def test_row_12_refused_events_are_counted_kept_and_the_chain_goes_through_them(
    tmp_path: Path,
) -> None:
    with ingest_world.open_world(tmp_path / "home", partitions=2) as gateway:
        platform, clock = gateway.platform, gateway.clock
        settings: Any = None  # the embedded folder is all that is asked for here
        world = World(tmp_path / "home", platform, clock, settings)
        platform.keys.new("manifest", clock.now_ms())
        edge = Edge(TENANT)
        platform.metadata.add_edge_key(TENANT, signing.public_bytes(edge.key), clock.now_ms())
        now = clock.now_ms()
        good = [edge.start(now), *beats(edge, now)]
        bad = [
            edge.event("pump-000", "heartbeat", {"uptimeSeconds": "long"}, now),
            edge.event("pump-001", "heartbeat", {"noSuchField": 1}, now),
        ]
        after = beats(edge, now)

        answer = gateway.post(ingest_world.body_of(*good, *bad, *after))
        assert answer.status == 202
        refused = answer.json["refused"]
        assert {r["slug"] for r in refused} == {"schema_violation"}
        assert all(r["field"] and r["reason"] and r["remedy"] for r in refused)
        receipts = Receipts()
        receipts.took([*good, *after])
        receipts.took(bad, "refused")

        # Signal.
        labels = '{slug="schema_violation"}'
        assert gateway.metric("ingestion_validation_failures_total", labels) == 2
        # The bytes are kept, as they came.
        assert [entry.data for entry in gateway.dead_letters()] == bad

        world.archive()
        world.close()
        result = world.seal(TENANT)
        assert (result.rows, result.quarantined_links) == (len(good) + len(after), 2)
        links = {q.link.event_hash for q in read_history(platform, TENANT).counting[DAY].links}
        assert links == {event_hash(line).hex() for line in bad}
        # The chain of each device goes through what was refused: no break, no gap.
        report = world.verify(TENANT)
        assert report.findings == []
        declared = {(e.device_id, e.sequence) for e in report.entries if e.verdict}
        assert declared == {
            (event["deviceId"], event["sequenceNumber"]) for event in map(orjson.loads, bad)
        }
        found = receipts.check(world.objects_folder, tmp_path)
        assert found["clean"]
        assert (found["acknowledged"], found["refused"]) == (len(good + after + bad), 2)


def test_row_12_a_type_that_nobody_knows_stops_no_other_type(tmp_path: Path) -> None:
    with ingest_world.open_world(tmp_path / "home") as gateway:
        unknown = ingest_world.event(0, event_type="no_such_type", payload={"a": 1})
        known = ingest_world.event(0, device="pump-2")
        answer = gateway.post(ingest_world.body_of(unknown, known))
        assert answer.status == 202
        assert [r["slug"] for r in answer.json["refused"]] == ["unknown_event_type"]
        assert len(gateway.stored()) == 1
        assert [entry.data for entry in gateway.dead_letters()] == [unknown]
