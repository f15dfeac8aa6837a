"""A writer that runs while the log loses its tail stops, and goes on by itself when told to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3

from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.errors import GenerationMismatch, LogTrouble, LogUnavailable
from audit_platform.metrics.consumers import GENERATION_BROKEN
from audit_platform.operations.coverage import range_records
from audit_platform.operations.generations import ensure_generation
from audit_platform.operations.open_generation import Purpose, open_generation
from audit_platform.ports import GroupMember, LogRecord, NewRecord, TopicInfo
from audit_platform.record.layout import EVENTS_TOPIC
from audit_platform.record.ranges import RangeRecord
from audit_platform.services.archive_http import serve
from audit_platform.services.archive_partition import SURE_SECONDS, Partition, open_partition
from audit_platform.services.archive_writer import CLOSED_SECONDS, STOPPED_SECONDS
from audit_platform.telemetry import Telemetry
from audit_platform_tests.services.archive_world import World, stored
from audit_platform_tests.services.ingest_world import free_socket

BROKEN = f'audit_log_generation_broken{{partition="0",reason="digest",topic="{EVENTS_TOPIC}"}} 1.0'


class SwitchedLog:
    """The log as a running process sees it; what is behind it can be exchanged."""

    def __init__(self, inner: EmbeddedLog) -> None:
        self.inner = inner
        self.is_away = False

    def describe(self, topic: str) -> TopicInfo:
        """See `ports.Log`."""
        return self.inner.describe(topic)

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[int]:
        """See `ports.Log`."""
        return self.inner.append(topic, records)

    def read(self, topic: str, partition: int, offset: int, max_bytes: int) -> list[LogRecord]:
        """See `ports.Log`."""
        return self.inner.read(topic, partition, offset, max_bytes)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See `ports.Log`."""
        if self.is_away:
            raise LogUnavailable("no leader", remedy="wait")
        return self.inner.bounds(topic, partition)

    def join(self, group: str, topic: str, member: str) -> GroupMember:
        """See `ports.Log`."""
        return self.inner.join(group, topic, member)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """See `ports.Log`."""
        return self.inner.committed(group, topic)

    def now_ms(self) -> int:
        """See `ports.Log`."""
        return self.inner.now_ms()


class LosingWorld(World):
    """A world whose log loses its tail under running processes."""

    def __post_init__(self) -> None:
        """The platform has a log that can be exchanged."""
        super().__post_init__()
        self.switched = SwitchedLog(self.log)
        self.platform = replace(self.platform, log=self.switched)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LosingWorld]:
    made = LosingWorld(tmp_path)
    yield made
    made.close()


def refill(world: LosingWorld, keep: int, count: int) -> None:
    """The partition is left with its first `keep` records, and filled with `count` others."""
    records = world.log.read(EVENTS_TOPIC, 0, 0, 1 << 30)[:keep]
    world.log.close()
    shutil.rmtree(world.folder / "log" / EVENTS_TOPIC / "p0")
    world.log = world.switched.inner = world.open_log()
    for r in records:
        world.send_value(r.value, headers=dict(r.headers))
    for n in range(count):
        world.send(stored(1, device="other", first=n).lines)


def open_first(world: LosingWorld) -> Partition:
    return open_partition(world.platform, ensure_generation(world.platform), EVENTS_TOPIC, 0, None)


def test_a_log_refilled_between_two_ranges_is_not_read_on(world: LosingWorld) -> None:
    writer, telemetry = world.writer()
    for n in range(3):
        world.send(stored(1, first=n).lines)
    world.archive(writer)
    refill(world, 2, 4)
    world.archive(writer)
    assert "another record at 2" in writer.stopped[f"{EVENTS_TOPIC}/0"]
    assert "generation open" in writer.stopped[f"{EVENTS_TOPIC}/0"]
    assert BROKEN in telemetry.text().decode()
    assert [r.end_offset for r in world.ranges()] == [3]


def test_a_log_refilled_under_what_is_read_but_not_archived_is_not_read_on(
    world: LosingWorld,
) -> None:
    part = open_first(world)
    for n in range(4):
        world.send(stored(1, first=n).lines)
    assert part.read(1 << 20, 0.0)
    refill(world, 2, 5)
    with pytest.raises(GenerationMismatch) as refused:
        part.read(1 << 20, SURE_SECONDS)
    assert refused.value.trouble is LogTrouble.DIGEST


def test_a_log_that_did_not_answer_is_compared_before_it_is_read_on(world: LosingWorld) -> None:
    part = open_first(world)
    for n in range(4):
        world.send(stored(1, first=n).lines)
    assert part.read(1 << 20, 0.0)
    world.switched.is_away = True
    with pytest.raises(LogUnavailable):
        part.read(1 << 20, 0.0)
    world.switched.is_away = False
    refill(world, 2, 5)
    with pytest.raises(GenerationMismatch, match="another record at 2"):
        part.read(1 << 20, 0.0)


def test_a_log_that_is_shorter_than_what_was_read_is_noticed_at_once(world: LosingWorld) -> None:
    part = open_first(world)
    for n in range(4):
        world.send(stored(1, first=n).lines)
    assert part.read(1 << 20, 0.0)
    refill(world, 2, 1)
    with pytest.raises(GenerationMismatch) as refused:
        part.read(1 << 20, 0.0)
    assert refused.value.trouble is LogTrouble.TAIL


