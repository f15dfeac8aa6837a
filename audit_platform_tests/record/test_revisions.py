"""Step 14 of a check: what a revision loses is found, even when the holder of the key signed it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from audit_platform.adapters.directory import DirectorySource
from audit_platform.operations.late import close_again
from audit_platform.operations.verify import trusted_keys
from audit_platform.record import fsck, layout
from audit_platform.record.fsck import TrustedKey
from audit_platform.record.manifest import Manifest
from audit_platform.record.report import Entry, Report, Step
from audit_platform_tests import attackers
from audit_platform_tests.world import DAY, open_world

TENANT = "north"


class Revised:
    """A sealed day of three revisions, and the key that signed them."""

    def __init__(self, objects: Path, keys: list[TrustedKey], private: Ed25519PrivateKey) -> None:
        self.objects, self.keys, self.private = objects, keys, private

    def fsck(self, copy: Path) -> Report:
        return fsck.check(DirectorySource(copy), self.keys)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Revised]:
    folder = tmp_path_factory.mktemp("world")
    with open_world(folder / "home") as world:
        edge = world.edge(TENANT)
        now = world.clock.now_ms()
        world.ingest(TENANT, [edge.start(now), *edge.heartbeats(3, 5, now)])
        world.refuse(TENANT, [edge.event("pump-001", "heartbeat", {"no": 1}, now), b"{"])
        world.archive()
        world.close()
        world.seal(TENANT)
        for _ in range(2):
            late = edge.heartbeats(2, 2, now)
            world.ingest(TENANT, late, at_ms=layout.day_end_ms(DAY) - 1)
            world.archive()
            close_again(world.platform, DAY)
            world.seal(TENANT)
        copy = attackers.copy_of(world.objects_folder, folder / "copy")
        private_files = list((folder / "home" / "keys" / "private").iterdir())
        private = load_pem_private_key(private_files[0].read_bytes(), None)
        assert isinstance(private, Ed25519PrivateKey)
        yield Revised(copy, trusted_keys(world.platform), private)


@pytest.fixture
def copy(record: Revised, tmp_path: Path) -> Path:
    return Path(shutil.copytree(record.objects, tmp_path / "copy"))


def lost(report: Report) -> list[Entry]:
    return [e for e in report.findings if e.step is Step.REVISIONS]


def forge_last(record: Revised, copy: Path, forged: Manifest) -> None:
    """The newest manifest in other words, signed by the holder of the key."""
    attackers.put_manifests(copy, [attackers.sign(forged, record.private)])


def test_an_honest_record_with_revisions_is_clean_and_all_of_it_was_read(record: Revised) -> None:
    report = record.fsck(record.objects)
    assert report.findings == []
    assert (report.manifests, report.rows) == (3, 16 + 4 + 4)
    assert report.objects == 3 + 1  # each revision's part once, the quarantine object once
    assert [m.revision for m in attackers.manifests_in(record.objects, TENANT)] == [1, 2, 3]


def test_a_row_that_a_revision_leaves_out_is_found(record: Revised, copy: Path) -> None:
    last = attackers.manifests_in(copy, TENANT)[-1]
    rows = attackers.rows_of(copy, last)
    forged = attackers.rewrite(copy, last, rows.slice(0, len(rows) - 1))
    forge_last(record, copy, forged)
    (entry,) = lost(record.fsck(copy))
    head = rows["event_hash"][len(rows) - 1].as_py().hex()
    assert entry.message == (
        f"revision 3 lacks 1 of the 20 leaves of revision 2; the first is of event {head}"
    )
    assert (entry.tenant_id, entry.day) == (TENANT, DAY)


def test_a_time_that_a_revision_changes_is_found(record: Revised, copy: Path) -> None:
    last = attackers.manifests_in(copy, TENANT)[-1]
    rows = attackers.rows_of(copy, last)
    at = rows.schema.names.index("ingestion_time")
    times = pc.if_else(
        pc.equal(rows["device_id"], "pump-000"),
        pc.add(rows["ingestion_time"].cast("int64"), 1),
        rows["ingestion_time"].cast("int64"),
    ).cast(rows.schema.field(at).type)
    changed = rows.set_column(at, rows.schema.field(at), times)
    forge_last(record, copy, attackers.rewrite(copy, last, changed))
    (entry,) = lost(record.fsck(copy))
    assert "lacks 7 of the 20 leaves" in entry.message


def test_a_refused_link_and_an_object_that_a_revision_forgets_are_found(
    record: Revised, copy: Path
) -> None:
    last = attackers.manifests_in(copy, TENANT)[-1]
    forge_last(record, copy, replace(last, links=(), quarantine=()))
    messages = sorted(e.message for e in lost(record.fsck(copy)))
    assert messages == [
        "revision 3 does not name an object of revision 2",
        "revision 3 lacks a refused link of revision 2",
    ]


def test_a_replaced_part_that_is_gone_or_changed_is_found(record: Revised, copy: Path) -> None:
    first = attackers.manifests_in(copy, TENANT)[0]
    part = copy / first.parts[0].object.key
    attackers.flip(part, part.stat().st_size // 2)
    assert part.name in {Path(e.key).name for e in record.fsck(copy).findings}
    part.unlink()
    found = record.fsck(copy).findings
    assert [(e.step, e.message) for e in found] == [(Step.OBJECTS, "a named object is missing")]


def test_a_revision_number_that_does_not_follow_is_found(record: Revised, copy: Path) -> None:
    last = attackers.manifests_in(copy, TENANT)[-1]
    forge_last(record, copy, replace(last, revision=4))
    found = record.fsck(copy).findings
    assert [e.message for e in found if e.step is Step.DAYS] == [
        f"revision 4 does not follow on {DAY}"
    ]
