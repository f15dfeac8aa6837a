"""A partition goes on at the end of its last range, or stands still when the log is another one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_platform.adapters.embedded.files import FsyncSite, RealFiles
from audit_platform.adapters.embedded.log import EmbeddedLog
from audit_platform.adapters.embedded.objects import EmbeddedObjects
from audit_platform.errors import GenerationMismatch, LogUnavailable, StoreUnavailable
from audit_platform.operations.claims import claim
from audit_platform.operations.coverage import address_of
from audit_platform.operations.generations import ensure_generation
from audit_platform.ports import ObjectVersion
from audit_platform.record.layout import DLQ_TOPIC, EVENTS_TOPIC, LANDING, MS_PER_DAY, RangeAddress
from audit_platform.record.ranges import RangeRecord, RecordDigest
from audit_platform.services.archive_commit import commit_range
from audit_platform.services.archive_partition import open_partition
from audit_platform.services.archive_range import BuiltRange, build_range
from audit_platform.services.archive_writer import STOPPED_SECONDS
from audit_platform_tests.services.archive_world import PARTITIONS, World, stored, total


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh world."""
    made = World(tmp_path)
    yield made
    made.close()


def make_log_anew(world: World) -> None:
    """The log is lost with all its files, and begun again under the same names."""
    world.log.close()
    shutil.rmtree(world.folder / "log")
    world.log = world.open_log()
    world.platform = world.platform_with(world.objects)


def keep_the_topic_ids(world: World) -> list[bytes]:
    return [
        (world.folder / "log" / t / "topic.json").read_bytes() for t in (EVENTS_TOPIC, DLQ_TOPIC)
    ]


def put_the_topic_ids_back(world: World, kept: list[bytes]) -> None:
    for topic, data in zip((EVENTS_TOPIC, DLQ_TOPIC), kept, strict=True):
        (world.folder / "log" / topic / "topic.json").write_bytes(data)


def test_another_record_before_the_start_stops_that_partition_alone(world: World) -> None:
    kept = keep_the_topic_ids(world)
    world.send(stored(2).lines, partition=0)
    world.archive().leave()
    make_log_anew(world)
    put_the_topic_ids_back(world, kept)
    world.send(stored(2, first=7).lines, partition=0)
    world.send(stored(1, first=9).lines, partition=0)
    other = stored(3, device="pump-2")
    world.send(other.lines, partition=1)
    writer, telemetry = world.writer()
    world.archive(writer)
    assert "another record at 0" in writer.stopped[f"{EVENTS_TOPIC}/0"]
    assert len(writer.stopped) == 1
    assert (
        f'audit_archive_stopped_partitions{{topic="{EVENTS_TOPIC}"}} 1.0'
        in telemetry.text().decode()
    )
    assert [r.end_offset for r in world.ranges(partition=0)] == [1]
    assert world.archived() == stored(2).expected + other.expected


def test_a_log_that_is_shorter_than_what_was_archived_stops_the_partition(world: World) -> None:
    kept = keep_the_topic_ids(world)
    for n in range(3):
        world.send(stored(1, first=n).lines)
    world.archive().leave()
    make_log_anew(world)
    put_the_topic_ids_back(world, kept)
    writer = world.archive()
    assert "archived up to 3" in writer.stopped[f"{EVENTS_TOPIC}/0"]


def test_a_topic_made_anew_stops_all_its_partitions_and_is_looked_at_again(world: World) -> None:
    kept = keep_the_topic_ids(world)
    world.send(stored(1).lines)
    world.archive().leave()
    old_log = world.folder / "old"
    shutil.copytree(world.folder / "log", old_log)
    make_log_anew(world)
    writer = world.archive()
    assert len(writer.stopped) == 2 * PARTITIONS
    assert all("log generation 1 names" in why for why in writer.stopped.values())
    # The right log comes back: no restart is needed.
    put_the_topic_ids_back(world, kept)
    world.send(stored(1).lines)
    world.seconds += STOPPED_SECONDS
    writer.step()
    assert writer.stopped == {}


