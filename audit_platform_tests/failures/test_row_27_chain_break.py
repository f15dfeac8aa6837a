"""Row 27: a break in a chain is found, named by tenant, device and day, and touches nothing else.

Then the day is made again from what proves its leaves, and a manifest supersedes the old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from audit_platform.adapters.directory import DirectorySource
from audit_platform.operations.judgement import CHAIN_UNBROKEN, judge_day
from audit_platform.operations.manifests import read_history
from audit_platform.operations.rearchive import rearchive_day
from audit_platform.operations.verify import trusted_keys
from audit_platform.record import fsck, layout
from audit_platform.record.report import Step
from audit_platform_tests import attackers
from audit_platform_tests.failures.receipts import Receipts
from audit_platform_tests.world import DAY, World, open_world

NEXT = layout.next_day(DAY)
TENANTS = ("north", "south")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def receipts(world: World) -> Receipts:
    """Two days of two tenants, sealed; what their sender was promised."""
    made = Receipts()
    edges = [world.edge(tenant) for tenant in TENANTS]
    for day in (DAY, NEXT):
        for edge in edges:
            now = world.clock.now_ms()
            lines = [*([edge.start(now)] if day == DAY else []), *edge.heartbeats(3, 6, now)]
            world.ingest(edge.tenant_id, lines)
            made.took(lines)
        world.archive()
        world.close(day)
        for tenant in TENANTS:
            world.seal(tenant, day)
    return made


def test_row_27_one_changed_row_is_named_and_every_other_day_stays_verified(
    world: World, receipts: Receipts, tmp_path: Path
) -> None:
    assert receipts.check(world.objects_folder, tmp_path)["clean"]
    manifest = read_history(world.platform, "north").counting[DAY]
    span = manifest.chains[-1]
    part = world.objects_folder / manifest.parts[0].object.key
    attackers.flip(part, part.read_bytes().index(bytes.fromhex(span.head)))

    # Signal: a red answer that names tenant, day, device and sequence.
    judged = judge_day(world.platform, "north", DAY)
    chain = next(a for a in judged.answers if a.name == CHAIN_UNBROKEN)
    assert not chain.passed
    rows = [e for e in chain.found if e.step is Step.ROWS]
    assert [(e.tenant_id, e.day, e.device_id, e.sequence) for e in rows] == [
        ("north", DAY, span.device_id, span.last_sequence)
    ]
    # Scope: nothing else is in doubt.
    for tenant, day in (("north", NEXT), ("south", DAY), ("south", NEXT)):
        assert all(a.passed for a in judge_day(world.platform, tenant, day).answers)
    # Everything but the touched row is what the sender was promised, by a checker of its own.
    found = receipts.check(world.objects_folder, tmp_path)
    assert not found["clean"]
    assert (found["lost"], found["not_sent"], found["twice"]) == (0, 0, 0)
    assert found["listed"] == {
        "altered_rows": [f"{manifest.parts[0].object.key}: {span.device_id} {span.last_sequence}"],
        "altered_objects": [manifest.parts[0].object.key],
    }

    # Recovery: the same leaves under the same root; the touched object stays as evidence.
    done = rearchive_day(world.platform, "north", DAY)
    assert [r.old_key for r in done.repaired] == [manifest.parts[0].object.key]
    assert done.root == manifest.root
    for tenant, day in ((t, d) for t in TENANTS for d in (DAY, NEXT)):
        assert all(a.passed for a in judge_day(world.platform, tenant, day).answers)
    report = fsck.check(DirectorySource(world.objects_folder), trusted_keys(world.platform))
    assert report.findings == []
    assert receipts.check(world.objects_folder, tmp_path)["clean"]


def test_row_27_a_rewritten_history_with_good_signatures_breaks_at_the_next_day(
    world: World, receipts: Receipts, tmp_path: Path
) -> None:
    """The holder of the key tells another story of one device, and recomputes everything."""
    assert receipts.lines
    copy = attackers.copy_of(world.objects_folder, tmp_path / "copy")
    (private_file,) = (world.folder / "keys" / "private").glob("*")
    private = load_pem_private_key(private_file.read_bytes(), None)
    assert isinstance(private, Ed25519PrivateKey)
    first, second = attackers.manifests_in(copy, "north")
    rows = attackers.rows_of(copy, first)
    device = rows["device_id"][len(rows) - 1].as_py()
    other = attackers.with_payload(rows, len(rows) - 1, '{"batteryPercent":1}')
    told = attackers.sign(
        attackers.rewrite(copy, first, attackers.rehashed(other, "north")), private
    )
    relinked = attackers.sign(replace(second, previous=told.sha256), private)
    attackers.put_manifests(copy, [told, relinked])
    report = fsck.check(DirectorySource(copy), trusted_keys(world.platform))
    assert [(e.verdict, e.tenant_id, e.day, e.device_id) for e in report.findings] == [
        ("broken_link", "north", NEXT, device)
    ]
