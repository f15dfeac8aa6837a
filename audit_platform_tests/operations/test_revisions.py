"""Revisions: what comes for a sealed day later is sealed too, and nothing that was sealed goes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_platform.errors import SealRefused
from audit_platform.operations import held, seal
from audit_platform.operations.completeness import completeness
from audit_platform.operations.judgement import judge_day
from audit_platform.operations.late import close_again, further_closings
from audit_platform.operations.manifests import SEALED_LOCK_MS, named_objects, read_history
from audit_platform.operations.reconcile import reconcile
from audit_platform.operations.seal import SealResult
from audit_platform.ports import NewRecord
from audit_platform.record import layout
from audit_platform.record.columns import Mask
from audit_platform.record.event import event_hash
from audit_platform.record.leaves import leaves_of
from audit_platform.record.manifest import Manifest
from audit_platform.record.report import Step
from audit_platform_tests.world import DAY, Edge, World, open_world, sealed_day

NEXT = layout.next_day(DAY)
TENANT = "north"
#: The last moment of the day: what a lagging gateway's clock still says after midnight.
LATE_MS = layout.day_end_ms(DAY) - 1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        yield opened


def revise(world: World, day: str = DAY, tenant_id: str = TENANT) -> SealResult:
    """What the sensor and its run do with a late day."""
    close_again(world.platform, day)
    return world.seal(tenant_id, day)


def send_late(world: World, edge: Edge, each: int = 1, devices: int = 1) -> list[bytes]:
    """New events that a lagging gateway stamps with the sealed day, archived."""
    lines = edge.heartbeats(devices, each, world.clock.now_ms())
    world.ingest(edge.tenant_id, lines, at_ms=LATE_MS)
    world.archive()
    return lines


def standing(world: World, day: str = DAY) -> Manifest:
    return read_history(world.platform, TENANT).counting[day]


def leaves(world: World, manifest: Manifest) -> list[bytes]:
    found = leaves_of(world.platform.objects.open, manifest.parts)
    return [bytes(leaf) for block in found for leaf in block]


def hashes(world: World, day: str = DAY) -> list[bytes]:
    return [leaf[:32] for leaf in leaves(world, standing(world, day))]


def test_late_events_make_a_revision_that_holds_every_old_leaf(world: World) -> None:
    edge = sealed_day(world, devices=3, each=10)
    first = standing(world)
    old = leaves(world, first)
    lines = send_late(world, edge, each=2, devices=2)
    result = revise(world)
    assert (result.revision, result.manifest_number, result.rows) == (2, 2, 35)
    assert (result.duplicates, result.adopted) == (0, False)
    new = leaves(world, standing(world))
    assert set(old) < set(new)
    assert sorted(h[:32] for h in set(new) - set(old)) == sorted(map(event_hash, lines))
    assert standing(world).previous == first.sha256
    assert world.verify(TENANT).findings == []
    assert reconcile(world.platform).ok


def test_the_day_is_complete_before_the_revision_and_after_it_and_says_what_waits(
    world: World,
) -> None:
    edge = sealed_day(world)
    send_late(world, edge, each=3)
    before = completeness(world.platform, TENANT, DAY)
    assert before is not None
    assert (before.proved, before.landed, before.waiting) == (True, 31, 3)
    told = [a.summary for a in judge_day(world.platform, TENANT, DAY).answers]
    assert told[2].endswith("3 rows came after the seal and wait for a revision")
    revise(world)
    after = completeness(world.platform, TENANT, DAY)
    assert after is not None
    assert (after.proved, after.landed, after.sealed, after.waiting) == (True, 34, 34, 0)
    judged = judge_day(world.platform, TENANT, DAY)
    assert [a.passed for a in judged.answers] == [True, True, True]
    assert "revision 2 keeps what the ones before it held" in judged.answers[1].summary


def test_without_late_rows_sealing_again_changes_nothing(world: World) -> None:
    edge = sealed_day(world)
    world.ingest(TENANT, edge.heartbeats(1, 2, world.clock.now_ms()))  # of the next day
    world.archive()
    assert revise(world).adopted
    assert further_closings(world.platform, DAY) == []
    assert len(read_history(world.platform, TENANT).manifests) == 1


def test_another_tenants_late_rows_leave_a_tenants_day_alone(world: World) -> None:
    south = world.edge("south")
    world.ingest("south", [south.start(world.clock.now_ms())])
    sealed_day(world)
    world.seal("south")
    send_late(world, south)
    close_again(world.platform, DAY)
    assert world.seal(TENANT).adopted
    assert world.seal("south").revision == 2


def test_of_a_range_that_straddles_the_closing_the_rest_is_late(world: World) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms())])
    lines = edge.heartbeats(1, 3, world.clock.now_ms())
    world.ingest(TENANT, lines)
    world.close()
    late = edge.heartbeats(1, 2, world.clock.now_ms())
    world.ingest(TENANT, late, at_ms=LATE_MS)
    world.archive()  # one range from before the closing's end to behind it
    assert world.seal(TENANT).rows == 4
    found = completeness(world.platform, TENANT, DAY)
    assert found is not None
    assert (found.waiting, found.proved) == (2, True)
    result = revise(world)
    assert (result.rows, result.duplicates) == (6, 0)
    assert world.verify(TENANT).findings == []


def test_what_came_before_the_first_seal_is_in_it_when_the_day_was_closed_again(
    world: World,
) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms())])
    world.archive()
    world.close()
    send_late(world, edge)
    close_again(world.platform, DAY)
    result = world.seal(TENANT)
    assert (result.revision, result.rows) == (1, 2)
    found = completeness(world.platform, TENANT, DAY)
    assert found is not None
    assert (found.proved, found.landed, found.waiting) == (True, 2, 0)
    assert revise(world).adopted


def test_a_late_copy_of_a_sealed_event_is_counted_and_the_old_leaf_stays(world: World) -> None:
    edge = world.edge(TENANT)
    lines = [edge.start(world.clock.now_ms()), *edge.heartbeats(1, 3, world.clock.now_ms())]
    world.ingest(TENANT, lines)
    world.archive()
    world.close()
    world.seal(TENANT)
    old = leaves(world, standing(world))
    world.ingest(TENANT, lines[1:3], at_ms=LATE_MS)
    world.archive()
    result = revise(world)
    assert (result.revision, result.rows, result.duplicates) == (2, 4, 2)
    assert leaves(world, standing(world)) == old


def test_a_late_copy_of_what_a_later_day_holds_is_a_duplicate(world: World) -> None:
    edge = sealed_day(world)
    lines = edge.heartbeats(1, 2, world.clock.now_ms())
    world.ingest(TENANT, lines)
    world.archive()
    world.close(NEXT)
    world.seal(TENANT, NEXT)
    world.ingest(TENANT, lines, at_ms=LATE_MS)
    more = send_late(world, edge)
    result = revise(world)
    assert (result.manifest_number, result.rows, result.duplicates) == (3, 32, 2)
    both = hashes(world) + hashes(world, NEXT)
    assert len(both) == len(set(both))
    assert set(map(event_hash, [*lines, *more])) <= set(both)
    for day in (DAY, NEXT):
        assert world.verify(TENANT, day).findings == []
        found = completeness(world.platform, TENANT, day)
        assert found is not None
        assert found.proved


def test_late_refused_events_are_listed_and_the_chain_goes_through_them(world: World) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms()), *edge.heartbeats(1, 2, 0)])
    early = edge.event("pump-000", "heartbeat", {"no": 0}, world.clock.now_ms())
    world.refuse(TENANT, [early])
    world.archive()
    world.close()
    world.seal(TENANT)
    refused = edge.event("pump-000", "heartbeat", {"no": 1}, world.clock.now_ms())
    now, world.clock.ms = world.clock.ms, LATE_MS  # the gateway that lags refuses it
    world.refuse(TENANT, [refused, b"{"])
    world.clock.ms = now
    send_late(world, edge)
    result = revise(world)
    assert (result.revision, result.rows, result.quarantined_links) == (2, 4, 2)
    assert {q.link.event_hash for q in standing(world).links} == {
        event_hash(early).hex(),
        event_hash(refused).hex(),
    }
    assert sum(o.rows for o in standing(world).quarantine) == 3
    assert world.verify(TENANT).findings == []


def test_late_bytes_that_do_not_decode_are_named_beside_the_old_ones(world: World) -> None:
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms())])
    headers = {"v": "1", "tenant": TENANT, "count": "1"}
    garbage = NewRecord(0, b"no event\n", headers)
    world.platform.log.append(layout.EVENTS_TOPIC, [garbage])
    world.close()
    world.platform.log.append(layout.EVENTS_TOPIC, [garbage])
    send_late(world, edge)  # all in one range of each partition
    world.seal(TENANT)
    assert sum(o.rows for o in standing(world).undecodable) == 1
    revise(world)
    # Raw rows stand under the day of the log's clock: here the next one.
    assert sum(o.rows for o in standing(world).undecodable) >= 1
    assert world.verify(TENANT).findings == []


def test_after_landing_has_expired_a_revision_is_built_from_the_parts_it_replaces(
    world: World,
) -> None:
    edge = sealed_day(world)
    old = hashes(world)
    world.clock.advance(40 * layout.MS_PER_DAY)
    for version in list(world.platform.objects.versions("landing/v1/tenant=north/")):
        world.platform.objects.delete(version.key, version.version_id)
    lines = send_late(world, edge, each=2)
    result = revise(world)
    assert (result.revision, result.rows) == (2, 33)
    assert set(hashes(world)) == {*old, *map(event_hash, lines)}
    judged = judge_day(world.platform, TENANT, DAY)
    assert [a.passed for a in judged.answers] == [True, True, True]
    assert "landing objects have expired" in judged.answers[2].summary


def test_landing_that_is_gone_before_its_time_is_told_and_no_revision_is_made(
    world: World,
) -> None:
    edge = sealed_day(world)
    before = set(world.objects_folder.glob("landing/v1/tenant=north/*/*.parquet"))
    send_late(world, edge)
    (late,) = set(world.objects_folder.glob("landing/v1/tenant=north/*/*.parquet")) - before
    close_again(world.platform, DAY)
    late.unlink()
    with pytest.raises(SealRefused, match="named by a range record and is not in the store"):
        world.seal(TENANT)
    assert standing(world).revision == 1


def test_a_revision_that_would_lose_a_leaf_is_refused_and_nothing_is_claimed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = sealed_day(world)
    send_late(world, edge)

    def drops_a_row(_self: held.HeldRows, rows: pa.RecordBatch) -> Mask:
        dropped = np.zeros(len(rows), dtype=np.bool_)
        dropped[7] = True
        return dropped

    monkeypatch.setattr(held.HeldRows, "mask", drops_a_row)
    with pytest.raises(SealRefused, match="1 of 31 events of revision 1 would be missing"):
        revise(world)
    assert standing(world).revision == 1


def test_a_row_that_a_revision_lost_all_the_same_is_missing_and_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = sealed_day(world)
    send_late(world, edge)

    def drops_a_row(_self: held.HeldRows, rows: pa.RecordBatch) -> Mask:
        dropped = np.zeros(len(rows), dtype=np.bool_)
        dropped[7] = True
        return dropped

    with monkeypatch.context() as broken:
        broken.setattr(held.HeldRows, "mask", drops_a_row)
        broken.setattr(seal, "_keep", lambda *_: None)
        assert revise(world).revision == 2
    found = completeness(world.platform, TENANT, DAY)
    assert found is not None
    assert (found.proved, found.missing_count) == (False, 1)
    assert {e.step for e in world.verify(TENANT).findings} >= {Step.REVISIONS}


def test_a_changed_part_is_never_the_base_of_a_revision(world: World) -> None:
    edge = sealed_day(world)
    send_late(world, edge)
    part = world.objects_folder / standing(world).parts[0].object.key
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(SealRefused, match="is not what its manifest says"):
        revise(world)


def test_a_revisions_objects_are_locked_and_those_it_replaces_stay(world: World) -> None:
    edge = sealed_day(world)
    first = standing(world)
    send_late(world, edge)
    revise(world)
    until = layout.day_end_ms(DAY) + SEALED_LOCK_MS
    both = {(o.key, o.version_id) for m in (first, standing(world)) for o in named_objects(m)}
    assert len(both) == 2
    for key, version_id in both:
        assert world.platform.objects.head(key, version_id).retain_until_ms == until


def test_of_two_that_revise_at_once_the_slower_adopts_the_winners_manifest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = sealed_day(world)
    send_late(world, edge)
    close_again(world.platform, DAY)
    build = seal._build
    raced: list[bool] = []

    def raced_build(*args: object) -> object:
        built = build(*args)  # type: ignore[arg-type] # passed on as they came
        if not raced:
            raced.append(True)
            world.clock.advance(5)
            world.seal(TENANT)  # the other sealer is faster
        return built

    monkeypatch.setattr(seal, "_build", raced_build)
    result = world.seal(TENANT)
    assert raced
    assert (result.adopted, result.revision) == (True, 2)
    assert [m.revision for m in read_history(world.platform, TENANT).manifests] == [1, 2]


def test_a_day_before_a_tenants_first_that_was_closed_is_sealed_too(world: World) -> None:
    world.edge("south")
    world.ingest("south", [world.edge("south", 1).start(world.clock.now_ms())])
    world.archive()
    world.close()
    edge = world.edge(TENANT)
    world.ingest(TENANT, [edge.start(world.clock.now_ms())])
    world.archive()
    world.close(NEXT)
    world.seal(TENANT, NEXT)
    send_late(world, edge)
    result = revise(world)
    assert (result.revision, result.manifest_number, result.rows) == (1, 2, 1)
    assert world.verify(TENANT).findings == []


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(["late", "copy", "next", "revise", "refuse"]), max_size=8))
def test_whatever_comes_late_is_sealed_once_and_no_leaf_ever_goes(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, open_world(Path(folder)) as world:
        edge = world.edge(TENANT)
        sent = [edge.start(world.clock.now_ms()), *edge.heartbeats(2, 2, world.clock.now_ms())]
        world.ingest(TENANT, sent)
        world.archive()
        world.close()
        world.seal(TENANT)
        for step in steps:
            if step == "late":
                sent += send_late(world, edge, devices=2)
            elif step == "copy":
                world.ingest(TENANT, sent[-3:], at_ms=LATE_MS)
            elif step == "next":
                lines = edge.heartbeats(1, 1, world.clock.now_ms())
                world.ingest(TENANT, lines)
                sent += lines
            elif step == "refuse":
                now, world.clock.ms = world.clock.ms, LATE_MS
                world.refuse(TENANT, [edge.event("pump-001", "heartbeat", {"no": 1}, now)])
                world.clock.ms = now
            else:
                world.archive()
                revise(world)
        world.archive()
        revise(world)
        world.close(NEXT)
        world.seal(TENANT, NEXT)
        sealed = hashes(world) + hashes(world, NEXT)
        assert sorted(sealed) == sorted(map(event_hash, sent))
        for day in (DAY, NEXT):
            assert world.verify(TENANT, day).findings == []
            found = completeness(world.platform, TENANT, day)
            assert found is not None
            assert (found.proved, found.waiting) == (True, 0)
