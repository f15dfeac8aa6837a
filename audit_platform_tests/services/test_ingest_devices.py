"""Suspended tenants and unknown devices: what is refused, with which words, and that it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from audit_platform.operations.manifests import read_history
from audit_platform.ports import Role, UnknownDevices
from audit_platform.record.event import link_of
from audit_platform.services.callers import FRESH_SECONDS
from audit_platform.services.ingest_credentials import SUSPENDED_RETRY_SECONDS
from audit_platform.services.ingest_devices import Roster, edge_types
from audit_platform.services.ingest_gateway import METRICS
from audit_platform.services.ingest_keeping import Keeper
from audit_platform.telemetry import Telemetry
from audit_platform_tests import world as whole
from audit_platform_tests.clocks import START_MS
from audit_platform_tests.services.ingest_world import TENANT, World, body_of, event, open_world

NOW: Final = [1000.0]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path / "home", monotonic=lambda: NOW[0]) as opened:
        yield opened


def strict(world: World, *devices: str) -> None:
    """The policy that refuses, from now on."""
    metadata = world.platform.metadata
    metadata.enrol_devices(TENANT, devices, START_MS)
    metadata.set_unknown_devices(TENANT, UnknownDevices.DEAD_LETTER)
    NOW[0] += FRESH_SECONDS


# --------------------------------------------------------------------------------------- tenants


def test_a_suspended_tenants_bodies_are_refused_with_the_word_to_keep_them(world: World) -> None:
    body = body_of(event(0))
    assert world.post(body).status == 202
    world.platform.metadata.set_suspended(TENANT, suspended=True)
    NOW[0] += FRESH_SECONDS
    answer = world.post(body_of(event(1)))
    assert (answer.status, answer.problem()) == (403, "tenant_suspended")
    assert answer.headers["retry-after"] == str(SUSPENDED_RETRY_SECONDS)
    assert "keep everything" in answer.json["remedy"]
    assert len(world.stored()) == 1
    assert world.dead_letters() == []
    world.platform.metadata.set_suspended(TENANT, suspended=False)
    NOW[0] += FRESH_SECONDS
    assert world.post(body_of(event(1))).status == 202
    assert len(world.stored()) == 2


def test_a_suspension_counts_within_a_minute_and_not_for_other_tenants(world: World) -> None:
    metadata = world.platform.metadata
    metadata.add_tenant("other", START_MS)
    _, other = metadata.add_api_key("other", Role.EDGE, START_MS)
    bearer = f"Bearer {other}"
    assert world.post(body_of(event(0))).status == 202
    metadata.set_suspended(TENANT, suspended=True)
    NOW[0] += FRESH_SECONDS - 1
    assert world.post(body_of(event(1))).status == 202
    NOW[0] += 1
    assert world.post(body_of(event(2))).problem() == "tenant_suspended"
    assert world.post(body_of(event(0, tenant="other")), authorization=bearer).status == 202


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.EDGE])
def test_over_http_only_an_edges_key_may_send(world: World, role: Role) -> None:
    _, secret = world.platform.metadata.add_api_key(TENANT, role, START_MS)
    answer = world.post(body_of(event(0)), authorization=f"Bearer {secret}")
    assert (answer.status, answer.problem()) == (403, "forbidden")
    assert world.stored() == []


def test_a_suspended_tenants_days_are_sealed_and_verified_as_before(tmp_path: Path) -> None:
    with whole.open_world(tmp_path) as world:
        edge = world.edge("north")
        start = edge.start(world.clock.now_ms())
        world.ingest("north", [start, *edge.heartbeats(3, 4, world.clock.now_ms())])
        world.platform.metadata.set_suspended("north", suspended=True)
        world.archive()
        world.close()
        assert world.seal("north").rows == 13
        assert world.verify("north").exit_code == 0


# --------------------------------------------------------------------------------------- devices


def test_unknown_devices_are_accepted_by_default(world: World) -> None:
    world.platform.metadata.enrol_devices(TENANT, ["pump-2"], START_MS)
    world.platform.metadata.retire_device(TENANT, "pump-2", START_MS)
    answer = world.post(body_of(event(0), event(0, "pump-2")))
    assert (answer.status, answer.json["refused"]) == (202, [])
    assert len(world.stored()) == 2


def test_events_of_unknown_and_retired_devices_are_dead_letters_and_stay_links(
    world: World,
) -> None:
    strict(world, "pump-1", "pump-2", "pump-3")
    world.platform.metadata.retire_device(TENANT, "pump-2", START_MS)
    lines = [
        event(0, "pump-1"),
        event(0, "pump-2"),
        event(0, "stranger"),
        event(1, "pump-1"),
        event(0, "pump-3"),
        event(1, "stranger"),
    ]
    answer = world.post(body_of(*lines))
    assert answer.status == 202
    refused = answer.json["refused"]
    assert [(r["line"], r["slug"], r["field"]) for r in refused] == [
        (2, "device_retired", "deviceId"),
        (3, "unknown_device", "deviceId"),
        (6, "unknown_device", "deviceId"),
    ]
    assert all("device enrol" in r["remedy"] for r in refused)
    assert answer.json["accepted"] == len(world.stored()) == 3
    kept = world.dead_letters()
    assert [entry.data for entry in kept] == [lines[1], lines[2], lines[5]]
    assert [entry.link for entry in kept] == [link_of(e.data, TENANT) for e in kept]
    assert None not in [entry.link for entry in kept]
    assert world.metric("ingestion_validation_failures_total", '{slug="unknown_device"}') == 2.0


def test_the_types_in_which_an_edge_speaks_for_itself_are_known() -> None:
    assert edge_types() >= {"chain_start", "loss"}
    assert not edge_types() & {"heartbeat", "pump_started", "vital_reading", "record_read"}


def test_what_an_edge_says_of_its_chains_always_passes(world: World) -> None:
    strict(world, "pump-1")
    edge = whole.Edge(TENANT)
    answer = world.post(body_of(edge.start(START_MS), event(0, edge.device_id)))
    assert [(r["line"], r["slug"]) for r in answer.json["refused"]] == [(2, "unknown_device")]
    assert len(world.stored()) == 1


def test_a_change_of_the_devices_counts_within_a_minute(world: World) -> None:
    strict(world, "pump-1")
    assert len(world.post(body_of(event(0, "pump-2"))).json["refused"]) == 1
    world.platform.metadata.enrol_devices(TENANT, ["pump-2"], START_MS)
    world.platform.metadata.retire_device(TENANT, "pump-1", START_MS)
    NOW[0] += FRESH_SECONDS
    answer = world.post(body_of(event(1, "pump-2"), event(1, "pump-1")))
    assert [r["slug"] for r in answer.json["refused"]] == ["device_retired"]
    world.platform.metadata.set_unknown_devices(TENANT, UnknownDevices.ACCEPT)
    NOW[0] += FRESH_SECONDS
    assert world.post(body_of(event(2, "pump-1"))).json["refused"] == []


def test_a_fault_of_the_line_is_named_before_its_device(world: World) -> None:
    strict(world)
    broken = event(0, "stranger").replace(b'"uptimeSeconds":0', b'"uptimeSeconds":1')
    answer = world.post(body_of(broken))
    assert [r["slug"] for r in answer.json["refused"]] == ["bad_checksum"]


def test_a_refused_device_leaves_a_sealed_day_that_names_its_events_and_is_clean(
    tmp_path: Path,
) -> None:
    with whole.open_world(tmp_path) as world:
        edge = world.edge("north")
        world.platform.metadata.enrol_devices("north", ["pump-000"], START_MS)
        devices = world.platform.metadata.devices("north")
        keeper = Keeper(world.platform, "gateway-1", Telemetry(METRICS))
        now = world.clock.now_ms()
        start = edge.start(now)
        beats = [
            edge.event(f"pump-00{n % 2}", "heartbeat", {"uptimeSeconds": n}, now + n)
            for n in range(12)
        ]
        body = body_of(start, *beats)
        keeper.keep(body, "north", compressed=False, roster=Roster.of(1, devices))
        world.archive()
        world.close()
        sealed = world.seal("north")
        assert sealed.rows == 7
        assert world.verify("north").exit_code == 0
        manifest = read_history(world.platform, "north").counting[whole.DAY]
        assert [link.slug for link in manifest.links] == ["unknown_device"] * 6
