"""Three days of one tenant with everything that goes wrong, and a naive model of what is asked.

Belongs here: the story, the model that reads the log line by line. Does not:
any test.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from audit_platform.ports import EventClock, EventPosition, EventQuery
from audit_platform.record import layout
from audit_platform.record.columns import ints_of
from audit_platform.record.event import canonical_of_stored, parse_time_ms
from audit_platform.record.lines import parse_stored
from audit_platform.record.parquet import read_columns
from audit_platform.record.words import words
from audit_platform.wiring import open_platform
from audit_platform_tests.world import Edge, World

TENANT = "north"
DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")
#: 1926, as a device says whose clock is a century off.
CENTURY_MS = layout.day_start_ms("1926-03-01")


def at(day: int, hour: int, minute: int = 0) -> int:
    """A time of one of the three days."""
    return layout.day_start_ms(DAYS[day]) + (hour * 60 + minute) * 60_000


@dataclass
class Story:
    """The installation after so many days, and lines by name."""

    world: World
    edge: Edge
    lines: dict[str, list[bytes]] = field(default_factory=dict)


def tell(world: World, sealed: int) -> Story:
    """Play the three days; the first `sealed` of them are closed and sealed."""
    world.clock.ms = at(0, 8)
    edge = world.edge(TENANT)
    story = Story(world, edge)
    _first_day(story)
    if sealed > 0:
        _seal(world, 0)
    _second_day(story, first_is_sealed=sealed > 0)
    if sealed > 1:
        _seal(world, 1)
    _third_day(story)
    world.archive()
    return story


def _seal(world: World, day: int) -> None:
    world.archive()
    world.close(DAYS[day])
    world.seal(TENANT, DAYS[day])


def _first_day(story: Story) -> None:
    world, edge = story.world, story.edge
    start = edge.start(at(0, 8))
    lines = edge.heartbeats(3, 6, at(0, 8))
    world.ingest(TENANT, [start, *lines], at_ms=at(0, 8, 1))
    # The same body again: an answer was lost.
    world.ingest(TENANT, lines[4:9], at_ms=at(0, 8, 2))
    # Two events that nobody ever gets.
    lost = [edge.event("pump-000", "heartbeat", {"batteryPercent": n}, at(0, 9)) for n in (1, 2)]
    after = edge.event("pump-000", "heartbeat", {"batteryPercent": 3}, at(0, 9))
    world.ingest(TENANT, [after], at_ms=at(0, 9, 1))
    # A fork: two events say that they are next.
    before = copy.deepcopy(edge)
    one = edge.event("pump-001", "alarm_raised", {"note": "Pumpe läuft — Größe 5"}, at(0, 10))
    other = before.event("pump-001", "alarm_raised", {"note": "STRASSE straße"}, at(0, 10))
    world.ingest(TENANT, [one, other], at_ms=at(0, 10, 1))
    # Refused, and still a link of its chain.
    refused = edge.event("pump-002", "heartbeat", {"batteryPercent": 1000}, at(0, 11))
    world.clock.ms = at(0, 11, 1)
    world.refuse(TENANT, [refused, b"no json at all \xff"])
    world.ingest(TENANT, edge.heartbeats(3, 2, at(0, 12)), at_ms=at(0, 12, 1))
    late = edge.heartbeats(3, 2, at(0, 23, 59))
    world.clock.ms = at(0, 23, 59)
    world.ingest(TENANT, late, at_ms=at(0, 23, 59) + 30_000)
    story.lines |= {"lost": lost, "late": late, "refused": [refused], "first": lines}
    world.archive()


def _second_day(story: Story, *, first_is_sealed: bool) -> None:
    world, edge = story.world, story.edge
    world.clock.ms = max(world.clock.ms, at(1, 1))
    # Copies across midnight.
    world.ingest(TENANT, story.lines["late"], at_ms=at(1, 0, 5))
    # Came on the first day by its gateway's clock, and behind the first day's closing.
    straggler = edge.event("pump-000", "heartbeat", {"batteryPercent": 50}, at(0, 22))
    world.ingest(TENANT, [straggler], at_ms=at(0, 23, 58))
    # A century off, and nine minutes ahead.
    off = edge.event("pump-001", "heartbeat", {"batteryPercent": 51}, CENTURY_MS)
    ahead = edge.event("pump-001", "heartbeat", {"batteryPercent": 52}, at(1, 3))
    world.ingest(TENANT, [off, ahead], at_ms=at(1, 2, 51))
    world.archive()
    # An edge restored from a copy sends what it had again, in a new epoch.
    restored = Edge(TENANT, 0)
    restored.epoch = 7
    restored.numbers[restored.device_id] = edge.numbers[edge.device_id]
    start = restored.start(at(1, 5))
    again = [
        restored.event("pump-002", "heartbeat", {"batteryPercent": (2 + n) % 101}, at(0, 8) + n)
        for n in range(3)
    ]
    world.ingest(TENANT, [start, *again], at_ms=at(1, 5, 1))
    story.lines |= {"straggler": [straggler], "off": [off], "again": again, "restart": [start]}
    assert first_is_sealed or not world.platform.objects.oldest(layout.manifest_key(TENANT, 1))
    world.archive()


def _third_day(story: Story) -> None:
    world, edge = story.world, story.edge
    world.clock.ms = max(world.clock.ms, at(2, 1))
    third = edge.heartbeats(3, 4, at(2, 1))
    world.ingest(TENANT, third, at_ms=at(2, 1, 1))
    story.lines["third"] = third
    world.archive()


# ----------------------------------------------------------------------------------------- model


@dataclass(frozen=True)
class Said:
    """One copy of an event as the log holds it."""

    place: tuple[str, int, int, int]
    stored: bytes
    event: dict[str, object]
    event_hash: bytes

    def ms(self, clock: EventClock) -> int:
        """Its time by a clock."""
        return parse_time_ms(str(self.event[f"{clock}Time"]))

    def position(self, clock: EventClock) -> EventPosition:
        """Where it stands in a search."""
        number = self.event["sequenceNumber"]
        assert isinstance(number, int)
        return EventPosition(self.ms(clock), str(self.event["deviceId"]), number, self.event_hash)


def said(world: World) -> Iterator[Said]:
    """Every stored line in the log."""
    log = world.platform.log
    for partition in range(log.describe(layout.EVENTS_TOPIC).partitions):
        for record in log.read(layout.EVENTS_TOPIC, partition, 0, 1 << 30):
            for index, line in enumerate(record.value.splitlines()):
                event = json.loads(line)
                day = event["ingestionTime"][:10]
                digest = hashlib.sha256(canonical_of_stored(line)).digest()
                yield Said((day, partition, record.offset, index), line, event, digest)


def sealed_times(world: World) -> dict[bytes, int]:
    """Times of ingestion by eventHash, ingestionTime of every row of the parts of all manifests."""
    found: dict[bytes, int] = {}
    objects = world.platform.objects
    for version in objects.versions(f"{layout.COLD}/tenant={TENANT}/"):
        if layout.parse_part(version.key):
            with objects.open(version.key, version.version_id) as file:
                table = read_columns(file, ["event_hash", "ingestion_time"])
            times = ints_of(table["ingestion_time"].combine_chunks()).tolist()
            found |= dict(zip(table["event_hash"].to_pylist(), times, strict=True))
    return found


def counting(world: World) -> list[Said]:
    """Of each event the copy that counts: the sealed one, else the first of the earliest day."""
    sealed = sealed_times(world)
    best: dict[bytes, Said] = {}
    for s in sorted(said(world), key=lambda s: s.place):
        when = sealed.get(s.event_hash)
        if when is not None and s.ms(EventClock.INGESTION) != when:
            continue
        best.setdefault(s.event_hash, s)
    return list(best.values())


def expected(world: World, query: EventQuery) -> list[bytes]:
    """Hashes that a search must give, in order."""
    found = []
    for s in counting(world):
        position = s.position(query.clock)
        e = s.event
        if (
            query.from_ms <= position.ms < query.to_ms
            and query.device_id in (None, e["deviceId"])
            and query.hospital_id in (None, e["hospitalId"])
            and query.event_type in (None, e["eventType"])
            and query.criticality in (None, e["criticality"])
            and (query.after is None or position > query.after)
            and (query.text is None or set(words(query.text)) <= set(words(_text(e))))
        ):
            found.append(position)
    return [p.event_hash for p in sorted(found)[: query.limit]]


def _text(event: dict[str, object]) -> str:
    names = (
        "hospitalId",
        "deviceId",
        "chainId",
        "eventType",
        "eventId",
        "schemaRef",
        "criticality",
    )
    payload = json.dumps(event["payload"], ensure_ascii=False)
    return " ".join([*(str(event[name]) for name in names), payload])


def index(world: World) -> None:
    """Put everything that is in the log into HOT, in the order of the log."""
    for s in sorted(said(world), key=lambda s: s.place):
        world.platform.hot.create(TENANT, s.place[0], parse_stored(s.stored + b"\n", TENANT).batch)


@contextmanager
def open_world_again(world: World) -> Iterator[World]:
    """The same folder, opened once more as another process would."""
    platform = open_platform(world.settings, clock=world.clock)
    try:
        yield replace(world, platform=platform)
    finally:
        platform.close()
