"""The exporter by hand: lag that is right without any consumer, probes that fail alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from audit_platform.adapters.faulty import Fault, Faults, faulty
from audit_platform.errors import (
    AccessDenied,
    AuditPlatformError,
    HotUnavailable,
    LogUnavailable,
    ObjectLocked,
    StoreUnavailable,
)
from audit_platform.operations.generations import current_generation
from audit_platform.ports import HotState, Log, Objects, Platform, Probes
from audit_platform.record.layout import (
    DLQ_TOPIC,
    EVENTS_TOPIC,
    INDEXER_GROUP,
    MS_PER_DAY,
    lock_probe_key,
)
from audit_platform.services.exporter import Exporter, metrics_of, probes_of
from audit_platform.services.exporter_checks import (
    LogWrite,
    tell_accounts,
    tell_hot,
    try_lock,
)
from audit_platform.services.exporter_lag import GroupLag
from audit_platform.services.exporter_probe import Asking, Probe
from audit_platform.telemetry import Telemetry
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.archive_world import World, stored

ALL = Probes(close=lambda: None, hot=lambda: HotState("green", 1, 0, {}), log_write=lambda: "")


def telemetry() -> Telemetry:
    return Telemetry(metrics_of(ALL))


def shown(told: Telemetry, name: str) -> dict[tuple[str, ...], float]:
    """Samples of a metric, by the values of its labels in the order of their names."""
    return {
        tuple(v for _, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(told.text().decode())
        for sample in family.samples
        if sample.name == name
    }


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def lag(told: Telemetry, group: str, partition: int = 0, topic: str = EVENTS_TOPIC) -> list[float]:
    """Records, events, seconds."""
    place = (group, str(partition), topic)
    return [shown(told, f"kafka_consumergroup_lag{m}")[place] for m in ("", "_events", "_seconds")]


# --------------------------------------------------------------------------------------------- lag


def test_the_lag_is_told_though_no_consumer_ever_ran(world: World) -> None:
    for count in (1, 2, 40):
        world.send(stored(count, device=f"d-{count}").lines)
    world.send(stored(7).lines, partition=1)
    world.send_value(b"{}", count=3, topic=DLQ_TOPIC)
    world.clock.advance(5_000)
    told = telemetry()
    GroupLag(world.platform, told).tell()
    for group in ("archive-writer", INDEXER_GROUP):
        assert lag(told, group) == [3, 43, 5]
        assert lag(told, group, 1) == [1, 7, 5]
    assert lag(told, "archive-writer", 0, DLQ_TOPIC) == [1, 3, 5]
    assert current_generation(world.platform) is None, "it only looks"


def test_the_archives_lag_goes_by_range_records_and_not_by_offsets(world: World) -> None:
    told = telemetry()
    looking = GroupLag(world.platform, told)
    world.send(stored(4).lines)
    writer = world.archive()
    looking.tell()
    assert lag(told, "archive-writer") == [0, 0, 0]
    for _ in range(3):  # each range is found behind the one before
        world.send(stored(5).lines)
        looking.tell()
        assert lag(told, "archive-writer")[:2] == [1, 5]
        world.archive(writer)
        looking.tell()
        assert lag(told, "archive-writer") == [0, 0, 0]
    assert lag(told, INDEXER_GROUP)[0] == 4
    # Who begins later finds the last range without a hint.
    for offsets in (world.folder / "log").rglob("*.offsets"):
        offsets.unlink()
    later = telemetry()
    GroupLag(world.platform, later).tell()
    assert lag(later, "archive-writer") == [0, 0, 0]


def test_the_indexers_lag_goes_by_its_committed_offset_and_asking_makes_no_member(
    world: World,
) -> None:
    for _ in range(3):
        world.send(stored(2).lines)
        world.clock.advance(1000)
    member = world.log.join(INDEXER_GROUP, EVENTS_TOPIC, "one")
    assert member.assignment() == frozenset({0, 1})
    told = telemetry()
    looking = GroupLag(world.platform, told)
    looking.tell()
    assert lag(told, INDEXER_GROUP) == [3, 6, 3]
    member.commit(0, 2)
    looking.tell()
    assert lag(told, INDEXER_GROUP) == [1, 2, 1]
    assert member.assignment() == frozenset({0, 1})
    # Kafka forgets a group for some seconds when a broker dies.
    for offsets in (world.folder / "log").rglob(f"{INDEXER_GROUP}.offsets"):
        offsets.unlink()
    world.send(stored(2).lines)
    looking.tell()
    assert lag(told, INDEXER_GROUP)[:2] == [2, 4]


def test_a_large_lag_is_told_in_events_by_the_mean_of_what_was_read(world: World) -> None:
    filler = b"x" * 300_000
    for count in (100, 200, 300) * 4:
        world.send_value(filler, count=count)
    told = telemetry()
    GroupLag(world.platform, told).tell()
    records, events, _ = lag(told, INDEXER_GROUP)
    assert records == 12
    assert 100 * 12 < events < 300 * 12


def test_a_store_that_is_away_leaves_the_archives_lag_growing(world: World) -> None:
    world.send(stored(4).lines)
    world.archive()
    asked = Faults()
    GroupLag(_with_store(world, asked), telemetry()).tell()
    # From the second look on nothing is answered.
    away = Faults(dict.fromkeys(range(len(asked.calls) + 1, 1000), Fault.BEFORE))
    told = telemetry()
    looking = GroupLag(_with_store(world, away), told)
    looking.tell()
    world.send(stored(3).lines)
    looking.tell()
    assert away.happened
    assert lag(told, "archive-writer")[:2] == [1, 3]


def _with_store(world: World, faults: Faults) -> Platform:
    store: Objects = faulty(world.objects, StoreUnavailable, faults)
    return world.platform_with(store)


def test_a_log_that_is_away_leaves_what_was_told(world: World) -> None:
    told = telemetry()
    world.send(stored(4).lines)
    GroupLag(world.platform, told).tell()
    away: Log = faulty(world.log, LogUnavailable, Faults({1: Fault.BEFORE}))
    with pytest.raises(LogUnavailable):
        GroupLag(replace(world.platform, log=away), told).tell()
    assert lag(told, "archive-writer")[:2] == [1, 4]


# ------------------------------------------------------------------------------------------ probes


def test_a_probe_that_hangs_is_shown_as_failed_and_holds_up_no_other() -> None:
    told = telemetry()
    thaw, asked = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        thaw.wait(60)

    found = [
        Probe("frozen", 0.01, 0.05, hang),
        Probe("well", 0.01, 60, asked.release),
    ]
    exporter = Exporter(found, told)
    exporter.start()
    tick = threading.Event()
    for _ in range(2000):
        exporter.look()
        if shown(told, "audit_probe_ok").get(("frozen",)) == 0:
            break
        tick.wait(0.01)
    assert shown(told, "audit_probe_ok")["frozen",] == 0
    assert shown(told, "audit_probe_errors_total")["frozen",] == 1
    for _ in range(20):
        assert asked.acquire(timeout=60), "the other one is asked all the time"
    assert exporter.health() == (True, {"failing": {"frozen": "no end within 0.05 s"}})
    thaw.set()
    exporter.end()
    assert shown(told, "audit_probe_errors_total")["well",] == 0
    assert shown(told, "audit_probe_ok")["well",] == 1


def test_a_probe_fails_counts_and_is_well_again() -> None:
    told = telemetry()
    faults: list[Exception | None] = [LogUnavailable("away"), KeyError("ours"), None]
    wall = 100.0

    def ask() -> None:
        fault = faults.pop(0)
        if fault is not None:
            raise fault

    asking = Asking(Probe("p", 3600, 10, ask), told, monotonic=lambda: 0.0, wall=lambda: wall)
    assert shown(told, "audit_probe_success_seconds")["p",] == 100
    assert asking.turn() == 30, "a rare probe that failed is tried again soon"
    assert asking.trouble == "away"
    assert asking.turn() == 30
    assert asking.trouble == "KeyError('ours')"
    assert shown(told, "audit_probe_ok")["p",] == 0
    wall = 200.0
    assert asking.turn() == 3600
    assert asking.trouble == ""
    assert shown(told, "audit_probe_ok")["p",] == 1
    assert shown(told, "audit_probe_errors_total")["p",] == 2
    assert shown(told, "audit_probe_success_seconds")["p",] == 200


def test_the_search_cluster_has_one_status_and_is_unreachable_when_nobody_answers() -> None:
    told = telemetry()

    def away() -> HotState:
        raise HotUnavailable("nobody")

    tell_hot(lambda: HotState("yellow", 2, 1, {"n1": 0.25}), told)
    status = shown(told, "opensearch_cluster_status")
    assert status == {("green",): 0, ("yellow",): 1, ("red",): 0, ("unreachable",): 0}
    with pytest.raises(HotUnavailable):
        tell_hot(away, told)
    status = shown(told, "opensearch_cluster_status")
    assert status == {("green",): 0, ("yellow",): 0, ("red",): 0, ("unreachable",): 1}
    assert shown(told, "opensearch_cluster_nodes") == {(): 2}
    assert shown(told, "opensearch_blocked_indexes") == {(): 1}
    assert shown(told, "opensearch_disk_free_ratio") == {("n1",): 0.25}


def test_a_refused_write_is_told_by_its_reason_until_it_passes() -> None:
    told = telemetry()
    answers = ["NOT_ENOUGH_REPLICAS", "_MSG_TIMED_OUT", ""]
    writing = LogWrite(lambda: answers.pop(0), told)
    for _ in range(2):
        with pytest.raises(LogUnavailable):
            writing.tell()
    trouble = shown(told, "audit_log_write_trouble")
    assert trouble == {("NOT_ENOUGH_REPLICAS",): 0, ("_MSG_TIMED_OUT",): 1}
    writing.tell()
    assert set(shown(told, "audit_log_write_trouble").values()) == {0}


def test_the_lock_is_tried_in_vain_on_one_object_a_day(world: World) -> None:
    told = telemetry()
    for _ in range(3):
        try_lock(world.platform, told)
        world.clock.advance(3_600_000)
    (version,) = world.objects.versions("probes/v1/lock/")
    assert version.key == lock_probe_key("2026-03-01")
    assert version.retain_until_ms == START_MS + 2 * 3_600_000 + MS_PER_DAY
    assert shown(told, "audit_object_lock_broken") == {(): 0}
    with pytest.raises(ObjectLocked):
        world.objects.delete(version.key, version.version_id)


class Forgetful:
    """A store whose locks mean nothing: it says yes, or no for another reason than a lock."""

    def __init__(self, objects: Objects, fault: AuditPlatformError | None) -> None:
        self._objects = objects
        self._fault = fault

    def __getattr__(self, name: str) -> object:
        return getattr(self._objects, name)

    def delete(self, *_: str) -> None:
        """Not for a lock."""
        if self._fault is not None:
            raise self._fault


@pytest.mark.parametrize("fault", [None, AccessDenied("you may not delete anything")])
def test_a_lock_that_does_not_hold_is_told(world: World, fault: AuditPlatformError | None) -> None:
    told = telemetry()
    store: Objects = Forgetful(world.objects, fault)  # type: ignore[assignment] # it hands every other call on
    with pytest.raises(StoreUnavailable, match="does not hold"):
        try_lock(world.platform_with(store), told)
    assert shown(told, "audit_object_lock_broken") == {(): 1}


def test_the_accounts_are_told_and_nothing_is_begun_before_the_archive_is(world: World) -> None:
    told = telemetry()
    tell_accounts(world.platform, told)
    assert current_generation(world.platform) is None
    world.send(stored(4).lines)
    world.archive()
    ((o,),) = [r.objects for r in world.ranges()]
    tell_accounts(world.platform, told)
    assert shown(told, "audit_lost_events") == shown(told, "audit_unaccounted_events") == {(): 0}
    for file in (world.folder / "objects").rglob("*"):
        if file.is_file() and file.stat().st_size == o.size:
            file.write_bytes(b"")
    tell_accounts(world.platform, told)
    assert shown(told, "audit_lost_events") == {(): 4}


def test_every_probe_has_a_name_of_its_own_and_the_embedded_profile_has_those_it_can(
    world: World,
) -> None:
    told = telemetry()
    few = [p.name for p in probes_of(world.platform, Probes(close=lambda: None), told)]
    everything = Probes(lambda: None, ALL.hot, ALL.log_write, {"redis": lambda: None})
    more = [p.name for p in probes_of(world.platform, everything, told)]
    assert few == ["lag", "objects", "metadata", "incidents", "reconcile", "object_lock"]
    assert more == [*few, "hot", "log_write", "redis"]
