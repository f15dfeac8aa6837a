"""Sealing: what becomes a row, in which order, under which manifest, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from audit_platform.errors import SealRefused
from audit_platform.operations import gather, seal
from audit_platform.operations.closing import due_days
from audit_platform.operations.completeness import completeness
from audit_platform.operations.manifests import SEALED_LOCK_MS, named_objects, read_history
from audit_platform.record import layout, sealed
from audit_platform.record.columns import hashes_of
from audit_platform.record.event import event_hash
from audit_platform_tests import attackers
from audit_platform_tests.world import DAY, GRACE_MS, World, open_world, sealed_day

NEXT = layout.next_day(DAY)
TENANT = "north"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        yield opened


def sealed_hashes(world: World, day: str = DAY) -> list[bytes]:
    manifest = read_history(world.platform, TENANT).counting[day]
    out: list[bytes] = []
    for part in manifest.parts:
        with world.platform.objects.open(part.object.key, part.object.version_id) as file:
            out += [bytes(h) for h in hashes_of(pq.read_table(file)["event_hash"].chunk(0))]
    return out


def test_every_event_is_sealed_once_and_the_day_verifies(world: World) -> None:
    edge = world.edge(TENANT)
    lines = [edge.start(world.clock.now_ms()), *edge.heartbeats(4, 25, world.clock.now_ms())]
    world.ingest(TENANT, lines)
    world.archive()
    world.close()
    result = world.seal(TENANT)
    assert result.rows == 101
    assert result.duplicates == 0
    assert sorted(sealed_hashes(world)) == sorted(event_hash(line) for line in lines)
    report = world.verify(TENANT)
    assert report.findings == []
    assert report.rows == 101


def test_rows_are_sorted_and_links_that_follow_are_left_out(world: World) -> None:
    sealed_day(world, devices=3, each=10)
    part = read_history(world.platform, TENANT).counting[DAY].parts[0]
    with world.platform.objects.open(part.object.key, part.object.version_id) as file:
        table = pq.read_table(file)
    order = table.select(list(sealed.SORT_KEYS)).to_pylist()
    assert order == sorted(order, key=lambda r: tuple(r[k] for k in sealed.SORT_KEYS))
    assert table["prev_hash"].null_count == 3 * 9  # the first of each device and chain_start stay


def test_copies_of_an_event_count_once_and_the_first_stays(world: World) -> None:
    edge = world.edge(TENANT)
    lines = [edge.start(world.clock.now_ms()), *edge.heartbeats(2, 5, world.clock.now_ms())]
    world.ingest(TENANT, lines)
    world.clock.advance(1000)
    world.ingest(TENANT, lines[3:8])
    world.archive()
    world.close()
    result = world.seal(TENANT)
    assert (result.rows, result.duplicates) == (11, 5)
    part = read_history(world.platform, TENANT).counting[DAY].parts[0]
    with world.platform.objects.open(part.object.key, part.object.version_id) as file:
        times = pq.read_table(file)["ingestion_time"].unique().to_pylist()
    assert len(times) == 1


def test_copies_across_midnight_are_sealed_once(world: World) -> None:
    edge = world.edge(TENANT)
    lines = [edge.start(world.clock.now_ms()), *edge.heartbeats(2, 5, world.clock.now_ms())]
    world.ingest(TENANT, lines)
    world.archive()
    world.close()
    world.seal(TENANT)
    new = edge.heartbeats(2, 2, world.clock.now_ms())
    world.ingest(TENANT, [*lines[4:], *new])
    world.archive()
    world.close(NEXT)
    result = world.seal(TENANT, NEXT)
    assert (result.rows, result.duplicates) == (4, len(lines[4:]))
    both = sealed_hashes(world) + sealed_hashes(world, NEXT)
    assert sorted(both) == sorted(event_hash(line) for line in [*lines, *new])
    for day in (DAY, NEXT):
        assert world.verify(TENANT, day).findings == []
        found = completeness(world.platform, TENANT, day)
        assert found is not None
        assert found.proved


def test_an_empty_day_gets_a_signed_manifest(world: World) -> None:
    world.edge(TENANT)
    world.close()
    result = world.seal(TENANT)
    assert (result.rows, result.parts, result.manifest_number) == (0, 0, 1)
    assert result.root == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert world.verify(TENANT).findings == []


def test_a_day_is_sealed_in_its_turn(world: World) -> None:
    sealed_day(world)
    after = layout.next_day(NEXT)
    world.close(NEXT)
    world.close(after)
    with pytest.raises(SealRefused, match=f"{NEXT} has no manifest yet"):
        world.seal(TENANT, after)
    assert world.seal(TENANT, NEXT).manifest_number == 2
    assert world.seal(TENANT, after).manifest_number == 3


def test_a_day_that_is_open_or_not_archived_is_refused(world: World) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms())])
    with pytest.raises(SealRefused, match="not closed"):
        world.seal(TENANT)
    world.close()
    with pytest.raises(SealRefused, match="not covered"):
        world.seal(TENANT)
    world.archive()
    assert world.seal(TENANT).rows == 1


def test_sealing_again_adopts_what_stands(world: World) -> None:
    sealed_day(world)
    again = world.seal(TENANT)
    assert again.adopted
    assert again.manifest_number == 1
    assert len(read_history(world.platform, TENANT).manifests) == 1


def test_a_refused_event_stays_a_link_and_the_chain_goes_through_it(world: World) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms()), *edge.heartbeats(1, 3, 0)])
    refused = edge.event("pump-000", "heartbeat", {"no": 1}, world.clock.now_ms())
    world.refuse(TENANT, [refused, b"{"])
    world.refuse(TENANT, [refused])  # sent again, refused again
    world.ingest(TENANT, edge.heartbeats(1, 3, 0))
    world.archive()
    world.close()
    result = world.seal(TENANT)
    assert (result.rows, result.quarantined_links) == (7, 1)
    manifest = read_history(world.platform, TENANT).counting[DAY]
    assert manifest.links[0].link.event_hash == event_hash(refused).hex()
    assert [o.rows for o in manifest.quarantine] == [3]
    report = world.verify(TENANT)
    assert report.findings == []
    assert report.exit_code == 0


def test_refused_by_one_gateway_and_accepted_by_another_counts_as_accepted(world: World) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms()), *edge.heartbeats(1, 1, 0)])
    both = edge.event("pump-000", "heartbeat", {"batteryPercent": 1}, world.clock.now_ms())
    world.refuse(TENANT, [both])
    world.ingest(TENANT, [both])
    world.archive()
    world.close()
    result = world.seal(TENANT)
    assert (result.rows, result.quarantined_links) == (3, 0)


def test_a_gap_and_a_fork_are_told_in_the_manifest_and_found_by_verifying(world: World) -> None:
    edge = world.edge(TENANT)
    start = edge.start(world.clock.now_ms())
    lines = edge.heartbeats(1, 6, 0)
    edge.numbers["pump-000"] = 5
    edge.heads["pump-000"] = event_hash(lines[4]).hex()
    fork = edge.event("pump-000", "heartbeat", {"batteryPercent": 99}, 1)
    world.ingest(TENANT, [start, *lines[:2], *lines[3:], fork])
    world.archive()
    world.close()
    result = world.seal(TENANT)
    assert result.verdicts["gap"] == 1
    assert result.verdicts["fork"] == 1
    verdicts = {e.verdict for e in world.verify(TENANT).findings}
    assert verdicts >= {"gap", "fork"}


def test_landing_that_was_changed_is_never_sealed(world: World) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms()), *edge.heartbeats(1, 3, 0)])
    world.archive()
    world.close()
    landing = next(world.objects_folder.glob("landing/v1/tenant=north/*/*.parquet"))
    attackers.flip(landing, 200)
    with pytest.raises(SealRefused, match="not what its range record says"):
        world.seal(TENANT)
    landing.unlink()
    with pytest.raises((SealRefused, Exception), match=r"landing|not in"):
        world.seal(TENANT)


def test_signing_locks_exactly_the_manifests_objects_for_two_years(world: World) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms()), *edge.heartbeats(1, 3, 0)])
    world.refuse(TENANT, [b"x"])
    world.archive()
    world.close()
    world.seal(TENANT)
    manifest = read_history(world.platform, TENANT).counting[DAY]
    named = {(o.key, o.version_id) for o in named_objects(manifest)}
    assert len(named) == 2
    until = layout.day_end_ms(DAY) + SEALED_LOCK_MS
    for version in world.platform.objects.versions("landing/v1/tenant=north/"):
        assert version.retain_until_ms < until
    for key, version_id in named:
        assert world.platform.objects.head(key, version_id).retain_until_ms == until


def test_lines_that_do_not_decode_are_named_and_kept(world: World) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms())])
    record = seal_garbage(world)
    world.archive()
    world.close()
    assert world.seal(TENANT).rows == 1
    manifest = read_history(world.platform, TENANT).counting[DAY]
    assert [o.rows for o in manifest.undecodable] == [1]
    assert record >= 0
    assert world.verify(TENANT).findings == []


def seal_garbage(world: World) -> int:
    from audit_platform.ports import NewRecord  # noqa: PLC0415 - used here alone

    headers = {"v": "1", "tenant": TENANT, "count": "1"}
    return world.platform.log.append(layout.EVENTS_TOPIC, [NewRecord(0, b"no event\n", headers)])[0]


def test_buckets_and_parts_are_cut_by_device_and_the_day_is_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "BUCKET_ROWS", 7)
    monkeypatch.setattr(sealed, "MAX_ROWS_PER_PART", 25)
    sealed_day(world, devices=9, each=8)
    manifest = read_history(world.platform, TENANT).counting[DAY]
    assert [p.object.rows for p in manifest.parts] == [25, 24, 24]
    firsts = [p.first_device for p in manifest.parts]
    lasts = [p.last_device for p in manifest.parts]
    assert all(a < b for a, b in zip(lasts, firsts[1:], strict=False))
    assert world.verify(TENANT).findings == []


def test_of_two_sealers_at_once_the_slower_adopts_the_winners_manifest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed_day(world)
    world.close(NEXT)
    after = layout.next_day(NEXT)
    world.close(after)
    build = seal._build
    raced: list[bool] = []

    def raced_build(*args: object) -> object:
        built = build(*args)  # type: ignore[arg-type] # passed on as they came
        if not raced:
            raced.append(True)
            world.clock.advance(5)
            world.seal(TENANT, NEXT)  # the other sealer is faster
        return built

    monkeypatch.setattr(seal, "_build", raced_build)
    result = world.seal(TENANT, NEXT)
    assert raced
    assert result.adopted
    assert [m.day for m in read_history(world.platform, TENANT).manifests] == [DAY, NEXT]


def test_a_body_taken_before_midnight_and_appended_after_it_has_its_day_closed(
    world: World,
) -> None:
    edge = world.edge(TENANT)
    before_midnight = layout.day_start_ms(DAY) - 5
    world.ingest(TENANT, [edge.start(before_midnight)], at_ms=before_midnight)
    world.refuse(TENANT, [b"x"])
    world.clock.ms = layout.day_end_ms(DAY) + GRACE_MS
    assert due_days(world.platform, GRACE_MS, "2026-01-01") == [layout.next_day(DAY, -1), DAY]
