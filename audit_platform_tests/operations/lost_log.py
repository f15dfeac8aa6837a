"""A log that is changed on disk behind the platform's back, while no process has it open.

Belongs here: losing a tail, a topic made anew, what a sender must send again. Does not: any test.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from audit_platform.adapters.embedded.files import RealFiles
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.ports import NewRecord, Platform
from audit_platform.record.event import format_time_ms, stored_line
from audit_platform.record.layout import EVENTS_TOPIC, partition_of, short_digest
from audit_platform.services.archive_writer import METRICS, ArchiveWriter
from audit_platform.services.ingest_archived import Archived
from audit_platform.telemetry import Telemetry
from audit_platform_tests.failures.receipts import Receipts
from audit_platform_tests.world import World


def open_log(world: World, partitions: int = 2) -> EmbeddedLog:
    """The log as a process that starts now opens it."""
    return EmbeddedLog(world.settings.log_folder, RealFiles(), world.clock, partitions)


@contextmanager
def behind_the_back(world: World, partitions: int = 2) -> Iterator[Path]:
    """Nothing has the log open inside; after it the platform has what is there then."""
    log = world.platform.log
    assert isinstance(log, EmbeddedLog)
    log.close()
    yield world.settings.log_folder
    world.platform = replace(world.platform, log=open_log(world, partitions))


def lose_tail(world: World, partition: int, keep: int, *, topic: str = EVENTS_TOPIC) -> int:
    """Leave only the first `keep` records of a partition, as an unclean election may.

    Returns how many were lost.
    """
    log = world.platform.log
    records = log.read(topic, partition, 0, 1 << 30)
    assert [r.offset for r in records] == list(range(len(records)))
    with behind_the_back(world) as folder:
        shutil.rmtree(folder / topic / f"p{partition}")
        again = open_log(world)
        if records[:keep]:
            again.append(topic, [NewRecord(partition, r.value, r.headers) for r in records[:keep]])
        again.close()
    return len(records[keep:])


def make_topic_anew(world: World, partitions: int, *, topic: str = EVENTS_TOPIC) -> None:
    """Delete a topic with all its records, and make it again under its name."""
    with behind_the_back(world, partitions) as folder:
        shutil.rmtree(folder / topic)


def add_partitions(world: World, partitions: int, *, topic: str = EVENTS_TOPIC) -> None:
    """Give a topic more partitions; it keeps its id and its records."""
    with behind_the_back(world) as folder:
        path = folder / topic / "topic.json"
        data = path.read_bytes()
        more = data.replace(b'"partitions":2', b'"partitions":%d' % partitions)
        assert more != data
        path.write_bytes(more)


def put(world: World, partition: int, value: bytes, *, count: int = 1) -> int:
    """Append one log record of tenant north, whatever it holds; its offset."""
    headers = {"v": "1", "tenant": "north", "count": str(count)}
    return world.platform.log.append(EVENTS_TOPIC, [NewRecord(partition, value, headers)])[0]


@dataclass
class Sender:
    """Sends canonical events of tenant north and keeps them until they are archived, as an edge.

    `held`: what was acknowledged and not yet archived, by (partition, offset, digest).
    """

    world: World
    held: dict[tuple[int, int, str], list[bytes]] = field(default_factory=dict)
    receipts: Receipts = field(default_factory=Receipts)

    def send(self, lines: Iterable[bytes]) -> None:
        """Send events; all are acknowledged."""
        log = self.world.platform.log
        time = format_time_ms(self.world.clock.now_ms()).encode()
        partitions = log.describe(EVENTS_TOPIC).partitions
        cut: dict[int, list[bytes]] = {}
        for line in lines:
            home = partition_of("north", orjson.loads(line)["deviceId"], partitions)
            cut.setdefault(home, []).append(line)
        for partition, some in cut.items():
            value = b"".join(stored_line(line, time) + b"\n" for line in some)
            offset = put(self.world, partition, value, count=len(some))
            self.held[partition, offset, short_digest(value)] = some
            self.receipts.took(some)

    def ask(self) -> dict[str, int]:
        """Ask what is archived: let go of that, send again what the log lost. Counts by answer."""
        places = list(self.held)
        records = [
            {"topic": EVENTS_TOPIC, "partition": p, "offset": o, "digest": d} for p, o, d in places
        ]
        archived = Archived(self.world.platform)
        try:
            answer = asyncio.run(archived.answer(orjson.dumps({"records": records})))
        finally:
            archived.close()
        states = dict(zip(places, orjson.loads(answer)["states"], strict=True))
        again = [
            line for place in places if states[place] == "differs" for line in self.held[place]
        ]
        self.held = {p: lines for p, lines in self.held.items() if states[p] == "pending"}
        self.send(again)
        return dict(Counter(states.values()))


def archive(world: World) -> dict[str, str]:
    """As `archive_platform`."""
    return archive_platform(world.platform)


def archive_platform(platform: Platform) -> dict[str, str]:
    """Let an archive-writer do what it can; the partitions that stand still, and why."""
    writer = ArchiveWriter(
        platform, Telemetry(METRICS), member="w", range_seconds=0.0, range_bytes=1 << 26
    )
    while writer.step():
        pass
    writer.leave()
    return writer.stopped