def test_a_topic_made_anew_while_we_read_is_not_archived_under_the_old_generation(
    world: World,
) -> None:
    world.send(stored(1).lines)
    writer, _ = world.writer()
    writer.step()
    path = world.folder / "log" / EVENTS_TOPIC / "topic.json"
    path.write_bytes(path.read_bytes().replace(b'"topicId":"', b'"topicId":"0'))
    world.archive(writer)
    assert f"{EVENTS_TOPIC}/0" in writer.stopped
    assert world.ranges() == []


def test_what_retention_took_after_it_was_archived_is_no_mismatch(world: World) -> None:
    parts = [stored(1, first=n) for n in range(3)]
    for part in parts[:2]:
        world.send(part.lines)
    world.archive().leave()
    world.send(parts[2].lines)
    assert world.log.drop_before(EVENTS_TOPIC, 0, 2) == 2
    writer = world.archive()
    assert writer.stopped == {}
    assert world.archived() == total(parts)


def test_records_that_retention_took_before_they_were_archived_stop_the_partition(
    world: World,
) -> None:
    world.send(stored(1).lines)
    world.archive().leave()
    for n in range(1, 4):
        world.send(stored(1, first=n).lines)
    world.log.drop_before(EVENTS_TOPIC, 0, 3)
    writer = world.archive()
    assert "offsets 3..4; archived up to 1" in writer.stopped[f"{EVENTS_TOPIC}/0"]


def test_a_missing_range_record_stops_a_partition_that_walks_over_it(world: World) -> None:
    for n in range(3):
        world.send(stored(1, first=n).lines)
        world.archive()
    key = RangeAddress(LANDING, 1, 0, 1).record_key
    for folder in (world.folder / "objects", world.folder / "objects" / ".meta"):
        for path in folder.glob(f"{key}*"):
            path.unlink()
    with pytest.raises(GenerationMismatch, match="not contiguous"):
        open_partition(world.platform, ensure_generation(world.platform), EVENTS_TOPIC, 0, None)


@pytest.mark.parametrize("value", [b"{}", b"\xff"])
def test_a_range_record_that_does_not_decode_stops_the_partition(
    world: World, value: bytes
) -> None:
    key = RangeAddress(LANDING, 1, 0, 0).record_key
    world.objects.put(key, value, retain_until_ms=0, if_absent=True)
    world.send(stored(1).lines)
    writer = world.archive()
    assert key in writer.stopped[f"{EVENTS_TOPIC}/0"]


def test_a_closed_generation_stops_the_partition(world: World) -> None:
    world.send(stored(1).lines)
    world.archive().leave()
    empty = RangeRecord(EVENTS_TOPIC, 1, 0, 1, 1, (), (), 0, 0, 0, 0, 0, closed=True)
    claim(world.objects, address_of(empty).record_key, empty.to_bytes(), world.clock.ms)
    world.send(stored(1, first=1).lines)
    writer = world.archive()
    assert "closed in log generation 1" in writer.stopped[f"{EVENTS_TOPIC}/0"]


def test_a_generation_closed_under_a_running_writer_stops_it_too(world: World) -> None:
    writer, _ = world.writer()
    world.send(stored(1).lines)
    writer.step()
    empty = RangeRecord(EVENTS_TOPIC, 1, 0, 0, 0, (), (), 0, 0, 0, 0, 0, closed=True)
    claim(world.objects, address_of(empty).record_key, empty.to_bytes(), world.clock.ms)
    world.archive(writer)
    assert "closed in log generation 1" in writer.stopped[f"{EVENTS_TOPIC}/0"]


# ----------------------------------------------------------------------------------------- holes


class FailingFiles(RealFiles):
    """Files whose next fsync of a frame fails."""

    fails = False

    def fsync(self, handle: int, site: FsyncSite) -> None:
        """See `Files.fsync`."""
        if self.fails and site is FsyncSite.SEGMENT_FRAMES:
            raise OSError(5, "input/output error")
        super().fsync(handle, site)


def test_a_hole_that_a_failed_append_left_is_covered(world: World) -> None:
    files = FailingFiles()
    log = EmbeddedLog(world.folder / "log", files, world.clock, PARTITIONS)
    world.closers.append(log)
    world.log = log
    world.platform = world.platform_with(world.objects)
    parts = [stored(1), stored(1, first=2)]
    world.send(parts[0].lines)
    files.fails = True
    with pytest.raises(LogUnavailable):
        world.send(stored(1, first=1).lines)
    files.fails = False
    assert world.send(parts[1].lines) == 2
    writer = world.archive()
    (record,) = world.ranges()
    assert (record.first_offset, record.end_offset) == (0, 3)
    assert [r.offset for r in record.records] == [0, 2]
    assert world.archived() == total(parts)
    assert writer.stopped == {}


