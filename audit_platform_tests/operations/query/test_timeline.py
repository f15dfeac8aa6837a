"""Timelines of the story's devices: what stands in them, and what stands between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from audit_platform.adapters.faulty import Fault, Faults, faulty
from audit_platform.errors import MetadataUnavailable
from audit_platform.operations.query.model import (
    Mark,
    Standing,
    Tier,
    Timeline,
    TimelineQuery,
)
from audit_platform.operations.query.reader import EDGE_KEYS_OLD, Reader
from audit_platform.operations.query.timeline import MAX_ENTRIES, timeline
from audit_platform.ports import EventClock
from audit_platform.record.spans import MAX_LISTED_GAPS, ChainSpan, Verdict
from audit_platform_tests.operations.query.conftest import Asked
from audit_platform_tests.operations.query.story import (
    CENTURY_MS,
    DAYS,
    TENANT,
    at,
    counting,
    index,
)
from audit_platform_tests.world import open_world

TIERS = [Tier.HOT, Tier.COLD]


def asking(device: str, first: int = at(0, 0), last: int = at(2, 23)) -> TimelineQuery:
    return TimelineQuery(TENANT, device, first, last)


def hashes(found: Timeline) -> set[bytes]:
    shown = set(found.rows["event_hash"].to_pylist())
    return shown | {bytes.fromhex(c.event_hash) for e in found.entries for c in e.copies}


def marks(found: Timeline) -> list[Mark]:
    return [m for e in found.entries for m in e.marks] + list(found.tail)


def told(found: Timeline, verdict: Verdict) -> list[tuple[int, int]]:
    return [(m.first, m.last) for m in marks(found) if m.verdict is verdict]


@pytest.mark.parametrize("tier", TIERS)
def test_a_timeline_without_metadata_goes_on_by_the_edge_keys_it_knew_and_says_so(
    asked: Asked, tier: Tier
) -> None:
    faults = Faults({2: Fault.BEFORE})
    real = asked.reader.platform
    platform = replace(real, metadata=faulty(real.metadata, MetadataUnavailable, faults))
    reader = Reader(platform)
    before = timeline(reader, asking("pump-000"), tier=tier)
    while_away = timeline(reader, asking("pump-000"), tier=tier)
    after = timeline(reader, asking("pump-000"), tier=tier)
    # A record that is sealed to its end needs no metadata at all.
    is_needed = bool(faults.calls)
    assert is_needed or asked.reader.days(TENANT)[0]
    assert len(faults.happened) == is_needed
    assert marks(while_away) == marks(before) == marks(after)
    assert hashes(while_away) == hashes(before)
    assert (EDGE_KEYS_OLD in while_away.completeness.notes) == is_needed
    assert EDGE_KEYS_OLD not in (*before.completeness.notes, *after.completeness.notes)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("device", ["pump-000", "pump-001", "pump-002", "edge-0"])
def test_a_timeline_holds_every_event_of_its_device_once(
    asked: Asked, tier: Tier, device: str
) -> None:
    found = timeline(asked.reader, asking(device), tier=tier)
    wanted = {s.event_hash for s in counting(asked.story.world) if s.event["deviceId"] == device}
    assert hashes(found) == wanted
    assert found.rows.num_rows == len(found.entries) == found.events
    assert found.next is None


@pytest.mark.parametrize("device", ["pump-000", "pump-001", "pump-002", "edge-0"])
def test_both_tiers_say_the_same(asked: Asked, device: str) -> None:
    hot = timeline(asked.reader, asking(device), tier=Tier.HOT)
    cold = timeline(asked.reader, asking(device), tier=Tier.COLD)
    assert hot.rows.equals(cold.rows)
    assert (hot.entries, hot.tail, hot.counts) == (cold.entries, cold.tail, cold.counts)


@pytest.mark.parametrize("tier", TIERS)
def test_a_gap_stands_before_the_event_behind_it(asked: Asked, tier: Tier) -> None:
    found = timeline(asked.reader, asking("pump-000"), tier=tier)
    (gap,) = [m for m in marks(found) if m.verdict is Verdict.GAP]
    assert (gap.first, gap.last, gap.count) == (6, 7, 2)
    sequences = found.rows["sequence_number"].to_pylist()
    (entry,) = [e for e in found.entries if gap in e.marks]
    assert sequences[entry.row] == 8
    assert sequences == [*range(6), *range(8, sequences[-1] + 1)]


@pytest.mark.parametrize("tier", TIERS)
def test_a_refused_event_is_a_declared_gap_that_names_its_entry(asked: Asked, tier: Tier) -> None:
    found = timeline(asked.reader, asking("pump-002"), tier=tier)
    (declared,) = [m for m in marks(found) if m.verdict is Verdict.DECLARED_GAP]
    assert (declared.first, declared.last) == (6, 6)
    assert declared.cause.startswith("quarantined entry ")
    assert "schema_violation" in declared.cause
    assert told(found, Verdict.GAP) == []
    assert told(found, Verdict.BROKEN_LINK) == []


@pytest.mark.parametrize("tier", TIERS)
def test_a_fork_stands_before_the_second_event_of_its_sequence(asked: Asked, tier: Tier) -> None:
    found = timeline(asked.reader, asking("pump-001"), tier=tier)
    (fork,) = [m for m in marks(found) if m.verdict is Verdict.FORK]
    (entry,) = [e for e in found.entries if fork in e.marks]
    sequences = found.rows["sequence_number"].to_pylist()
    assert sequences[entry.row] == sequences[entry.row - 1] == fork.first
    assert found.counts["fork"] == 1


@pytest.mark.parametrize("tier", TIERS)
def test_what_a_restored_edge_sends_again_is_shown_once_and_both_are_kept(
    asked: Asked, tier: Tier
) -> None:
    found = timeline(asked.reader, asking("pump-002"), tier=tier)
    resent = [e for e in found.entries if Verdict.RESENT in e.verdicts]
    assert [found.rows["sequence_number"][e.row].as_py() for e in resent] == [0, 1, 2]
    assert all(len(e.copies) == 1 for e in resent)
    chains = set(found.rows["chain_id"].to_pylist())
    assert {e.copies[0].chain_id for e in resent}.isdisjoint(chains)
    assert told(found, Verdict.FORK) == []
    (reset,) = [m for m in marks(found) if m.verdict is Verdict.CHAIN_RESET]
    assert reset.chain_id == resent[0].copies[0].chain_id
    assert reset.cause == "start"


@pytest.mark.parametrize("tier", TIERS)
def test_a_clock_a_century_off_is_found_by_ingestion_time_and_flagged(
    asked: Asked, tier: Tier
) -> None:
    found = timeline(asked.reader, asking("pump-001", at(1, 2), at(1, 4)), tier=tier)
    off, ahead = found.entries
    assert off.skewed
    assert off.skew_ms == CENTURY_MS - at(1, 2, 51)
    assert ahead.skewed
    assert ahead.skew_ms == 9 * 60_000
    assert found.counts["skewed"] == 2
    by_event = TimelineQuery(TENANT, "pump-001", CENTURY_MS, CENTURY_MS + 1, clock=EventClock.EVENT)
    assert timeline(asked.reader, by_event, tier=tier).events == 1


@pytest.mark.parametrize("tier", TIERS)
def test_the_edge_of_a_window_is_no_gap_and_no_broken_link(asked: Asked, tier: Tier) -> None:
    for device in ("pump-000", "pump-001", "pump-002"):
        found = timeline(asked.reader, asking(device, at(0, 12), at(0, 23)), tier=tier)
        assert found.events == 2
        refused = [Verdict.DECLARED_GAP] if device == "pump-002" else []
        assert [m.verdict for m in marks(found)] == refused  # directly before the first row
        assert not any(e.verdicts for e in found.entries)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("device", ["pump-000", "pump-001", "pump-002"])
def test_timeline_pages_of_any_size_are_one_big_page(
    asked: Asked, tier: Tier, size: int, device: str
) -> None:
    whole = timeline(asked.reader, asking(device), tier=tier)
    query: TimelineQuery | None = replace(asking(device), limit=size)
    rows, entries, tail = [], [], list[Mark]()
    while query is not None:
        page = timeline(asked.reader, query, tier=tier)
        rows += page.rows["event_hash"].to_pylist()
        entries += [replace(e, row=0) for e in page.entries]
        tail += page.tail
        query = replace(query, after=page.next) if page.next else None
    assert rows == whole.rows["event_hash"].to_pylist()
    assert entries == [replace(e, row=0) for e in whole.entries]
    assert tuple(tail) == whole.tail


def test_a_timeline_tells_how_far_each_row_is_proved(asked: Asked) -> None:
    found = timeline(asked.reader, asking("pump-000"), tier=Tier.COLD)
    standing = {e.standing for e in found.entries}
    sealed = len(asked.reader.days(TENANT)[0])
    assert (Standing.SEALED in standing) == (sealed > 0)
    assert Standing.NOT_YET_SEALED in standing


def test_a_device_that_nobody_knows_has_an_empty_timeline(asked: Asked) -> None:
    for tier in TIERS:
        found = timeline(asked.reader, asking("nobody"), tier=tier)
        assert (found.events, found.entries, found.tail) == (0, (), ())


@pytest.mark.parametrize("limit", [0, MAX_ENTRIES + 1])
def test_a_timeline_limit_out_of_bounds_is_refused(asked: Asked, limit: int) -> None:
    with pytest.raises(ValueError, match="wanted 1 to"):
        timeline(asked.reader, replace(asking("pump-000"), limit=limit))


@pytest.mark.parametrize("tier", TIERS)
def test_gaps_that_a_manifest_only_counts_are_all_shown(tmp_path: Path, tier: Tier) -> None:
    with open_world(tmp_path) as world:
        world.clock.ms = at(0, 8)
        edge = world.edge(TENANT)
        lines = [edge.start(at(0, 8))]
        every = [
            edge.event("pump-000", "heartbeat", {"batteryPercent": 1}, at(0, 8) + n)
            for n in range(2 * MAX_LISTED_GAPS + 20)
        ]
        world.ingest(TENANT, [*lines, *every[::2]])
        world.archive()
        world.close(DAYS[0])
        world.seal(TENANT, DAYS[0])
        index(world)
        reader = Reader(world.platform)
        (span,) = spans_of_manifest(reader)
        assert span.unlisted_gaps > 0
        found = timeline(reader, asking("pump-000", at(0, 0), at(1, 0)), tier=tier)
        assert told(found, Verdict.GAP) == [(n, n) for n in range(1, 2 * MAX_LISTED_GAPS + 18, 2)]
        assert {e.standing for e in found.entries} == {Standing.SEALED}


def spans_of_manifest(reader: Reader) -> list[ChainSpan]:
    (day,) = reader.days(TENANT)[0].values()
    chains = reader.manifest(day.facts.key, day.facts.version_id).chains
    return [c for c in chains if c.device_id == "pump-000"]
