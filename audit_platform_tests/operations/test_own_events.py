"""The platform's own events: one good chain a process, durable or not said at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit_platform.adapters.directory import DirectorySource
from audit_platform.errors import EventRefused, LogUnavailable, MetadataUnavailable
from audit_platform.operations.own_events import OwnEvent, OwnSource
from audit_platform.operations.verify import trusted_keys
from audit_platform.ports import Log, Metadata, NewRecord
from audit_platform.record import fsck
from audit_platform.record.event import canonical_of_stored, check_event, event_hash
from audit_platform.record.layout import EVENTS_TOPIC, PLATFORM_TENANT, ZERO_HASH
from audit_platform.record.schemas import registry
from audit_platform_tests.world import World, open_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path / "home") as made:
        yield made


def refusal(number: int = 0) -> OwnEvent:
    payload = {
        "requestId": f"{number:032x}",
        "route": "GET /v1/whoami",
        "status": 401,
        "slug": "unauthenticated",
        "suppressed": 0,
    }
    return OwnEvent("access_refused", payload)


def stored(log: Log) -> list[bytes]:
    """All stored lines of the tenant `platform`, whatever else is in the log."""
    lines = []
    for partition in range(log.describe(EVENTS_TOPIC).partitions):
        for record in log.read(EVENTS_TOPIC, partition, 0, 1 << 24):
            if record.headers["tenant"] == PLATFORM_TENANT:
                found = record.value[:-1].split(b"\n")
                assert record.headers["count"] == str(len(found))
                lines += found
    return lines


@dataclass
class Faulty:
    """A real log that fails at some appends, before or after the record is in."""

    real: Log
    faults: Iterator[str]
    told: list[str] = field(default_factory=list)

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[int]:
        fault = next(self.faults)
        self.told.append(fault)
        if fault == "before":
            raise LogUnavailable("the disk is full")
        offsets = self.real.append(topic, records)
        if fault == "after":
            raise LogUnavailable("nobody knows")
        return offsets

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def faulty_source(world: World, faults: Sequence[str]) -> tuple[OwnSource, Faulty]:
    log = Faulty(world.platform.log, itertools.chain(faults, itertools.repeat("")))
    seen: Log = log
    return OwnSource(replace(world.platform, log=seen), "query-api"), log


def test_the_first_append_announces_a_signed_epoch_and_links_follow(world: World) -> None:
    source = OwnSource(world.platform, "query-api")
    first = source.append([refusal(1), refusal(2)])
    second = source.append([refusal(3)])
    lines = [canonical_of_stored(line) for line in stored(world.platform.log)]
    events = [check_event(line, PLATFORM_TENANT) for line in lines]
    assert [e.event_type for e in events] == ["chain_start", *["access_refused"] * 3]
    assert [e.sequence_number for e in events] == [0, 1, 2, 3]
    assert lines[1:] == [done.canonical for done in [*first, *second]]
    previous = [orjson.loads(line)["prevHash"] for line in lines]
    assert previous == [ZERO_HASH, *(event_hash(line).hex() for line in lines[:-1])]
    for event in events:
        registry().validate(event.event_type, event.event_version, event.schema_ref, event.payload)
    assert {e.device_id for e in events} == {source.device_id}
    assert source.device_id.startswith("query-api/")


def test_an_outsider_finds_nothing_wrong_with_the_chain(world: World) -> None:
    source = OwnSource(world.platform, "query-api")
    source.append([refusal(n) for n in range(600)])
    other = OwnSource(world.platform, "query-api")
    other.append([refusal(1)])
    world.archive()
    world.close()
    assert world.seal(PLATFORM_TENANT).rows == 603
    report = fsck.check(DirectorySource(world.objects_folder), trusted_keys(world.platform))
    assert report.exit_code == 0, report.findings
    assert report.rows == 603


def test_the_edge_key_is_made_once_and_registered(world: World) -> None:
    for _ in range(3):
        OwnSource(world.platform, "query-api").append([refusal()])
    keys = [k for k in world.platform.keys.public_keys() if k.purpose == "edge"]
    assert len(keys) == 1
    assert world.platform.metadata.edge_keys(PLATFORM_TENANT) == {
        keys[0].key_id: keys[0].public_key
    }


@pytest.mark.parametrize("fault", ["before", "after"])
def test_what_may_be_in_the_log_is_sent_again_and_never_said_otherwise(
    world: World, fault: str
) -> None:
    source, log = faulty_source(world, ["", fault, fault, ""])
    source.append([refusal(1)])
    with pytest.raises(LogUnavailable):
        source.append([refusal(2)])
    with pytest.raises(LogUnavailable):
        source.append([refusal(3)])
    source.append([refusal(4)])
    assert log.told == ["", fault, fault, "", ""]
    lines = stored(world.platform.log)
    events = [check_event(canonical_of_stored(line), PLATFORM_TENANT) for line in lines]
    by_number = {e.sequence_number: e.canonical for e in events}
    # Copies are the same bytes; the third was never completed, the fourth follows the second.
    assert {e.canonical for e in events} == set(by_number.values())
    said = [orjson.loads(by_number[n])["payload"].get("requestId") for n in sorted(by_number)]
    assert said == [None, *(f"{n:032x}" for n in (1, 2, 4))]
    assert len(lines) == (4 if fault == "before" else 6)


def test_a_payload_against_its_schema_is_not_said(world: World) -> None:
    source = OwnSource(world.platform, "query-api")
    with pytest.raises(EventRefused):
        source.append([refusal(1), OwnEvent("access_refused", {"slug": "x"})])
    assert stored(world.platform.log) == []
    source.append([refusal(2)])
    assert len(stored(world.platform.log)) == 2


def test_a_source_opens_as_soon_as_metadata_is_back(world: World) -> None:
    class Away:
        def __getattr__(self, name: str) -> Any:
            raise MetadataUnavailable("the store is away")

    away: Metadata = Away()
    platform = replace(world.platform, metadata=away)
    source = OwnSource(platform, "query-api")
    with pytest.raises(MetadataUnavailable):
        source.append([refusal(1)])
    assert stored(world.platform.log) == []
    source._platform = world.platform
    source.append([refusal(2)])
    assert len(stored(world.platform.log)) == 2