def test_a_damaged_end_of_the_log_is_covered_by_a_range_without_records(world: World) -> None:
    world.send(stored(1).lines)
    world.archive().leave()
    world.send(stored(1, first=1).lines)
    segment = max((world.folder / "log" / EVENTS_TOPIC / "p0").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    world.log = world.open_log()
    world.platform = world.platform_with(world.objects)
    assert world.log.bounds(EVENTS_TOPIC, 0) == (0, 2)
    assert world.log.read(EVENTS_TOPIC, 0, 1, 1000) == []
    world.archive()
    assert [(r.end_offset, r.records) for r in world.ranges()[1:]] == [(2, ())]
    assert (
        open_partition(
            world.platform, ensure_generation(world.platform), EVENTS_TOPIC, 0, None
        ).next_offset
        == 2
    )


# ---------------------------------------------------------------------------------------- commit


def a_range(world: World) -> BuiltRange:
    """A range of one partition that is not committed."""
    world.send(stored(2).lines)
    records = world.log.read(EVENTS_TOPIC, 0, 0, 1 << 20)
    return build_range(EVENTS_TOPIC, RangeAddress(LANDING, 1, 0, 0), 1, records)


def test_an_object_that_an_earlier_attempt_stored_is_adopted_with_a_lengthened_lock(
    world: World,
) -> None:
    built = a_range(world)
    (only,) = built.objects
    earlier = world.objects.put(only.key, only.data, retain_until_ms=1000, if_absent=True)
    done = commit_range(world.objects, world.clock, built)
    (named,) = done.record.objects
    assert named.version_id == earlier.version_id
    found = world.objects.head(only.key, named.version_id)
    assert found.retain_until_ms == world.clock.ms + 35 * MS_PER_DAY
    assert len(list(world.objects.versions(only.key))) == 1


def test_another_body_under_our_name_is_a_finding_and_ours_is_named_by_version(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    built = a_range(world)
    (only,) = built.objects
    planted = world.objects.put(only.key, b"planted", retain_until_ms=0, if_absent=True)
    for _ in range(2):  # and a second attempt finds its own version again
        (named,) = commit_range(world.objects, world.clock, built).record.objects
        assert named.version_id != planted.version_id
        assert world.objects.get(only.key, named.version_id) == only.data
    assert len(list(world.objects.versions(only.key))) == 2
    assert "another body" in caplog.text


def test_a_delete_marker_over_our_name_hides_nothing_and_stops_nothing(world: World) -> None:
    built = a_range(world)
    (only,) = built.objects
    world.objects.delete(only.key)
    (named,) = commit_range(world.objects, world.clock, built).record.objects
    assert world.objects.get(only.key, named.version_id) == only.data


class Forgetful(EmbeddedObjects):
    """A store that takes objects and does not lock them."""

    def put(self, key: str, data: bytes, *, retain_until_ms: int, if_absent: bool) -> ObjectVersion:
        """See `ports.Objects`."""
        del retain_until_ms
        return super().put(key, data, retain_until_ms=0, if_absent=if_absent)


def test_nothing_is_claimed_while_the_store_does_not_lock(world: World) -> None:
    forgetful = Forgetful(world.folder / "objects", RealFiles(), world.clock)
    built = a_range(world)
    with pytest.raises(StoreUnavailable, match="lock"):
        commit_range(forgetful, world.clock, built)
    assert world.ranges() == []


def test_a_winner_that_read_another_log_is_not_adopted(world: World) -> None:
    built = a_range(world)
    theirs = RangeRecord(
        EVENTS_TOPIC, 1, 0, 0, 2, (RecordDigest(0, "0" * 16, 2),), (), 2, 0, 0, 0, 0
    )
    claim(world.objects, built.address.record_key, theirs.to_bytes(), world.clock.ms)
    with pytest.raises(GenerationMismatch, match="digest at 0 differs"):
        commit_range(world.objects, world.clock, built)