def test_a_range_is_not_claimed_behind_a_record_that_the_log_holds_otherwise(
    world: LosingWorld,
) -> None:
    writer, _ = world.writer()
    for n in range(3):
        world.send(stored(1, first=n).lines)
    world.archive(writer)
    world.send(stored(1, first=3).lines)
    writer.step()  # in the buffer
    refill(world, 1, 6)
    part = writer._partitions[EVENTS_TOPIC, 0]
    part.seen = None
    with pytest.raises(GenerationMismatch, match="another record at 2"):
        part.commit(writer._members[EVENTS_TOPIC])
    assert [r.end_offset for r in world.ranges()] == [3]


def test_what_retention_takes_from_behind_a_full_buffer_is_archived_all_the_same(
    world: LosingWorld,
) -> None:
    writer, _ = world.writer()
    sent = [stored(1, first=n) for n in range(3)]
    world.send(sent[0].lines)
    world.archive(writer)
    world.send(sent[1].lines)
    world.send(sent[2].lines)
    writer.step()
    world.send(stored(1, first=3).lines)
    assert world.log.drop_before(EVENTS_TOPIC, 0, 3) == 3
    world.archive(writer)
    assert world.ranges()[1].end_offset >= 3


def test_other_partitions_go_on_and_all_go_on_by_themselves_in_the_next_generation(
    world: LosingWorld,
) -> None:
    writer, telemetry = world.writer()
    for n in range(3):
        world.send(stored(1, first=n).lines)
        world.send(stored(1, device="pump-2", first=n).lines, partition=1)
    world.archive(writer)
    refill(world, 1, 4)
    world.send(stored(1, device="pump-2", first=3).lines, partition=1)
    world.archive(writer)
    assert list(writer.stopped) == [f"{EVENTS_TOPIC}/0"]
    assert [r.end_offset for r in world.ranges(partition=1)] == [3, 4]
    open_generation(world.platform)
    world.send(stored(1, device="pump-2", first=4).lines, partition=1)
    world.archive(writer)
    assert "closed" in writer.stopped[f"{EVENTS_TOPIC}/1"]
    world.seconds += CLOSED_SECONDS
    world.archive(writer)
    assert list(writer.stopped) in ([f"{EVENTS_TOPIC}/0"], [])
    world.seconds += STOPPED_SECONDS
    world.archive(writer)
    world.archive(writer)
    assert writer.stopped == {}
    assert "audit_log_generation_broken{" not in telemetry.text().decode()
    ends = {p: [r.end_offset for r in _second(world, p)] for p in (0, 1)}
    assert (ends[0][-1], ends[1][-1]) == (5, 5)


def _second(world: LosingWorld, partition: int) -> list[RangeRecord]:
    return list(range_records(world.objects, EVENTS_TOPIC, 2, partition))


def test_deleted_group_offsets_change_nothing(world: LosingWorld) -> None:
    for n in range(3):
        world.send(stored(1, first=n).lines)
        world.archive().leave()
    folder = world.folder / "log" / EVENTS_TOPIC / "groups"
    assert folder.is_dir()
    shutil.rmtree(folder)
    world.send(stored(1, first=3).lines)
    writer = world.archive()
    assert writer.stopped == {}
    assert [r.end_offset for r in world.ranges()] == [1, 2, 3, 4]
    assert sum(world.archived().values()) == 4


def test_readiness_says_which_partition_stands_still_and_what_to_do(world: LosingWorld) -> None:
    writer, _ = world.writer()
    world.send(stored(1).lines)
    world.archive(writer)
    refill(world, 0, 2)
    world.archive(writer)
    telemetry = Telemetry([GENERATION_BROKEN])

    def health() -> tuple[bool, dict[str, object]]:
        return True, {"waitingFor": writer.waiting_for, "stopped": writer.stopped}

    with free_socket() as found:
        port = found.getsockname()[1]
    with serve("127.0.0.1", port, telemetry, health):
        at = f"http://127.0.0.1:{port}"
        assert urllib3.request("GET", f"{at}/healthz", retries=False).status == 200
        answer = urllib3.request("GET", f"{at}/readyz", retries=False)
        said = answer.json()
        assert (answer.status, said["status"]) == (503, "waiting")
        assert "audit-platform generation open" in said["stopped"][f"{EVENTS_TOPIC}/0"]


def test_a_writer_of_the_old_generation_cannot_go_on_behind_its_closing(world: LosingWorld) -> None:
    world.send(stored(1).lines)
    old = open_first(world)
    assert old.read(1 << 20, 0.0)
    opened = open_generation(world.platform, Purpose.STORE)
    assert opened.generation.topics[0].start_offsets[0] == 0
    writer, _ = world.writer()
    world.archive(writer)
    with pytest.raises(GenerationMismatch) as refused:
        old.commit(writer._members[EVENTS_TOPIC])
    assert refused.value.trouble is LogTrouble.CLOSED
    assert [r.closed for r in world.ranges()] == [True]
    assert [r.end_offset for r in _second(world, 0)] == [1]
