"""The metadata database is gone: the bucket gives tenants, edge keys and partitions back."""

from __future__ import annotations

from pathlib import Path

from audit_platform.operations.judgement import judge_day
from audit_platform.operations.rebuild_metadata import rebuild_metadata, tenants_in
from audit_platform.record import layout
from audit_platform.wiring import open_platform
from audit_platform_tests.world import DAY, World, open_world

NEXT = layout.next_day(DAY)
TENANTS = ("north", "north-2", "south")


def filled(world: World) -> None:
    """A sealed day of three tenants, and an open one of one."""
    edges = {tenant: world.edge(tenant) for tenant in TENANTS}
    for tenant, edge in edges.items():
        now = world.clock.now_ms()
        world.ingest(tenant, [edge.start(now), *edge.heartbeats(2, 2, now)])
    world.archive()
    world.close(DAY)
    for tenant in TENANTS:
        world.seal(tenant, DAY)
    world.ingest("south", edges["south"].heartbeats(2, 2, world.clock.now_ms()))
    world.archive()


def test_tenants_and_edge_keys_come_back_from_the_bucket_alone(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        filled(world)
        stood = world.platform.metadata.tenants()
        keys = {t: world.platform.metadata.edge_keys(t) for t in TENANTS}
        assert [t.tenant_id for t in stood] == list(TENANTS)
        world.platform.close()
        for file in tmp_path.glob("metadata.db*"):
            file.unlink()
        platform = open_platform(world.settings, clock=world.clock)
        try:
            assert platform.metadata.tenants() == []
            rebuilt = rebuild_metadata(platform)
            assert [(r.tenant_id, r.was_known, r.days, r.edge_keys) for r in rebuilt] == [
                (tenant, False, 1, 1) for tenant in TENANTS
            ]
            assert [r.landed for r in rebuilt] == [1, 1, 2]
            assert {t: platform.metadata.edge_keys(t) for t in TENANTS} == keys
            assert {t.created_ms for t in platform.metadata.tenants()} == {layout.day_start_ms(DAY)}
            for tenant in TENANTS:
                assert all(a.passed for a in judge_day(platform, tenant, DAY).answers)
        finally:
            platform.close()


def test_what_is_known_is_kept_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        filled(world)
        metadata = world.platform.metadata
        metadata.set_suspended("south", suspended=True)
        stood = metadata.tenants()
        for _ in range(2):
            assert all(r.was_known for r in rebuild_metadata(world.platform))
            assert metadata.tenants() == stood


def test_an_empty_bucket_has_no_tenant(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        assert tenants_in(world.platform.objects) == []
        assert rebuild_metadata(world.platform) == []
