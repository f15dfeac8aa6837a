"""Row 13: what is no event is in the log, and something polluted is in HOT.

Signal: `consumer_envelope_defense_failures_total` above 0, with the place of it in the log.
Recovery: `rebuild_hot` gives exactly the set of the record; the archive was canonical all the time.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from audit_platform.operations.rebuild_hot import rebuild_hot
from audit_platform.ports import EventQuery, NewRecord
from audit_platform.record.event import event_hash
from audit_platform.record.layout import EVENTS_TOPIC, MS_PER_DAY, day_start_ms
from audit_platform.services.search_indexer import METRICS, SearchIndexer
from audit_platform.telemetry import Telemetry
from audit_platform_tests.failures.receipts import Receipts
from audit_platform_tests.hot_rows import Event, batch
from audit_platform_tests.world import DAY, World, open_world

TENANT = "north"


def in_hot(world: World) -> set[bytes]:
    """Hashes that a search of the whole day shows."""
    start = day_start_ms(DAY)
    query = EventQuery(TENANT, start, start + MS_PER_DAY, limit=1000)
    found = world.platform.hot.search(query, is_cancelled=lambda: False)
    return set(found["event_hash"].to_pylist())


def failures(telemetry: Telemetry, reason: str) -> float:
    """The counter for one reason."""
    start = f'consumer_envelope_defense_failures_total{{reason="{reason}"}}'
    lines = telemetry.text().decode().splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(start))


def test_row_13_malformed_records_are_counted_and_a_rebuild_gives_exactly_the_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_world(tmp_path / "home", partitions=1) as world:
        edge = world.edge(TENANT)
        now = world.clock.now_ms()
        said = [edge.start(now), *edge.heartbeats(3, 5, now)]
        receipts = Receipts()
        receipts.took(said)
        world.ingest(TENANT, said[:8])
        malformed = said[3].replace(b'"eventVersion":1', b'"eventVersion":"1"')
        stranger = world.edge("south", seed=1).start(now)
        append = world.platform.log.append
        headers = {"v": "1", "tenant": TENANT, "count": "1"}
        append(EVENTS_TOPIC, [NewRecord(0, malformed + b"\n", headers)])
        append(EVENTS_TOPIC, [NewRecord(0, stranger + b"\n", headers)])
        append(EVENTS_TOPIC, [NewRecord(0, b"\x80 nothing", {"tenant": TENANT})])
        world.ingest(TENANT, said[8:])
        polluted = Event(event_time=now, ingestion_time=now, payload='{"dose":"ten times"}')
        world.platform.hot.create(TENANT, DAY, batch([polluted]))

        # Signal: counted by reason, and the log says where.
        telemetry = Telemetry(METRICS)
        indexer = SearchIndexer(world.platform, telemetry, member="indexer-1")
        with caplog.at_level(logging.ERROR):
            while indexer.step():
                pass
        counts = {reason: failures(telemetry, reason) for reason in ("line", "tenant", "record")}
        assert counts == {"line": 1, "tenant": 1, "record": 1}
        places = [r.__dict__["offset"] for r in caplog.records if "no event" in r.message]
        assert sorted(places) == [1, 2, 3]

        # Behaviour: it goes on, everything that is an event is found, and nothing else came in.
        true = {event_hash(line) for line in said}
        assert in_hot(world) == true | {polluted.event_hash}

        # The archive is canonical: the day seals, verifies, and holds all that was acknowledged.
        world.archive()
        world.close()
        assert world.seal(TENANT).rows == len(said)
        assert world.verify(TENANT).findings == []
        found = receipts.check(world.objects_folder, tmp_path)
        assert found["clean"]
        assert found["acknowledged"] == len(said)

        # Recovery.
        result = rebuild_hot(world.platform, TENANT, DAY)
        assert result.complete
        assert (result.foreign, result.lacking) == (1, 0)
        assert in_hot(world) == true
