"""What an edge answered for is there after any power cut; what it makes holds before a judge."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import orjson
import pytest

from audit_platform.adapters.embedded.files import FsyncSite
from audit_platform.errors import AuditPlatformError
from audit_platform.record.event import complete_event
from audit_platform.record.layout import ZERO_HASH
from audit_platform.record.report import Report
from audit_platform.services.edge_placing import Outcome
from audit_platform_tests.powercut import PowerCut, PowerCutFiles
from audit_platform_tests.services.edge_world import TENANT, EdgeWorld, line
from audit_platform_tests.world import World, open_world

BODIES = 4


def feed(world: EdgeWorld, first: int, taken: list[bytes]) -> None:
    """Send a few bodies of two devices; note what was answered for."""
    for n in range(first, first + BODIES):
        lines = (line(n, "pump-1"), line(n, "pump-2"))
        outcomes = world.outcomes(*lines)
        assert set(outcomes) <= {Outcome.ACCEPTED, Outcome.ALREADY_TAKEN}
        taken += lines


def check(world: EdgeWorld, taken: list[bytes]) -> None:
    """All that was answered for is there, and every event names one that is there."""
    events = world.events()
    held = {(e["deviceId"], e["sequenceNumber"], orjson.dumps(e["payload"])) for e in events}
    for sent in map(orjson.loads, taken):
        assert (sent["deviceId"], sent["sequenceNumber"], orjson.dumps(sent["payload"])) in held
    places = [(e["deviceId"], e["chainId"], e["sequenceNumber"]) for e in events]
    assert len(places) == len(set(places))
    hashes = {hashlib.sha256(made).hexdigest() for made in world.lines()} | {ZERO_HASH}
    assert all(e["prevHash"] in hashes for e in events)


def life(files: PowerCutFiles, folder: Path, first: int, taken: list[bytes]) -> EdgeWorld | None:
    """One life of the edge; None when it ended with its power."""
    try:
        world = EdgeWorld(folder, files=files)
        feed(world, first, taken)
    except PowerCut:
        return None
    return world


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_whenever_the_power_goes_what_was_answered_for_is_there(
    tmp_path: Path, seed: int | None
) -> None:
    counting = PowerCutFiles()
    assert life(counting, tmp_path, 0, []) is not None
    assert counting.operations > BODIES
    for stop_at in range(1, counting.operations + 1):
        files = PowerCutFiles()
        files.stop_at = stop_at
        taken: list[bytes] = []
        life(files, tmp_path, 0, taken)
        files.cut(seed)
        files.stop_at = None
        world = life(files, tmp_path, len(taken) // 2, taken)
        assert world is not None
        check(world, taken)


def test_without_the_spools_fsync_events_would_be_lost(tmp_path: Path) -> None:
    files = PowerCutFiles(omit={FsyncSite.SPOOL_FRAMES})
    taken: list[bytes] = []
    assert life(files, tmp_path, 0, taken) is not None
    files.cut()
    world = EdgeWorld(tmp_path, files=files)
    with pytest.raises(AssertionError):
        check(world, taken)


def test_when_any_call_of_the_disk_fails_nothing_answered_is_lost_and_the_edge_goes_on(
    tmp_path: Path,
) -> None:
    counting = PowerCutFiles()
    assert life(counting, tmp_path, 0, []) is not None
    for fail_at in range(1, counting.operations + 1):
        files = PowerCutFiles()
        taken: list[bytes] = []
        files.fail_at = fail_at
        try:
            world = EdgeWorld(tmp_path, files=files)
        except AuditPlatformError:
            world = EdgeWorld(tmp_path, files=files)
        for n in range(BODIES):
            lines = (line(n, "pump-1"), line(n, "pump-2"))
            try:
                world.take(*lines)
            except AuditPlatformError:
                assert world.outcomes(*lines) == [Outcome.ACCEPTED] * 2
            taken += lines
        world.stop()
        files.cut()
        check(EdgeWorld(tmp_path, files=files), taken)


# ------------------------------------------------------------------------------- before a judge


def judged(world: World, lines: list[bytes], edge: EdgeWorld) -> Report:
    """Bring lines into the platform, close the day, seal and verify it."""
    for key in edge.keys.public_keys():
        world.platform.metadata.add_edge_key(TENANT, key.public_key, 0)
    good = [made for made in lines if b'"edgeConflict"' not in made]
    refused = [made for made in good if b'"uptimeSeconds":-' in made]
    world.ingest(TENANT, [made for made in good if made not in refused])
    world.refuse(TENANT, refused)
    world.archive()
    world.close()
    world.seal(TENANT)
    return world.verify(TENANT)


def test_chains_of_an_edge_that_was_restored_from_an_old_copy_are_judged_without_a_fault(
    tmp_path: Path,
) -> None:
    devices = [f"pump-{n}" for n in range(3)]
    edge = EdgeWorld(tmp_path / "edge")
    sent: dict[bytes, None] = {}
    edge.take(*(line(n, device) for n in range(10) for device in devices))
    edge.take(line(10, "pump-0", payload={"uptimeSeconds": -1}), line(11, "pump-0"))
    sent.update(dict.fromkeys(edge.lines()))
    edge.stop()
    shutil.copytree(tmp_path / "edge", tmp_path / "copy")
    edge.start()
    # After the copy was made: more of the same devices, one new, whose counter begins anew.
    edge.take(*(line(n, device) for n in range(12, 20) for device in devices[:1]))
    edge.take(*(line(n, device) for n in range(10, 20) for device in devices[1:]))
    edge.take(*(line(n, "bed-1") for n in (1000, 1001, 1002, 0, 1, 2)))
    sent.update(dict.fromkeys(edge.lines()))
    edge.stop()
    restored = EdgeWorld(tmp_path / "copy")
    # Devices send again what they heard no answer to, and go on.
    restored.take(*(line(n, device) for n in range(12, 25) for device in devices))
    again = restored.lines()
    assert len(set(again) & set(sent)) >= 30
    restored.stop()
    with open_world(tmp_path / "platform") as world:
        world.platform.metadata.add_tenant(TENANT, 0)
        report = judged(world, [*sent, *again], edge)
        assert report.findings == []
        assert report.rows > 90
        notes = {entry.verdict for entry in report.entries}
        assert "chain_reset" in notes


def test_a_fork_would_be_found(tmp_path: Path) -> None:
    edge = EdgeWorld(tmp_path / "edge")
    edge.take(line(0), line(1))
    lines = edge.lines()
    last = orjson.loads(lines[-1])
    forged = complete_event(
        orjson.loads(line(1, payload={"uptimeSeconds": 2})),
        tenant_id=TENANT,
        hospital_id=last["hospitalId"],
        chain_id=last["chainId"],
        prev_hash=last["prevHash"],
        criticality=last["criticality"],
    ).canonical
    edge.stop()
    with open_world(tmp_path / "platform") as world:
        world.platform.metadata.add_tenant(TENANT, 0)
        report = judged(world, [*lines, forged], edge)
        assert any(entry.verdict == "fork" for entry in report.findings)
